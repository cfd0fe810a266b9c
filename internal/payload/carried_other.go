//go:build !linux

package payload

import "fmt"

// Carried returns [ErrMissing]: only hutch for Linux runs sandboxes, so only it
// carries their programs.
func Carried(name string) (Program, error) {
	return Program{}, fmt.Errorf("%s: %w", name, ErrMissing)
}
