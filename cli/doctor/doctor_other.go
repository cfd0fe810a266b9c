//go:build !linux

package doctor

import "context"

// Run returns [ErrNotLinux].
func Run(context.Context, Options) (Report, error) { return Report{}, ErrNotLinux }
