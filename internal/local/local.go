// Package local is what the daemon and the serial console of one module agree
// on: where they meet, and how the console knows the administrators while the
// daemon is dead.
//
// Everything lies below Dir, which only root can enter. The daemon serves its
// interface on Socket, without TLS, from the moment it has its state: also
// without a network. It keeps Administrators there, and a copy beside its state
// for the time after a reboot.
package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"baystream/internal/password"
)

// Paths on a module.
const (
	Dir     = "/run/baystream"
	Socket  = Dir + "/rest.sock"
	State   = "/data" // of the daemon, on the local partition
	Ring    = "/run/log/ring"
	Control = "/run/init.sock" // of the first process
)

const file = "administrators.json"

// Administrators are the users who may use the console without the daemon: name
// to hash of the password.
type Administrators map[string]string

// Write stores them below dir, unless they are there already.
func (a Administrators) Write(dir string) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, file)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return nil
	}
	return renameio.WriteFile(path, b, 0o600)
}

// ReadAdministrators returns those of the first directory that has them; none
// is no error.
func ReadAdministrators(dirs ...string) (Administrators, error) {
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		a := Administrators{}
		if err := json.Unmarshal(b, &a); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, file), err)
		}
		return a, nil
	}
	return Administrators{}, nil
}

// Check says whether name is an administrator with the password.
func (a Administrators) Check(name, word string) bool {
	hash, known := a[strings.ToLower(strings.TrimSpace(name))]
	if !known {
		hash = password.Hash("", password.Default) // costs as much as a check
	}
	return password.Check(hash, word) && known
}
