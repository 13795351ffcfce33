package vmtest

import (
	"os"
	"strings"
	"testing"
)

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		console string
		status  int
		ended   bool
	}{
		{"boot\nPASS\nvmtest: exit status 0\n[ 3.1] reboot: Power down\n", 0, true},
		{"vmtest: exit status 1\n", 1, true},
		{"vmtest: exit status 125", 125, true},
		{"[ 3.1] Kernel panic - not syncing\n", 0, false},
		{"vmtest: exit status x\n", 0, false},
	} {
		status, ended := exitStatus(c.console)
		if status != c.status || ended != c.ended {
			t.Errorf("exitStatus(%q) = %d, %v, want %d, %v", c.console, status, ended, c.status, c.ended)
		}
	}
}

func TestArgumentsMakeSparseDisks(t *testing.T) {
	dir := t.TempDir()
	args, err := arguments(dir, "K", "I", Config{Disks: []int{1, 4096}, Virtual: true})
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(args, " ")
	for _, want := range []string{"-m 512", "-kernel K -initrd I", "-icount shift=2,sleep=off", "serial=baystream-d1"} {
		if !strings.Contains(line, want) {
			t.Errorf("command line lacks %q: %s", want, line)
		}
	}
	if st, err := os.Stat(dir + "/disk1"); err != nil || st.Size() != 4096<<20 {
		t.Errorf("disk1: %v, %v", st, err)
	}
}
