package store

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

const childInserts = 150

// child is what the second process does.
func child(job, path string) error {
	ctx := context.Background()
	db, err := Open(ctx, path)
	if err != nil {
		return err
	}
	switch job {
	case "open":
	case "insert":
		for i := range childInserts {
			if err := db.Insert(ctx, example(fmt.Sprint("child", i)), nil); err != nil {
				return err
			}
		}
	case "live":
		return live(ctx, db)
	default:
		return fmt.Errorf("unknown job %q", job)
	}
	return db.Close()
}

// live makes and ends sandboxes for ever and says so after each acknowledged write.
func live(ctx context.Context, db *DB) error {
	for i := 0; ; i++ {
		sb := example(string(hutch.NewSandboxID()))
		if err := db.Insert(ctx, sb, &Idempotency{Org: 1, Key: string(sb.ID), Created: epoch}); err != nil {
			return err
		}
		fmt.Println(sb.ID, "made")
		if _, err := db.Record(ctx, hutch.Fact{ID: sb.ID, Host: "h1", Gen: 1, Is: hutch.Running, At: epoch}); err != nil {
			return err
		}
		fmt.Println(sb.ID, "runs")
		if i%3 == 0 {
			continue
		}
		if _, _, err := db.Order(ctx, 1, sb.ID, hutch.Gone, hutch.ByRequest); err != nil {
			return err
		}
		fmt.Println(sb.ID, "killed")
		if i%3 == 1 {
			continue
		}
		if _, err := db.Record(ctx, hutch.Fact{ID: sb.ID, Host: "h1", Gen: 2, Is: hutch.Gone, At: epoch}); err != nil {
			return err
		}
		fmt.Println(sb.ID, "gone")
	}
}

// A process killed at any moment has lost nothing it said was done.
func TestKillNineLosesNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), "hutch.db")
	said := map[hutch.SandboxID]string{}
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		cmd := childCommand("live", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		left := 1 + rnd.IntN(200)
		lines := bufio.NewScanner(out)
		for lines.Scan() { // to the end: what was said before the kill counts
			id, word, ok := strings.Cut(lines.Text(), " ")
			if !ok || (word != "made" && word != "runs" && word != "killed" && word != "gone") {
				break // a line cut off by the kill was not said
			}
			said[hutch.SandboxID(id)] = word
			if left--; left == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		if left > 0 {
			t.Fatalf("the child died %d lines early", left)
		}
	}

	db := openAt(t, path)
	var check string
	if err := db.reader.QueryRow("PRAGMA integrity_check").Scan(&check); err != nil || check != "ok" {
		t.Fatal(check, err)
	}
	for id, word := range said {
		sb, err := db.Find(t.Context(), id)
		if err != nil {
			t.Fatalf("%s %s: %v", id, word, err)
		}
		ok := map[string]bool{
			"made":   true,
			"runs":   sb.Is != hutch.Creating && !sb.Started.IsZero(),
			"killed": sb.Want == hutch.Gone && sb.Gen == 2,
			"gone":   sb.Is == hutch.Gone,
		}[word]
		if !ok {
			t.Errorf("%s was %s and is %+v", id, word, sb)
		}
		if got, _, found, err := db.Idempotent(t.Context(), 1, string(id)); err != nil || !found || got != id {
			t.Errorf("%s lost its key: %v %v", id, found, err)
		}
	}
	t.Logf("%d acknowledged sandboxes over %d kills, none lost", len(said), rounds)
}
