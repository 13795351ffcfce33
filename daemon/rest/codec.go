package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"baystream/daemon/domain"
)

const (
	maxJSON     = 16 << 20 // bytes of a JSON body; plan scripts are the largest
	bodyTimeout = time.Minute
)

// encode answers v as JSON.
func (s *Server) encode(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		s.Log.Debug("answer not sent", "err", err)
	}
}

// ok answers v with 200.
func (s *Server) ok(w http.ResponseWriter, v any) error {
	s.encode(w, http.StatusOK, v)
	return nil
}

// accepted answers a task that has begun (spec section 2.3).
func (s *Server) accepted(w http.ResponseWriter, t domain.Task, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Location", t.URI)
	s.encode(w, http.StatusAccepted, taskView(t))
	return nil
}

// decode reads a JSON body of any declared Content-Type into v.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := readBody(w, r)
	if err != nil {
		return err
	}
	if len(strings.TrimSpace(string(b))) == 0 {
		return domain.Errorf(domain.Invalid, "request body", "is empty").Fix("Send a JSON object.")
	}
	err = unmarshal(b, v)
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typ):
		return domain.Errorf(domain.Invalid, "request body", "%s cannot be a JSON %s", memberName(typ.Field), typ.Value).
			Fix("Send the type that docs/api.md names; the interface's values are mostly strings.")
	case err != nil:
		return &domain.Error{Kind: domain.Invalid, Object: "request body", Message: "is not JSON",
			Remedy: []string{"Send a JSON object encoded in UTF-8."}, Err: err}
	}
	return nil
}

func memberName(field string) string {
	if field == "" {
		return "the whole"
	}
	return "member " + field
}

// readBody reads a small body whole, within a time limit.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // a recorder in a test has no deadlines
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSON))
	_ = rc.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, domain.Errorf(domain.TooLarge, "request body", "is larger than %d MiB", maxJSON>>20)
	case err != nil:
		return nil, &domain.Error{Kind: domain.Invalid, Object: "request body", Message: "did not arrive", Err: err}
	}
	return b, nil
}

// quotedBools is how many quoted booleans of one body are understood.
const quotedBools = 64

// unmarshal is json.Unmarshal that also takes a boolean in quotes, as clients
// send them (HPE's Python examples: "hpProvided": "false").
func unmarshal(b []byte, v any) error {
	for range quotedBools {
		err := json.Unmarshal(b, v)
		var typ *json.UnmarshalTypeError
		if !errors.As(err, &typ) || typ.Type.Kind() != reflect.Bool {
			return err
		}
		before, after := b[:typ.Offset], b[typ.Offset:]
		for _, word := range []string{"true", "false"} {
			if quoted := []byte(`"` + word + `"`); bytes.HasSuffix(before, quoted) {
				b = slices.Concat(bytes.TrimSuffix(before, quoted), []byte(word), after)
			}
		}
		if len(b) == len(before)+len(after) {
			return err
		}
	}
	return json.Unmarshal(b, v)
}
