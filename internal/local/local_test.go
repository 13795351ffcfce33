package local

import (
	"os"
	"path/filepath"
	"testing"

	"baystream/internal/password"
)

func TestAdministratorsAreThoseOfTheNewestPlace(t *testing.T) {
	run, state := t.TempDir(), t.TempDir()
	if a, err := ReadAdministrators(run, state); err != nil || len(a) != 0 {
		t.Errorf("before anything was written: %v, %v", a, err)
	}
	hash := func(word string) string { return password.Hash(word, password.Cost{Time: 1, Memory: 64}) }
	for _, err := range []error{Administrators{"alice": hash("old")}.Write(state), Administrators{"alice": hash("new")}.Write(run)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a, err := ReadAdministrators(run, state)
	if err != nil || !a.Check(" Alice ", "new") || a.Check("alice", "old") || a.Check("bob", "") || a.Check("alice", "") {
		t.Errorf("%v, %v let the wrong people in", a, err)
	}
	if st, err := os.Stat(filepath.Join(run, file)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(run, file), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAdministrators(run, state); err == nil {
		t.Error("a broken file gives way to an older one")
	}
}
