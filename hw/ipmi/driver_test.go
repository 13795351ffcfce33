package ipmi

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDriverLooksAgainForWhatTheFirmwareNames(t *testing.T) {
	root := t.TempDir()
	if Named(root) || Searching(root) || Search(root) != nil {
		t.Error("a machine without a controller has one")
	}
	write := func(name, content string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write("sys/bus/platform/devices/dmi-ipmi-si.0/uevent", "")
	write("sys/bus/platform/devices/IPI0001:00/uevent", "")
	write("sys/module/ipmi_si/initstate", "coming\n")
	if !Named(root) || !Searching(root) {
		t.Error("the driver is looking for a controller")
	}
	write("sys/module/ipmi_si/initstate", "live\n")
	if Searching(root) {
		t.Error("the driver has ended its search")
	}
	if Search(root) == nil {
		t.Error("without the driver nobody searches")
	}
	write(siDriver+"/bind", "")
	write(siDriver+"/unbind", "")
	write(siDriver+"/dmi-ipmi-si.0", "")
	if err := Search(root); err != nil {
		t.Error(err)
	}
	if got := read(siDriver + "/unbind"); got != "dmi-ipmi-si.0" {
		t.Errorf("unbound %q", got)
	}
	if got := read(siDriver + "/bind"); got != "IPI0001:00" {
		t.Errorf("bound %q", got)
	}
}
