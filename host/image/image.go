// Package image owns the root filesystems that sandboxes are made from. A
// template is a root filesystem prepared once and shared read-only by every
// sandbox of it; here it is one EROFS file, which the runtime reads without a
// helper process, and a manifest beside it.
//
// Templates come from Debian packages and other registries ([Store.Prepare]) or
// from an OCI image ([Store.Pull]). A pulled image is hostile: it is never
// unpacked on the host. Its names stay in an index in memory and its contents
// in one nameless file, so no path of a tenant is ever opened.
//
// The package knows nothing of sandboxes, owners or the database; it must not
// learn. A template is addressed by the digest of its bytes alone, and nothing
// inside an image names anything outside it.
package image

import (
	"time"

	"github.com/hutch-sh/hutch"
)

// An Image is a root filesystem that is ready for use.
type Image struct {
	Name    string            `json:"name"`              // what it was prepared or pulled as; not unique
	Digest  hutch.Digest      `json:"digest"`            // SHA-256 of the EROFS file
	Size    int64             `json:"size"`              // bytes of the EROFS file
	Files   int               `json:"files"`             // names in it
	Env     map[string]string `json:"env,omitempty"`     // environment beneath the owner's
	Workdir string            `json:"workdir,omitempty"` // "" means /workspace
	User    string            `json:"user,omitempty"`    // "" means root
	Source  string            `json:"source"`            // "debian:bookworm" or the reference with its digest
	Created time.Time         `json:"created"`
	Parts   []Part            `json:"parts,omitempty"` // what it is made of

	DisplayName string   `json:"display_name"`
	Description string   `json:"description,omitempty"`
	Category    string   `json:"category,omitempty"`
	Language    string   `json:"language,omitempty"`
	Features    []string `json:"features,omitempty"`
	Tags        []string `json:"tags,omitempty"`

	Default hutch.Resources `json:"default"`
	Min     hutch.Resources `json:"min"`
	Max     hutch.Resources `json:"max"`

	// Recipe fingerprints what a prepared image was made from, so that it is
	// made again when that changes and only then. Empty for pulled ones.
	Recipe string `json:"recipe,omitempty"`
}

// A Part is one thing an image is made of and what it weighs.
type Part struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // of its files, before the filesystem's own cost
}

// Template returns what the image says of the template it becomes. The caller
// adds what only it knows: id, owner and whether it is public.
func (i Image) Template() hutch.Template {
	return hutch.Template{
		Name: i.Name, DisplayName: i.DisplayName, Description: i.Description,
		Category: i.Category, Language: i.Language, Features: i.Features, Tags: i.Tags,
		Status: hutch.TemplateActive,
		Image:  i.Digest, Size: i.Size, Env: i.Env, Workdir: i.Workdir,
		Default: i.Default, Min: i.Min, Max: i.Max,
		Created: i.Created, Updated: i.Created,
	}
}
