package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path"
	"strings"
	"time"

	"baystream/daemon/domain"
)

const (
	stallTimeout = time.Minute      // a stream in which nothing moves for so long is dead
	maxField     = 64 << 10         // bytes of a form field before the file
	maxDrain     = 256 << 20        // bytes of a refused upload read away, so that the client reads the answer
	drainTime    = 20 * time.Second // and for how long
)

// steady moves the read deadline on as long as bytes arrive.
type steady struct {
	io.Reader
	rc *http.ResponseController
	at time.Time
}

func (s *steady) Read(p []byte) (int, error) {
	if now := time.Now(); now.Sub(s.at) > time.Second {
		s.at = now
		_ = s.rc.SetReadDeadline(now.Add(stallTimeout)) // a recorder in a test has none
	}
	n, err := s.Reader.Read(p)
	if err != nil {
		_ = s.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// steadyWriter moves the write deadline on as long as bytes leave.
type steadyWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
	at time.Time
}

func (s *steadyWriter) Write(p []byte) (int, error) {
	if now := time.Now(); now.Sub(s.at) > time.Second {
		s.at = now
		_ = s.rc.SetWriteDeadline(now.Add(stallTimeout))
	}
	return s.ResponseWriter.Write(p)
}

// upload is a file on its way in, never held in memory.
type upload struct {
	Name, Description, Filename string
	io.Reader
}

func isJSON(r *http.Request) bool {
	t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	t = strings.ToLower(strings.TrimSpace(t))
	return t == "" || t == "application/json"
}

// receive hands the file in r to take and answers the task that take returns.
// It knows multipart forms and bare bodies; name and description come from the
// URL, or from form fields before the file.
func (s *Server) receive(w http.ResponseWriter, r *http.Request, take func(upload) (domain.Task, error)) error {
	rc := http.NewResponseController(w)
	body := &steady{Reader: r.Body, rc: rc}
	_ = rc.SetWriteDeadline(time.Time{})
	q := r.URL.Query()
	up := upload{Name: q.Get("name"), Description: q.Get("description"), Filename: r.Header.Get("Uploadfilename"), Reader: body}
	err := up.open(r.Header.Get("Content-Type"), body)
	var t domain.Task
	if err == nil {
		up.Filename = path.Base(strings.ReplaceAll(up.Filename, `\`, "/"))
		if up.Filename == "." || up.Filename == "/" {
			up.Filename = ""
		}
		if up.Filename == "" && up.Name == "" {
			err = domain.Errorf(domain.Invalid, "upload", "has neither a file name nor a name").
				Fix("Name the file in the multipart part or in the header uploadfilename.")
		}
	}
	if err == nil {
		t, err = take(up)
	}
	if err != nil {
		_ = rc.SetReadDeadline(time.Now().Add(drainTime))
		_, _ = io.CopyN(io.Discard, r.Body, maxDrain)
	}
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Now().Add(answerTimeout))
	return s.accepted(w, t, err)
}

// open finds the file in body.
func (u *upload) open(contentType string, body io.Reader) error {
	if !strings.HasPrefix(strings.ToLower(strings.TrimSpace(contentType)), "multipart/") {
		return nil
	}
	b := boundary(contentType)
	if b == "" {
		return domain.Errorf(domain.Invalid, "header Content-Type", "%q names no boundary", contentType).
			Fix("Send multipart/form-data with a boundary.")
	}
	form := multipart.NewReader(body, b)
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return domain.Errorf(domain.Invalid, "upload", "has no file part").Fix(`Send the file as the part "file".`)
		}
		if err != nil {
			return &domain.Error{Kind: domain.Invalid, Object: "upload", Message: "is not a multipart form", Err: err,
				Remedy: []string{"Send multipart/form-data as RFC 7578 has it."}}
		}
		if part.FileName() != "" || part.FormName() == "file" {
			if name := part.FileName(); name != "" {
				u.Filename = name
			}
			u.Reader = &exact{part: part}
			return nil
		}
		v, err := io.ReadAll(io.LimitReader(part, maxField+1))
		if err != nil || len(v) > maxField {
			return &domain.Error{Kind: domain.Invalid, Object: "form field " + part.FormName(),
				Message: fmt.Sprintf("is longer than %d KiB or broken off", maxField>>10), Err: err}
		}
		switch part.FormName() {
		case "name":
			u.Name = string(v)
		case "description":
			u.Description = string(v)
		}
	}
}

// exact tells a file that ended from an upload that broke off, which
// multipart reports in words only.
type exact struct{ part *multipart.Part }

func (e *exact) Read(p []byte) (int, error) {
	n, err := e.part.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &domain.Error{Kind: domain.Invalid, Object: "upload", Message: "broke off",
			Remedy: []string{"Send the file again."}, Err: err}
	}
	return n, err
}

// boundary reads the boundary out of a Content-Type, also where it holds
// characters that would need quotes.
func boundary(contentType string) string {
	if _, params, err := mime.ParseMediaType(contentType); err == nil {
		return params["boundary"]
	}
	at := strings.Index(strings.ToLower(contentType), "boundary=")
	if at < 0 {
		return ""
	}
	b, _, _ := strings.Cut(contentType[at+len("boundary="):], ";")
	return strings.Trim(strings.TrimSpace(b), `"`)
}

// send answers a stream as a download called name.
func (s *Server) send(w http.ResponseWriter, r *http.Request, src io.ReadCloser, name, contentType string) error {
	defer src.Close()
	out := &steadyWriter{ResponseWriter: w, rc: http.NewResponseController(w)}
	w.Header().Set("Content-Type", contentType)
	if name != "" {
		w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	}
	if seeker, ok := src.(io.ReadSeeker); ok {
		http.ServeContent(out, r, "", time.Time{}, seeker)
		return nil
	}
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.Copy(out, src); err != nil {
		s.Log.Warn("download broke off", "path", r.URL.Path, "err", err)
		panic(http.ErrAbortHandler) // so that the client does not take a part for the whole
	}
	return nil
}

// sendLive answers a stream that ends with its reader: each piece goes out at
// once.
func (s *Server) sendLive(w http.ResponseWriter, r *http.Request, src io.ReadCloser, contentType string) error {
	defer src.Close()
	stop := context.AfterFunc(r.Context(), func() { src.Close() })
	defer stop()
	w.Header().Set("Content-Type", contentType)
	out := &steadyWriter{ResponseWriter: w, rc: http.NewResponseController(w)}
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := out.Write(buf[:n]); werr != nil {
				return nil // the reader has gone
			}
			_ = out.rc.Flush()
		}
		if err != nil {
			return nil
		}
	}
}
