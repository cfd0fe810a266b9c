package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// longest is the number of lines at which a Go file must have been split.
const longest = 800

// TestFileLength keeps files readable in one sitting.
func TestFileLength(t *testing.T) {
	files(t, func(name string) {
		if filepath.Ext(name) != ".go" {
			return
		}
		src := read(t, name)
		if n := bytes.Count(src, []byte("\n")); n > longest && !generated(src) {
			t.Errorf("%s has %d lines: split it by noun", name, n)
		}
	})
}

// TestNoForeignPlaces checks that no file leans on a place outside the
// repository: what one machine happens to have is not part of the project.
func TestNoForeignPlaces(t *testing.T) {
	outside := []string{"../" + "shared", "/wo" + "rk/"}
	files(t, func(name string) {
		src := read(t, name)
		if bytes.IndexByte(src, 0) >= 0 {
			return // not text
		}
		for _, s := range outside {
			if i := bytes.Index(src, []byte(s)); i >= 0 {
				t.Errorf("%s:%d names %q", name, 1+bytes.Count(src[:i], []byte("\n")), s)
			}
		}
	})
}

// TestDocComments checks that every package says what it is for, and every
// exported name why it exists.
func TestDocComments(t *testing.T) {
	documented := map[string]bool{} // directory -> some file has a package comment
	files(t, func(name string) {
		if filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "tools/") {
			return
		}
		src := read(t, name)
		if generated(src) {
			return
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		dir := filepath.Dir(name)
		documented[dir] = documented[dir] || f.Doc.Text() != ""
		if f.Name.Name == "main" {
			return
		}
		for _, missing := range undocumented(f) {
			t.Errorf("%s: %s has no doc comment", fset.Position(missing.Pos()), missing.Name)
		}
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment: say what it owns and what it must not know", dir)
		}
	}
}

// undocumented returns the exported names of a file that have no doc comment.
// A name in a group may share the group's.
func undocumented(f *ast.File) []*ast.Ident {
	var found []*ast.Ident
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && d.Doc.Text() == "" && exportedReceiver(d) {
				found = append(found, d.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() && s.Doc.Text() == "" && d.Doc.Text() == "" {
						found = append(found, s.Name)
					}
				case *ast.ValueSpec:
					for _, n := range s.Names {
						if n.IsExported() && s.Doc.Text() == "" && s.Comment.Text() == "" && d.Doc.Text() == "" {
							found = append(found, n)
						}
					}
				}
			}
		}
	}
	return found
}

// exportedReceiver reports whether d is a function, or a method of an exported type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	x := d.Recv.List[0].Type
	for {
		switch e := x.(type) {
		case *ast.StarExpr:
			x = e.X
		case *ast.IndexExpr:
			x = e.X
		case *ast.IndexListExpr:
			x = e.X
		case *ast.Ident:
			return e.IsExported()
		default:
			return false
		}
	}
}

// generated reports whether a tool wrote the file, by Go's convention.
func generated(src []byte) bool {
	for line := range bytes.Lines(src) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("// Code generated ")) && bytes.HasSuffix(line, []byte(" DO NOT EDIT.")) {
			return true
		}
		if bytes.HasPrefix(line, []byte("package ")) {
			return false
		}
	}
	return false
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return src
}
