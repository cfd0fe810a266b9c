package payload

import (
	"embed"
	"io/fs"
)

// all: so that the directory's .gitignore keeps this compiling before anything
// was packed.
//
//go:embed all:files
var files embed.FS

// Carried returns the program of that name inside this binary, or [ErrMissing].
func Carried(name string) (Program, error) {
	dir, err := fs.Sub(files, "files")
	if err != nil {
		return Program{}, err
	}
	return Read(dir, name)
}
