package guest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/guest/file"
)

// Limits on files that pass through the API, in bytes.
const (
	maxWrite     = 256 << 20 // the JSON of a write; uploads are limited by the disk
	maxFormField = 64 << 10
	inMemory     = 1 << 20 // larger files are sent as they are read
	maxDrain     = 1 << 30 // of a refused upload, so that its client sees the answer
	drainTime    = 10 * time.Second
	writeBuffer  = 256 << 10
	readBuffer   = 256 << 10 // the form's own reader would fetch 4 KiB at a time
)

// pathOf returns the absolute path a request names.
func (a *Agent) pathOf(r *http.Request) (string, error) {
	return file.Resolve(query(r, "path"), a.home())
}

// readFile sends a file as text.
func (a *Agent) readFile(w http.ResponseWriter, r *http.Request) error {
	path, err := a.pathOf(r)
	if err != nil {
		return err
	}
	f, _, err := file.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, inMemory+1))
	if err != nil {
		return api.AgentFileError(api.CodeFileOperationFailed, "Cannot read "+path+": "+err.Error(), path, err)
	}
	if len(head) <= inMemory {
		answer(w, r, api.FileContent{Content: string(head), Path: path, Size: int64(len(head))})
		return nil
	}
	// Files may be larger than the sandbox's memory. An answer that has begun can
	// only be cut off when the file cannot be read to its end.
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	out := bufio.NewWriterSize(w, writeBuffer)
	if _, err := out.WriteString(`{"content":"`); err != nil {
		return err
	}
	size, err := file.WriteString(out, io.MultiReader(bytes.NewReader(head), f))
	if err != nil {
		return err
	}
	rest, err := json.Marshal(struct {
		Path string `json:"path"`
		Size int64  `json:"size"`
	}{path, size})
	if err != nil {
		return err
	}
	if _, err := out.Write(append([]byte(`",`), rest[1:]...)); err != nil {
		return err
	}
	return out.Flush()
}

// downloadFile sends a file as it is, or the ranges asked for.
func (a *Agent) downloadFile(w http.ResponseWriter, r *http.Request) error {
	path, err := a.pathOf(r)
	if err != nil {
		return err
	}
	f, fi, err := file.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": fi.Name()}))
	if fi.Size() > 0 {
		http.ServeContent(w, r, "", fi.ModTime(), f)
		return nil
	}
	// Files of /proc have no size and yet a content.
	if r.Method == http.MethodHead {
		return nil
	}
	_, err = io.Copy(w, f)
	return err
}

// writeFile stores content that came in JSON.
func (a *Agent) writeFile(w http.ResponseWriter, r *http.Request) error {
	m, err := file.ReadMessage(a.body(w, r, maxWrite), func(path string) (*file.Draft, error) {
		if path != "" {
			var err error
			if path, err = file.Resolve(path, a.home()); err != nil {
				return nil, err
			}
		}
		return file.NewDraft(path, a.home())
	})
	if err != nil {
		a.drain(w, r)
		return bodyOr(err)
	}
	defer m.Discard()
	path, err := file.Resolve(m.Path, a.home())
	if err != nil {
		return err
	}
	mode, err := file.ParseMode(m.Mode)
	switch {
	case err != nil:
		return err
	case m.Content == nil:
		return api.AgentError(api.CodeMissingParameter, "content is needed")
	}
	draft := m.Content
	switch strings.ToLower(m.Encoding) {
	case "base64":
		if draft, err = m.Decode(path); err != nil {
			return err
		}
		defer draft.Discard()
	case "", "utf-8", "utf8", "text":
	default:
		return api.AgentError(api.CodeInvalidRequest, fmt.Sprintf("encoding %.20q is not known; use base64 or none", m.Encoding))
	}
	if err := draft.Commit(path, mode, m.Overwrite); err != nil {
		return err
	}
	a.stored(w, r, "File written", path, draft.Size())
	return nil
}

func (a *Agent) stored(w http.ResponseWriter, r *http.Request, msg, path string, size int64) {
	answer(w, r, api.FileResponse{Success: true, Message: msg + ": " + path, Path: path, Size: size, Timestamp: a.timestamp()})
}

// bodyOr leaves errors that are answers alone and turns the rest, which the
// body's reader gave, into one.
func bodyOr(err error) error {
	if api.StatusOf(err) != http.StatusInternalServerError {
		return err
	}
	return bodyError(err)
}

// uploadFile stores a file that came as a form.
func (a *Agent) uploadFile(w http.ResponseWriter, r *http.Request) error {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "multipart/form-data" || params["boundary"] == "" {
		return api.AgentError(api.CodeInvalidRequest, "An upload must be a form: multipart/form-data with the fields path and file")
	}
	home := a.home()
	u := upload{path: query(r, "path"), home: home, resolve: func(p string) (string, error) { return file.Resolve(p, home) }}
	defer u.discard()
	if err := u.read(multipart.NewReader(bufio.NewReaderSize(a.body(w, r, 0), readBuffer), params["boundary"])); err != nil {
		a.drain(w, r)
		return bodyOr(err)
	}
	path, err := u.resolve(u.path)
	if err != nil {
		return err
	}
	mode, err := file.ParseMode(u.mode)
	switch {
	case err != nil:
		return err
	case u.draft == nil:
		return api.AgentError(api.CodeMissingParameter, "The form has no file")
	}
	if err := u.draft.Commit(path, mode, u.overwrite != "false"); err != nil {
		return err
	}
	a.stored(w, r, "File uploaded", path, u.draft.Size())
	return nil
}

// An upload is a form on its way to a file.
type upload struct {
	path, mode, overwrite string
	home                  string // where to write when the path is not known yet
	resolve               func(path string) (string, error)
	draft                 *file.Draft
}

func (u *upload) discard() {
	if u.draft != nil {
		u.draft.Discard()
	}
}

// read reads the whole form. The file goes to disk as it comes, beside its
// destination if the path came before it. Nothing is replaced until the form
// has ended as forms end.
func (u *upload) read(form *multipart.Reader) error {
	for {
		part, err := form.NextPart()
		if err == io.EOF { //nolint:errorlint // wrapped, it means that the form was cut off
			return nil
		} else if err != nil {
			return formError(err)
		}
		if part.FormName() == "file" || part.FileName() != "" {
			if err := u.store(part); err != nil {
				return err
			}
			continue
		}
		b, err := io.ReadAll(io.LimitReader(part, maxFormField+1))
		if err != nil {
			return formError(err)
		}
		if len(b) > maxFormField {
			return api.AgentError(api.CodeRequestTooLarge, fmt.Sprintf("The form's field %.40q is longer than 64 KiB", part.FormName()))
		}
		switch part.FormName() {
		case "path":
			u.path = string(b)
		case "mode":
			u.mode = string(b)
		case "overwrite":
			u.overwrite = strings.ToLower(string(b))
		}
	}
}

// store copies the form's file to a draft.
func (u *upload) store(part io.Reader) error {
	if u.draft != nil {
		return api.AgentError(api.CodeInvalidRequest, "The form has two files; upload one at a time")
	}
	path := u.path
	var err error
	if path != "" {
		if path, err = u.resolve(path); err != nil {
			return err
		}
	}
	if u.draft, err = file.NewDraft(path, u.home); err != nil {
		return err
	}
	out := bufio.NewWriterSize(u.draft, writeBuffer)
	if _, err := io.Copy(out, onlyReader{part}); err != nil {
		return formError(err)
	}
	return out.Flush()
}

// onlyReader hides everything else a reader can do.
type onlyReader struct{ io.Reader }

// formError tells what is wrong with the form from what is wrong with the disk
// and with the connection.
func formError(err error) error {
	if api.StatusOf(err) != http.StatusInternalServerError || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if be := bodyError(err); errors.Is(err, io.EOF) || api.StatusOf(be) != http.StatusBadRequest {
		return be
	}
	return api.AgentError(api.CodeInvalidRequest, "The form is not valid: "+err.Error())
}

// drain reads what a refused client is still sending, within limits: otherwise
// it would see its connection break and not the answer.
func (a *Agent) drain(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, r.Body, maxDrain) // for the client's sake only
	_ = rc.SetReadDeadline(time.Time{})
}

// listFiles lists a directory.
func (a *Agent) listFiles(w http.ResponseWriter, r *http.Request) error {
	path := query(r, "path")
	if path == "" {
		path = a.home()
	}
	path, err := file.Resolve(path, a.home())
	if err != nil {
		return err
	}
	list, err := file.List(path)
	if err != nil {
		return err
	}
	answer(w, r, api.FileList{Files: list, Path: path, Count: len(list)})
	return nil
}

// fileExists says whether something is at a path.
func (a *Agent) fileExists(w http.ResponseWriter, r *http.Request) error {
	path, err := a.pathOf(r)
	if err != nil {
		return err
	}
	exists, dir := file.Exists(path)
	answer(w, r, api.FileExists{Exists: exists, Path: path, IsDirectory: dir})
	return nil
}

// makeDirectory makes a directory and its parents.
func (a *Agent) makeDirectory(w http.ResponseWriter, r *http.Request) error {
	var req api.MkdirRequest
	if err := a.decode(w, r, &req); err != nil {
		return err
	}
	path, err := file.Resolve(req.Path, a.home())
	if err != nil {
		return err
	}
	mode, err := file.ParseMode(req.Mode)
	if err != nil {
		return err
	}
	if err := file.Mkdir(path, mode); err != nil {
		return err
	}
	a.stored(w, r, "Directory created", path, 0)
	return nil
}

// removeFile removes a file or a whole directory.
func (a *Agent) removeFile(w http.ResponseWriter, r *http.Request) error {
	path, err := a.pathOf(r)
	if err != nil {
		return err
	}
	if err := file.Remove(path, a.cfg.Protected...); err != nil {
		return err
	}
	a.stored(w, r, "Removed", path, 0)
	return nil
}
