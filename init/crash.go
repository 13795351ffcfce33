package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// When the kernel crashes it leaves the end of its log in a place that survives
// a reset, which pstore shows at the next boot (the kernel's
// Documentation/admin-guide/pstore-blk.rst and ramoops.rst): the firmware's
// error records (ERST) or variables (EFI), else memory that the kernel is kept
// from by memmap= on its command line. Here the text is taken out, kept below
// crashDir and put into the log; the place is then free for the next one.
//
// It also counts. Each boot tells the kernel's log how many crashes in a row it
// follows; so the record of the next one has the number. Memory is forgotten
// when the power goes, and the count with it.

const (
	pstoreDir = "/sys/fs/pstore"
	crashDir  = "/run/log/crash"

	crashBytes  = 64 << 10 // of the kernel's log that are left
	crashLines  = 80       // of it that go into our log
	crashMarker = "init: this start follows crashes in a row: "

	// crashLimit is after how many crashes in a row services are not started by
	// themselves any more, and the last resort is not taken again.
	crashLimit = 3
	// crashApart is how long a machine must have run for its crash not to be in
	// a row with the one before.
	crashApart = time.Hour
)

// crash is what the last start of the machine ended with.
type crash struct {
	row  int    // crashes in a row; 0: it ended well, or nobody remembers
	what string // of the last one
	kept bool   // the next one will leave its text
}

// reason is why services are not to start by themselves; "" if they are.
func (c crash) reason() string {
	if c.row < crashLimit {
		return ""
	}
	return fmt.Sprintf("the kernel crashed %d times in a row, the last time with: %s", c.row, c.what)
}

// takeCrashes is a boot step: it takes what a crash left and makes ready for the
// next one.
func (p *initProcess) takeCrashes(ctx context.Context) error {
	if err := mount("pstore", pstoreDir, plain, fmt.Sprintf("kmsg_bytes=%d", crashBytes))(ctx); err != nil {
		return err
	}
	err := p.keepCrashes()
	p.crash.kept = err == nil
	records, readErr := readRecords(pstoreDir)
	p.crash.row, p.crash.what = crashesInRow(records)
	for _, r := range records {
		if err := keepRecord(crashDir, r); err != nil {
			p.log.Warn("crash record", "record", r.file, "err", err)
			continue
		}
		os.Remove(filepath.Join(pstoreDir, r.file))
	}
	if p.crash.row > 0 {
		p.log.Error("THE KERNEL CRASHED before this start", "times", p.crash.row, "err", p.crash.what, "text", crashDir)
		last := lastText(records)
		lines := strings.Split(strings.TrimSpace(last), "\n")
		for _, l := range lines[max(0, len(lines)-crashLines):] {
			p.journal.ring.add(time.Now(), "crash", l)
		}
		noteKernel(fmt.Sprintf("%s%d", crashMarker, p.crash.row))
	}
	if err == nil {
		err = readErr
	}
	return err
}

// noteKernel writes a line into the kernel's log.
func noteKernel(text string) {
	os.WriteFile("/dev/kmsg", []byte("<6>"+text+"\n"), 0)
}

// keepCrashes finds a place for the text of the next crash, unless the kernel
// has one.
func (p *initProcess) keepCrashes() error {
	const backend = "/sys/module/pstore/parameters/backend"
	has := func() bool {
		b, err := os.ReadFile(backend)
		name := strings.TrimSpace(string(b))
		return err == nil && name != "" && name != "(null)"
	}
	if has() {
		return nil
	}
	if _, err := os.Stat("/sys/firmware/efi/efivars"); err == nil {
		if err := p.modules.load("efi-pstore"); err == nil && has() {
			return nil
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	iomem, err := os.ReadFile("/proc/iomem")
	if err != nil {
		return err
	}
	start, size, ok := reservedMemory(string(cmdline), string(iomem))
	if !ok {
		return fmt.Errorf("a crash will leave no text: no firmware for it, and no memmap=SIZE$START on the kernel's command line")
	}
	return p.modules.load(fmt.Sprintf("ramoops mem_address=%#x mem_size=%#x record_size=%#x ecc=1", start, size, crashBytes))
}

// record is what pstore has of a crash: a part of the kernel's log.
type record struct {
	file string
	kind string // Oops, Panic...
	n    int    // of the kernel's dumps since its start
	part int    // 1 is the end of the log
	text string
}

var recordHead = regexp.MustCompile(`^(\w+)#(\d+) Part(\d+)\n`)

// readRecords reads the kernel's records in dir, the oldest text first.
func readRecords(dir string) ([]record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "dmesg-*"))
	if err != nil {
		return nil, err
	}
	var out []record
	for _, f := range files {
		b, readErr := os.ReadFile(f)
		if readErr != nil {
			err = readErr
			continue
		}
		out = append(out, parseRecord(filepath.Base(f), string(b)))
	}
	slices.SortFunc(out, func(a, b record) int { return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(b.part, a.part)) })
	return out, err
}

func parseRecord(file, text string) record {
	r := record{file: file, text: text}
	if m := recordHead.FindStringSubmatch(text); m != nil {
		r.kind, r.text = m[1], text[len(m[0]):]
		r.n, _ = strconv.Atoi(m[2])
		r.part, _ = strconv.Atoi(m[3])
	}
	return r
}

// lastText is the last dump of records in order: an oops that becomes a panic
// makes two.
func lastText(records []record) string {
	var b strings.Builder
	for _, r := range records {
		if r.n == records[len(records)-1].n {
			b.WriteString(r.text)
		}
	}
	return b.String()
}

// keepRecord writes a record below dir, for support dumps.
func keepRecord(dir string, r record) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, r.file+".txt"), []byte(fmt.Sprintf("%s#%d Part%d\n%s", r.kind, r.n, r.part, r.text)), 0o600)
}

var (
	marker    = regexp.MustCompile(regexp.QuoteMeta(crashMarker) + `(\d+)`)
	stamp     = regexp.MustCompile(`(?m)^(?:<\d+>)?\[ *(\d+)\.\d+\]`)
	panicLine = regexp.MustCompile(`Kernel panic - not syncing: ([^\n]*)`)
	oopsLine  = regexp.MustCompile(`(?:BUG|Oops|general protection fault)[^\n]*`)
)

// crashesInRow tells how many crashes in a row the records, which are those of
// the last one, stand for, and what that was.
func crashesInRow(records []record) (n int, what string) {
	text := lastText(records)
	if strings.TrimSpace(text) == "" {
		return 0, ""
	}
	what = "no line says why"
	if m := oopsLine.FindString(text); m != "" { // says more than the panic that it becomes
		what = m
	} else if m := panicLine.FindStringSubmatch(text); m != nil {
		what = m[1]
	}
	n = 1
	before := marker.FindAllStringSubmatch(text, -1)
	stamps := stamp.FindAllStringSubmatch(text, -1)
	if len(before) > 0 && len(stamps) > 0 {
		ran, _ := strconv.Atoi(stamps[len(stamps)-1][1])
		if time.Duration(ran)*time.Second < crashApart {
			m, _ := strconv.Atoi(before[len(before)-1][1])
			n += m
		}
	}
	return n, printable(what)
}

// reservedMemory finds memory that the kernel's command line keeps from it,
// memmap=SIZE$START, if the kernel did (iomem is /proc/iomem): a driver that is
// told a wrong place would write over memory in use.
func reservedMemory(cmdline, iomem string) (start, size uint64, ok bool) {
	for _, word := range strings.Fields(cmdline) {
		value, found := strings.CutPrefix(word, "memmap=")
		if !found {
			continue
		}
		n, at, found := strings.Cut(value, "$")
		if !found {
			continue
		}
		size, err := memparse(n)
		start, err2 := memparse(at)
		if err == nil && err2 == nil && size > 0 && isReserved(iomem, start, start+size-1) {
			return start, size, true
		}
	}
	return 0, 0, false
}

// memparse reads a number with the kernel's suffixes K, M and G.
func memparse(s string) (uint64, error) {
	shift := 0
	for i, suffix := range []string{"K", "M", "G"} {
		if n, ok := strings.CutSuffix(strings.ToUpper(s), suffix); ok {
			s, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(strings.ToLower(s), 0, 40)
	return n << shift, err
}

// isReserved looks for a range in lines "START-END : NAME", in hex.
func isReserved(iomem string, first, last uint64) bool {
	for line := range strings.Lines(iomem) {
		where, name, ok := strings.Cut(line, " : ")
		var a, b uint64
		if _, err := fmt.Sscanf(strings.TrimSpace(where), "%x-%x", &a, &b); !ok || err != nil || !strings.EqualFold(strings.TrimSpace(name), "reserved") {
			continue
		}
		if a <= first && last <= b {
			return true
		}
	}
	return false
}
