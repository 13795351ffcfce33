package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"baystream/image"
	"baystream/qemu"
	"baystream/qemu/bmc"
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

// becomesFirst makes the operator the first administrator of a module whose data
// disk is in trouble, with the setup code of the first serial port.
func (o *operator) becomesFirst(a *qemu.Bay, trouble string) {
	o.t.Helper()
	m, err := a.WaitConsole(qemu.Context(o.t, 30*time.Second), regexp.MustCompile(`baystream: setup code (\S+)\s`))
	must(o.t, err)
	const word = "a word for this test"
	o.at("Press Enter", "", `CRITICAL  data disk: [^\n]*`+trouble+`[^$]*what to do: [^$]*lost at the next start[^$]*setup code: `, m[1], `administrator\]: `, "", "characters: ", word, "again: ", word)
	o.sees(`VF0001, appliance 1`)
}

// portHealth waits for what PID 1's health port says, without a log-in.
func (s *site) portHealth(t testing.TB, code int, words ...string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: s.Host().DialContext, DisableKeepAlives: true}}
	last := "nothing"
	ctx := qemu.Context(t, time.Minute)
	for {
		r, err := client.Get("http://" + s.Appliance().Address() + ":7974/health")
		if err == nil {
			body, _ := io.ReadAll(r.Body)
			r.Body.Close()
			last = r.Status + " " + string(body)
			if r.StatusCode == code && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(last, w) }) {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the health port says %s (%v); want %d with %q", last, err, code, words)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// waitMaintenance waits until the controller's event log tells of maintenance for
// a reason (ipmi.Event), or that it is over.
func (s *site) waitMaintenance(t testing.TB, reason byte, over bool) {
	t.Helper()
	kind := byte(0x6f)
	if over {
		kind = 0xef
	}
	s.waitFor(t, fmt.Sprintf("the event log tells of maintenance for reason %d, over %v", reason, over), func() bool {
		return slices.ContainsFunc(s.Appliance().BMC().Log(), func(r bmc.Record) bool {
			return r.Raw[10] == 0xc0 && r.Raw[12] == kind && r.Raw[14] == reason
		})
	})
}

// damage overwrites tables of the local partition's file system, as a disk may
// lose them.
func damage(t testing.TB, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "appliance1.data.raw"), os.O_RDWR, 0)
	must(t, err)
	rubbish := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{3}).Read(rubbish)
	_, err = f.WriteAt(rubbish, 1<<20+8<<10) // the partition begins at 1 MiB; its superblock stays
	must(t, errors.Join(err, f.Close()))
}

// One appliance: its administrator logs in at the console; and again after a reset
// while its controller is dead, which holds nothing up; then its local partition is
// damaged, and the console tells it and makes the module as new.
func TestOperatorConsole(t *testing.T) {
	s := &site{Frame: qemu.StartFrame(t, qemu.Compute(0))}
	password, err := os.ReadFile(s.Access().PasswordFile)
	must(t, err)
	a := s.Appliance()
	logIn := func(mark int64) *operator {
		o := &operator{t: t, line: a.Diagnostics(), mark: mark}
		o.at("Press Enter", "", "user name: ", qemu.UserName, "password: ", strings.TrimSpace(string(password)))
		o.sees(`VF0001, appliance 1`)
		o.sees(`status    (OK|Warning)`)
		o.sees(`link\s+\S+\s+management\s+up`)
		return o
	}
	ready := func() {
		t.Helper()
		_, err := a.WaitConsole(qemu.Context(t, 40*time.Second), restReady)
		must(t, err)
	}
	o := logIn(0)
	o.at("baystream> ", "status")
	o.sees("votes: one voter")
	o.at("baystream> ", "maintenance", "back: ", "6")
	o.sees("OS volumes, with the disks of the servers")
	o.at(`type "erase [^\n]*go back: `, "no", "Nothing was erased[^$]*back: ", "")
	s.portHealth(t, http.StatusOK, `"status":"OK"`, `"watchdog":"IPMI"`)

	mark := a.Diagnostics().Mark()
	a.SetBMC(false)
	must(t, a.Reset(t.Context()))
	ready()
	logIn(mark)
	s.waitFor(t, "health tells that the controller is dead", func() bool {
		return strings.Contains(s.bayctl(t, "status"), "the firmware names a controller, which did not answer")
	})
	a.SetBMC(true)
	s.waitFor(t, "the controller is used when it is back", func() bool {
		return strings.Contains(s.bayctl(t, "hw"), "management controller: firmware")
	})

	a.PowerOff()
	damage(t, s.Dir())
	mark = a.Diagnostics().Mark()
	must(t, a.PowerOn(t.Context()))
	_, err = a.WaitConsole(qemu.Context(t, time.Minute), regexp.MustCompile(`baystream: data disk: [^\n]*the local partition is damaged[^$]*baystream: what to do: [^\n]*factory reset`))
	must(t, err)
	ready()
	s.portHealth(t, http.StatusServiceUnavailable, `"status":"Critical"`, `"what":"data disk"`, "the local partition is damaged", "factory reset")
	s.waitMaintenance(t, 4, false)
	o = &operator{t: t, line: a.Diagnostics(), mark: mark}
	o.becomesFirst(a, "the local partition is damaged")
	o.sees(`CRITICAL  data disk: [^\n]*the local partition is damaged`)
	o.sees(`what to do: [^\n]*factory reset`)
	console := a.Console().Mark()
	o.at("baystream> ", "maintenance", "back: ", "6", `type "erase [^\n]*go back: `, "erase "+a.Identity.Serial)
	o.sees("comes up as new")
	_, err = a.Console().WaitFrom(qemu.Context(t, time.Minute), console, restReady)
	must(t, err)
	s.portHealth(t, http.StatusOK, `"status":"OK"`)
	s.waitMaintenance(t, 4, true)
}

// initramfs is the product's with another list of services behind it.
func initramfs(t testing.TB, services ...image.Service) string {
	t.Helper()
	built, err := image.Load(qemu.Need(t))
	must(t, err)
	list, err := json.Marshal(image.InitConfig{Modules: image.BootModules, Services: services})
	must(t, err)
	var archive bytes.Buffer
	must(t, image.Pack(&archive, []image.File{image.Text("etc/init.json", string(list))}))
	more, err := image.Compress(archive.Bytes())
	must(t, err)
	product, err := os.ReadFile(built.Initramfs)
	must(t, err)
	file := filepath.Join(t.TempDir(), "initramfs")
	must(t, os.WriteFile(file, append(product, more...), 0o600))
	return file
}

// A module without a data disk, whose daemon ends again and again: it is in
// maintenance. Its health port and the event log say so; whoever sees both serial
// ports gets in, sees why, takes a support dump away, and starts it again. Then
// with a daemon that runs: it says what is missing.
func TestConsoleOfAModuleInTrouble(t *testing.T) {
	dead := image.Daemon
	dead.Exec, dead.Tries = []string{"/bin/baystreamd", "-no-such-flag"}, 3
	s := &site{Frame: qemu.StartBare(t, qemu.Compute(0), func(c *qemu.Config) {
		c.Image, c.Initramfs, c.DiskBytes = qemu.Need(t), initramfs(t, dead, image.Console, image.Health), -1
	})}
	a := s.Appliance()
	_, err := a.WaitConsole(qemu.Context(t, 30*time.Second), regexp.MustCompile(`SERVICE GIVEN UP[^\n]* service=baystreamd reason="ended 3 times in a row[^$]*baystreamd said: [^\n]*no-such-flag`))
	must(t, err)
	s.portHealth(t, http.StatusServiceUnavailable, `"status":"Maintenance"`, `"what":"service baystreamd"`, "ended 3 times in a row", "On the serial console")
	s.waitMaintenance(t, 3, false)

	o := &operator{t: t, line: a.Diagnostics()}
	o.at("Press Enter", "")
	m, err := a.WaitConsole(qemu.Context(t, 30*time.Second), regexp.MustCompile(`baystream: recovery code (\S+)\s`))
	must(t, err)
	o.at("recovery code: ", m[1])
	o.sees(`STATUS    the daemon does not answer`)
	o.sees(`service   baystreamd   maintenance, [^\n]*ended 3 times in a row`)
	o.sees(`what to do: `)
	o.sees(`link\s+eth0\s[^\n]*192\.0\.2\.10/24`)
	o.at("baystream> ", "logs")
	o.sees(`no-such-flag`)
	o.at("baystream> ", "support-dump")
	o.sees("-----END BAYSTREAM SUPPORT DUMP-----")
	o.at("baystream> ", "maintenance", "back: ", "2", `maintenance\? \[y/N\]: `, "y", "They start", "")

	a.PowerOff()
	built, err := image.Load(qemu.Need(t))
	must(t, err)
	a.SetInitramfs(built.Initramfs)
	mark := a.Diagnostics().Mark()
	must(t, a.PowerOn(t.Context()))
	_, err = a.WaitConsole(qemu.Context(t, time.Minute), regexp.MustCompile(`baystream: data disk: [^\n]*there is no disk at all[^$]*baystream: what to do: Insert a blank disk`))
	must(t, err)
	_, err = a.WaitConsole(qemu.Context(t, 40*time.Second), restReady)
	must(t, err)
	s.portHealth(t, http.StatusServiceUnavailable, `"status":"Critical"`, `"what":"data disk"`, "there is no disk at all", "Insert a blank disk")
	s.waitMaintenance(t, 3, true)
	s.waitMaintenance(t, 4, false)
	o = &operator{t: t, line: a.Diagnostics(), mark: mark}
	o.becomesFirst(a, "there is no disk at all")
	o.sees(`CRITICAL  data disk: [^\n]*there is no disk at all`)
}
