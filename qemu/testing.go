package qemu

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// An Option changes the frame of a test.
type Option func(*Config)

// Compute gives the frame n compute modules.
func Compute(n int) Option { return func(c *Config) { c.Compute = n } }

// Frames links n frames, with one appliance each; of three, the third has a
// witness, and only the first appliance is set up: see Frame.FormDomain.
func Frames(n int) Option { return func(c *Config) { c.Frames = n } }

// Need returns where the built image is. It skips a test on a machine that has
// no QEMU or no image, or that is in a hurry (-short), and says why.
func Need(t testing.TB) (image string) {
	t.Helper()
	NeedQEMU(t)
	image = os.Getenv("BAYSTREAM_IMAGE")
	if image == "" {
		root, err := moduleRoot()
		if err != nil {
			t.Fatal(err)
		}
		image = filepath.Join(root, "build", "image")
	}
	if _, err := os.Stat(image); err != nil {
		t.Skipf("needs the image: %v; make image, or set BAYSTREAM_IMAGE", err)
	}
	return image
}

// NeedQEMU skips a test on a machine without QEMU, or with -short.
func NeedQEMU(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs VMs: not with -short")
	}
	if _, err := exec.LookPath(Binary); err != nil {
		t.Skipf("needs QEMU: %v; apt-get install qemu-system-x86 ovmf ipxe-qemu", err)
	}
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above %s", dir)
		}
		dir = up
	}
}

// StartFrame starts a frame whose appliances are set up, for the length of a
// test; every frame's REST that stands alone is logged in. When the test fails, the log
// gets each module's last console lines, where the networks' last frames are
// kept, and how to run the test, or a module, by hand.
func StartFrame(t testing.TB, opts ...Option) *Frame {
	t.Helper()
	image := Need(t)
	f := StartBare(t, append([]Option{func(c *Config) { c.Image = image }}, opts...)...)
	for _, g := range f.Standalone() {
		if err := g.Setup(Context(t, 30*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// StartBare is StartFrame without Setup and without an image of its own: an
// option says what to boot.
func StartBare(t testing.TB, opts ...Option) *Frame {
	t.Helper()
	NeedQEMU(t)
	cfg := Config{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, o := range opts {
		o(&cfg)
	}
	f, err := Up(Context(t, 10*time.Second), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range f.Networks() {
		n.Record()
	}
	t.Cleanup(func() {
		if t.Failed() {
			f.report(t)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// Context ends with the test, or after a time that is generous with KVM and is
// stretched without (see Deadline).
func Context(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Deadline(d))
	t.Cleanup(cancel)
	return ctx
}
