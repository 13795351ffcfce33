package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"baystream/image"
	"baystream/qemu"
)

// operator is somebody at the second serial port, with a terminal that does not
// say how large it is: the console writes lines.
type operator struct {
	t    testing.TB
	line *qemu.Console
	mark int64
}

// sees waits for text after what was seen before.
func (o *operator) sees(pattern string) []string {
	o.t.Helper()
	m, err := o.line.WaitFrom(qemu.Context(o.t, 30*time.Second), o.mark, regexp.MustCompile(pattern))
	must(o.t, err)
	o.mark += int64(strings.Index(o.line.Since(o.mark), m[0]) + len(m[0]))
	return m
}

// at types after each of the prompts.
func (o *operator) at(pairs ...string) {
	o.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		o.sees(pairs[i])
		_, err := fmt.Fprint(o.line, pairs[i+1]+"\r")
		must(o.t, err)
	}
}

// One appliance: its administrator logs in at the console, and again after the
// reset button.
func TestOperatorConsole(t *testing.T) {
	f := qemu.StartFrame(t, qemu.Compute(0))
	password, err := os.ReadFile(f.Access().PasswordFile)
	must(t, err)
	a := f.Appliance()
	logIn := func(mark int64) *operator {
		o := &operator{t: t, line: a.Diagnostics(), mark: mark}
		o.at("Press Enter", "", "user name: ", qemu.UserName, "password: ", strings.TrimSpace(string(password)))
		o.sees(`VF0001, appliance 1`)
		o.sees(`status    (OK|Warning)`)
		o.sees(`link\s+\S+\s+management\s+up`)
		return o
	}
	o := logIn(0)
	o.at("baystream> ", "status")
	o.sees("votes: one voter")
	o.at("baystream> ", "maintenance", "back: ", "6")
	o.sees("OS volumes, with the disks of the servers")
	o.at(`type "erase [^\n]*go back: `, "no", "Nothing was erased[^$]*back: ", "")

	mark := a.Diagnostics().Mark()
	must(t, a.Reset(t.Context()))
	_, err = a.WaitConsole(qemu.Context(t, 40*time.Second), restReady)
	must(t, err)
	logIn(mark)
}

// A module whose daemon cannot run, and that has no data disk: whoever sees both
// serial ports gets in, sees why, and takes a support dump away.
func TestConsoleOfAModuleInTrouble(t *testing.T) {
	built, err := image.Load(qemu.Need(t))
	must(t, err)
	dead := image.Daemon
	dead.Exec = []string{"/bin/baystreamd", "-no-such-flag"}
	services, err := json.Marshal(image.InitConfig{Modules: image.BootModules, Services: []image.Service{dead, image.Console}})
	must(t, err)
	var archive bytes.Buffer
	must(t, image.Pack(&archive, []image.File{image.Text("etc/init.json", string(services))}))
	more, err := image.Compress(archive.Bytes())
	must(t, err)
	product, err := os.ReadFile(built.Initramfs)
	must(t, err)
	initramfs := filepath.Join(t.TempDir(), "initramfs")
	must(t, os.WriteFile(initramfs, append(product, more...), 0o600))
	f := qemu.StartBare(t, qemu.Compute(0), func(c *qemu.Config) { c.Image, c.Initramfs, c.DiskBytes = qemu.Need(t), initramfs, 16<<20 })
	a := f.Appliance()
	o := &operator{t: t, line: a.Diagnostics()}
	o.at("Press Enter", "")
	m, err := a.WaitConsole(qemu.Context(t, 30*time.Second), regexp.MustCompile(`baystream: recovery code (\S+)\s`))
	must(t, err)
	o.at("recovery code: ", m[1])
	o.sees(`STATUS    the daemon does not answer`)
	o.sees(`service   baystreamd`)
	o.sees(`disk      vda`)
	o.at("baystream> ", "logs")
	o.sees(`no-such-flag`)
	o.at("baystream> ", "support-dump")
	o.sees("-----END BAYSTREAM SUPPORT DUMP-----")
}
