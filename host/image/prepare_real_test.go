package image

import (
	"log/slog"
	"os"
	"testing"
	"time"
)

// TestPrepareForReal makes both templates from the real registries into the
// directory HUTCH_PREPARE_DIR, where they stay. It takes minutes and the
// network, so it is asked for by name.
func TestPrepareForReal(t *testing.T) {
	dir := os.Getenv("HUTCH_PREPARE_DIR")
	if dir == "" {
		t.Skip("HUTCH_PREPARE_DIR is not set")
	}
	s, err := Open(dir, Options{ExtraCA: os.Getenv("HUTCH_PREPARE_CA"), Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{Base, CodeInterpreter}
	if n := os.Getenv("HUTCH_PREPARE"); n != "" {
		names = []string{n}
	}
	for _, name := range names {
		start := time.Now()
		step := ""
		img, err := s.Prepare(t.Context(), name, func(p Progress) {
			if p.Step != step {
				t.Logf("%6.1fs %s: %d/%d %s", time.Since(start).Seconds(), p.Template, p.Done, p.Total, p.Step)
				step = p.Step
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%6.1fs %s: %d files, %d bytes, %s", time.Since(start).Seconds(), name, img.Files, img.Size, img.Digest)
		for _, p := range img.Parts {
			t.Logf("        %-20s %6.1f MB", p.Name, float64(p.Bytes)/1e6)
		}
		if err := s.Verify(t.Context(), img.Digest); err != nil {
			t.Error(err)
		}
	}
}
