package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// report tells what one needs to know of a test that failed: each module's last
// lines, where the networks' last frames and the whole logs are, and how to run
// the test, or one module, again.
func (f *Frame) report(t testing.TB) {
	t.Logf("to run the test again: %s", again(t.Name()))
	dir, err := f.keep(t)
	if err != nil {
		t.Logf("keep what the frame left: %v", err)
	}
	t.Logf("kept in %s: the last frames of each network (pcap), the logs of each console and of QEMU", dir)
	for _, g := range f.rig.frames {
		for _, b := range g.Bays {
			if b.Console().Mark() > 0 || b.On() {
				t.Logf("%s (%s): the console's last lines:\n%s\nto run it by hand: %s",
					b.Name(), b.Identity.Location, b.Console().Tail(60), b.CommandLine())
			}
		}
	}
}

// keep writes what the frame left into a directory that stays, below
// BAYSTREAM_ARTIFACTS if that is set.
func (f *Frame) keep(t testing.TB) (dir string, err error) {
	parent := os.Getenv("BAYSTREAM_ARTIFACTS")
	if parent != "" {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return "", err
		}
	}
	dir, err = os.MkdirTemp(parent, "baystream-"+strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		return "", err
	}
	var errs []error
	for _, n := range f.rig.networks {
		w, err := os.Create(filepath.Join(dir, n.name+".pcap"))
		if err != nil {
			return dir, err
		}
		errs = append(errs, n.WriteRecent(w), w.Close())
	}
	logs, err := filepath.Glob(filepath.Join(f.rig.cfg.Dir, "*.log"))
	errs = append(errs, err)
	for _, from := range logs {
		b, err := os.ReadFile(from)
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, filepath.Base(from)), b, 0o644))
	}
	return dir, errors.Join(errs...)
}

// again is a command line, for the top of the tree, that runs a test once more.
func again(name string) string {
	pkg := "./..."
	if root, err := moduleRoot(); err == nil {
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(root, wd); err == nil {
				pkg = "./" + rel
			}
		}
	}
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(p)+"$")
	}
	env := ""
	if image := os.Getenv("BAYSTREAM_IMAGE"); image != "" {
		env = "BAYSTREAM_IMAGE=" + image + " "
	}
	return fmt.Sprintf("%sgo test -count=1 -v -run '%s' %s", env, strings.Join(parts, "/"), pkg)
}
