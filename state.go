package hutch

// A State is a stage in a sandbox's life.
type State string

// States. Creating is where every sandbox begins; Gone is terminal and means
// that nothing of it is left on any host.
const (
	Creating State = "creating"
	Running  State = "running"
	Paused   State = "paused"
	Stopped  State = "stopped"
	Failed   State = "error"
	Gone     State = "gone"
)

// States lists every state, for tests and tables.
var States = []State{Creating, Running, Paused, Stopped, Failed, Gone}

// next is the whole table of what a sandbox may be ordered to become.
var next = map[State][]State{
	Creating: {Gone},
	Running:  {Paused, Stopped, Gone},
	Paused:   {Running, Stopped, Gone},
	Stopped:  {Running, Gone},
	Failed:   {Gone},
	Gone:     {},
}

// May reports whether a sandbox that is s may be ordered to become t. Being t
// already is not a change and is not in the table.
func (s State) May(t State) bool {
	for _, x := range next[s] {
		if x == t {
			return true
		}
	}
	return false
}
