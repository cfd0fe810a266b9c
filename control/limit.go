package control

import (
	"container/list"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
)

// maxLimited bounds how many keys' counters are kept. A key that is forgotten
// begins anew; only keys that authenticated are kept at all.
const maxLimited = 10_000

// limits counts the requests of each key.
type limits struct {
	creates, requests int // per minute

	mu     sync.Mutex
	recent *list.List               // of *counter, the last used first
	byKey  map[string]*list.Element // into recent
}

// A counter is what is counted of one key.
type counter struct {
	key      string
	creates  *rate.Limiter
	requests *rate.Limiter
	touched  time.Time // when its last use was last written down
}

func newLimits(creates, requests int) *limits {
	return &limits{creates: creates, requests: requests, recent: list.New(), byKey: map[string]*list.Element{}}
}

// take counts a request of key against c's limit, tells h how the limit stands,
// and returns Exhausted when there is nothing left of it.
func (l *limits) take(h http.Header, key string, c class, now time.Time) error {
	l.mu.Lock()
	n := l.counterLocked(key)
	lim := n.requests
	if c == create {
		lim = n.creates
	}
	allowed := lim.AllowN(now, 1)
	left := lim.TokensAt(now)
	l.mu.Unlock()

	perMinute := lim.Burst()
	missing := time.Duration((float64(perMinute) - left) / float64(lim.Limit()) * float64(time.Second))
	h.Set("X-RateLimit-Limit", strconv.Itoa(perMinute))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, int(left))))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(now.Add(missing+time.Second-1).Unix(), 10)) // when all of it is there again
	if allowed {
		return nil
	}
	wait := max(1, int(math.Ceil((1-left)/float64(lim.Limit()))))
	return &hutch.Error{
		Kind: hutch.Exhausted, Op: "control.take",
		Msg:     "Rate limit exceeded: " + strconv.Itoa(perMinute) + " requests of this kind a minute. Try again in " + strconv.Itoa(wait) + " s",
		Details: map[string]any{api.RetryAfterDetail: wait, "limit": perMinute},
	}
}

// touch reports whether key's last use should be written down now, and takes it
// that it will be.
func (l *limits) touch(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.counterLocked(key)
	if now.Sub(n.touched) < touchEvery {
		return false
	}
	n.touched = now
	return true
}

// counterLocked returns key's counter, which then is the last to be forgotten.
func (l *limits) counterLocked(key string) *counter {
	if e, ok := l.byKey[key]; ok {
		l.recent.MoveToFront(e)
		return e.Value.(*counter)
	}
	if l.recent.Len() >= maxLimited {
		oldest := l.recent.Remove(l.recent.Back()).(*counter)
		delete(l.byKey, oldest.key)
	}
	n := &counter{
		key:      key,
		creates:  rate.NewLimiter(rate.Limit(l.creates)/60, l.creates),
		requests: rate.NewLimiter(rate.Limit(l.requests)/60, l.requests),
	}
	l.byKey[key] = l.recent.PushFront(n)
	return n
}
