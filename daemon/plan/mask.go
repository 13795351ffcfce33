package plan

import (
	"bytes"
	"io"
	"sort"
)

// masker replaces secrets in what is written through it, also those that two
// writes share. What may be the start of a secret waits for more, or for Close.
type masker struct {
	w       io.Writer
	secrets [][]byte // longest first
	held    []byte
}

func newMasker(w io.Writer, secrets []string) *masker {
	m := &masker{w: w}
	for _, s := range secrets {
		if s != "" {
			m.secrets = append(m.secrets, []byte(s))
		}
	}
	sort.Slice(m.secrets, func(i, j int) bool { return len(m.secrets[i]) > len(m.secrets[j]) })
	return m
}

func (m *masker) Write(p []byte) (int, error) {
	m.held = append(m.held, p...)
	return len(p), m.emit(false)
}

// Close writes what is still held. It leaves the writer below open.
func (m *masker) Close() error { return m.emit(true) }

func (m *masker) emit(final bool) error {
	var out []byte
	in := m.held
scan:
	for len(in) > 0 {
		for _, s := range m.secrets {
			if bytes.HasPrefix(in, s) {
				out, in = append(out, mask...), in[len(s):]
				continue scan
			}
			if !final && len(in) < len(s) && bytes.HasPrefix(s, in) {
				break scan
			}
		}
		out, in = append(out, in[0]), in[1:]
	}
	m.held = append(m.held[:0], in...)
	if len(out) == 0 {
		return nil
	}
	_, err := m.w.Write(out)
	return err
}

// maskText is s with secrets replaced.
func maskText(s string, secrets []string) string {
	var b bytes.Buffer
	m := newMasker(&b, secrets)
	_, _ = io.WriteString(m, s) // a bytes.Buffer does not fail
	_ = m.Close()
	return b.String()
}
