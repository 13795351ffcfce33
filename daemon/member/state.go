package member

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"baystream/daemon/cluster"
)

// State is what a module knows by itself about where it belongs.
type State struct {
	Domain string `json:"domain"` // id; empty: unclaimed
	Name   string `json:"name"`   // of the domain
	Role   string `json:"role"`
	// Claimed: the module was taken into a domain that others had founded. What
	// it was alone before is not of that domain (Boot.Etcd).
	Claimed bool           `json:"claimed,omitempty"`
	Peers   []cluster.Peer `json:"peers,omitempty"` // to join with, and whom to ask when its own state is damaged
	// Epochs are the epochs of the storage groups when this module last took
	// part, by group.
	Epochs map[string]uint64 `json:"epochs,omitempty"`
}

// ErrForeign says that a module belongs to another domain.
var ErrForeign = errors.New("this module belongs to another domain; only a factory reset makes it leave")

const stateFile = "member.json"

// Load reads the state in dir; one that was never saved is that of an
// unclaimed module. A file that cannot be read is an error, never an unclaimed
// module: it may belong to somebody.
func Load(dir string) (State, error) {
	var s State
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("member: which domain this module belongs to: %w", err)
	}
	return s, nil
}

// Save writes the state for good. It never changes the domain of a module that
// has one: that takes Reset.
func (s State) Save(dir string) error {
	have, err := Load(dir)
	if err != nil {
		return err
	}
	if have.Domain != "" && have.Domain != s.Domain {
		return fmt.Errorf("member: domain %s: %w", s.Domain, ErrForeign)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("member: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("member: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, stateFile), b, 0o600); err != nil {
		return fmt.Errorf("member: %w", err)
	}
	return nil
}

// Reset forgets the domain, as a part of a factory reset.
func Reset(dir string) error {
	if err := os.Remove(filepath.Join(dir, stateFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("member: %w", err)
	}
	return nil
}
