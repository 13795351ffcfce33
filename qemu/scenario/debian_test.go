package scenario

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"baystream/qemu"
	"baystream/qemu/golden"

	"golang.org/x/crypto/ssh"
)

// TestFrameDebianReachesItsLogIn boots a real Debian from its OS volume.
func TestFrameDebianReachesItsLogIn(t *testing.T) {
	qemu.Need(t)
	if os.Getuid() != 0 {
		t.Skip("needs root: Debian's packages are configured in a chroot")
	}
	file := filepath.Join(t.TempDir(), "debian.raw.zst")
	if err := debian(t.Context(), file); err != nil {
		t.Skipf("needs a Debian golden image: %v", err)
	}
	s := &site{Frame: qemu.StartFrame(t, qemu.Compute(1), func(c *qemu.Config) { c.Module.MemoryMiB = 512 })}
	s.waitHealth(t, qemu.Context(t, 30*time.Second))
	task, err := s.upload(t, "/rest/golden-images", "Debian 12", file)
	must(t, err)
	var attrs []attribute
	for _, a := range golden.Attributes {
		attrs = append(attrs, attribute{Name: a.Name, Type: a.Type, Constraints: "{}", Editable: true, Visible: true})
	}
	plan := s.scriptPlan(t, golden.PlanScriptName, golden.PlanScript, task.Resource.URI, attrs...)
	public, _, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	key, err := ssh.NewPublicKey(public)
	must(t, err)
	s.deploy(t, "deb-1", s.registerBay(t, 1), plan, attributes("HostName", "deb-1", "Address", "203.0.113.7/24", "SSHKey", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))))
	b := s.Compute(1)
	must(t, b.PowerOn(qemu.Context(t, 10*time.Second)))
	m, err := b.WaitConsole(qemu.Context(t, 2*time.Minute), regexp.MustCompile(`BAYSTREAM PERSONALITY hostname=(\S+) address=(\S+) key=(\S+) hostkey=(\S+)\s`))
	must(t, err)
	if m[1] != "deb-1" || m[2] != "203.0.113.7/24" || m[3] != ssh.FingerprintSHA256(key) {
		t.Errorf("Debian is %s with address %s and key %s, want deb-1 with 203.0.113.7/24 and %s", m[1], m[2], m[3], ssh.FingerprintSHA256(key))
	}
	_, err = b.WaitConsole(qemu.Context(t, time.Minute), regexp.MustCompile(`deb-1 login: `))
	must(t, err)
}

// debian makes the golden image, or takes it from the cache.
func debian(ctx context.Context, file string) error {
	return golden.Debian(ctx, cacheDir(), file, nil)
}
