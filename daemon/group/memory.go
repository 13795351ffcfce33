package group

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"baystream/daemon/pair"
)

// memory is the planner's, and where it lies. The file must be on something
// that ends with the kernel: what it says of copies is not true after a boot.
type memory struct {
	pair.Memory
	path string
	last []byte
}

func (m *memory) load() error {
	if m.path == "" {
		return nil
	}
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var was pair.Memory
	if err := json.Unmarshal(b, &was); err != nil {
		return fmt.Errorf("%s: %w", m.path, err)
	}
	m.Memory, m.last = was, b
	return nil
}

// save writes what has changed, whole or not at all.
func (m *memory) save() error {
	b, err := json.Marshal(&m.Memory)
	if err != nil || m.path == "" || bytes.Equal(b, m.last) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(m.path+".new", b, 0o600); err != nil {
		return err
	}
	if err := os.Rename(m.path+".new", m.path); err != nil {
		return err
	}
	m.last = b
	return nil
}
