package qemu

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
)

// failing is a test that has failed.
type failing struct {
	testing.TB
	said strings.Builder
}

func (f *failing) Name() string                    { return "TestStory/part one" }
func (f *failing) Logf(format string, args ...any) { fmt.Fprintf(&f.said, format+"\n", args...) }

// A frame test that fails leaves what one needs: the consoles' last lines, the
// last frames of each network, and command lines that do it again.
func TestReportOfAFailedTest(t *testing.T) {
	t.Setenv("BAYSTREAM_ARTIFACTS", t.TempDir())
	t.Setenv("BAYSTREAM_IMAGE", "/some/image")
	kernel := filepath.Join(t.TempDir(), "vmlinux")
	r := &rig{}
	must(t, r.build(Config{Dir: t.TempDir(), Kernel: kernel, Initramfs: kernel, Cmdline: "quiet"}))
	defer r.close()
	f := r.frames[0]
	for _, n := range f.Networks() {
		n.Record()
	}
	for i := range 100 {
		f.Appliance().Console().add(fmt.Appendf(nil, "line %d of the console\n", i))
	}
	f.Host().Port().announce()
	story := &failing{TB: t}
	f.report(story)
	said := story.said.String()
	for _, want := range []string{
		`to run the test again: BAYSTREAM_IMAGE=/some/image go test -count=1 -v -run '^TestStory$/^part one$' ./qemu`,
		"line 99 of the console", "line 45 of the console",
		"to run it by hand: " + Binary, "-kernel " + kernel, "appliance bay 1",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("the report lacks %q:\n%s", want, said)
		}
	}
	if strings.Contains(said, "line 1 of") {
		t.Error("the report has the whole console")
	}
	_, dir, _ := strings.Cut(said, "kept in ")
	dir, _, _ = strings.Cut(dir, ":")
	for _, n := range f.Networks() {
		b, err := os.ReadFile(filepath.Join(dir, n.Name()+".pcap"))
		must(t, err)
		if _, err := pcapgo.NewReader(bytes.NewReader(b)); err != nil {
			t.Errorf("network %s: %v", n.Name(), err)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, "appliance1.ttyS0.log"))
	if err != nil || !bytes.Contains(log, []byte("line 1 of")) {
		t.Errorf("the console's log is not kept whole: %v", err)
	}
}
