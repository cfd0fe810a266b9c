package undo

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	var s Stack
	var ran []string
	fail := map[string]bool{"b": true, "d": true}
	for _, name := range []string{"a", "b", "c", "d"} {
		s.Push(name, func() error {
			ran = append(ran, name)
			if fail[name] {
				return errors.New("broken")
			}
			return nil
		})
	}
	err := s.Run()
	if err == nil || !strings.Contains(err.Error(), "b: broken") || !strings.Contains(err.Error(), "d: broken") {
		t.Errorf("%v", err)
	}
	if !slices.Equal(ran, []string{"d", "c", "b", "a"}) || s.Len() != 2 {
		t.Errorf("ran %v, %d left", ran, s.Len())
	}
	ran, fail = nil, nil
	if err := s.Run(); err != nil || !slices.Equal(ran, []string{"d", "b"}) || s.Len() != 0 {
		t.Errorf("again: %v, ran %v, %d left", err, ran, s.Len())
	}
	if err := s.Run(); err != nil {
		t.Error(err)
	}
}
