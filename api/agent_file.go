package api

// A FileContent is the answer to GET /files/read. Bytes that are not UTF-8 are
// replaced; GET /files/download gives the bytes themselves.
type FileContent struct {
	Content string `json:"content"`
	Path    string `json:"path"`
	Size    int64  `json:"size"` // bytes of the file
}

// A FileResponse says that a file was written, made or removed.
type FileResponse struct {
	Success   bool   `json:"success"`
	Message   string `json:"message"`
	Path      string `json:"path"`
	Size      int64  `json:"size"`
	Timestamp Time   `json:"timestamp"`
}

// A FileExists is the answer to GET /files/exists.
type FileExists struct {
	Exists      bool   `json:"exists"`
	Path        string `json:"path"`
	IsDirectory bool   `json:"is_directory"`
}

// A FileInfo is one entry of a directory. Each field that clients name
// differently is there under both names.
type FileInfo struct {
	Name         string `json:"name"`
	Path         string `json:"path"`
	Size         int64  `json:"size"`
	IsDirectory  bool   `json:"is_directory"` // a link to a directory is one
	IsDir        bool   `json:"is_dir"`
	IsSymlink    bool   `json:"is_symlink"`
	Target       string `json:"target,omitempty"` // of a link
	Permissions  string `json:"permissions"`      // as ls writes them
	Mode         string `json:"mode"`             // octal, four digits
	ModifiedTime Time   `json:"modified_time"`
	Modified     Time   `json:"modified"`
}

// A FileList is the answer to GET /files/list.
type FileList struct {
	Files []FileInfo `json:"files"` // by name; never null
	Path  string     `json:"path"`
	Count int        `json:"count"`
}

// A MkdirRequest is the body of POST /files/mkdir.
type MkdirRequest struct {
	Path string `json:"path"`
	Mode string `json:"mode"` // octal; default 0755
}
