// Package support makes support dumps: one zip with what helps to find out what
// is wrong with a module, and nothing that lets anybody in.
//
// A dump has the module's logs, the first process's view, the kernel's (log,
// /proc, device mapper, DRBD, the iSCSI target), and the documents that the
// daemon adds while it runs. Each entry and the whole are bounded; what was cut
// off or could not be read is in manifest.json.
//
// Secrets are kept out twice. What holds nothing else is not read: keys, the
// domain state, the target's auth directories. What is read passes a Scrubber,
// which knows the secrets of the domain and the forms that secrets have in text.
package support

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// A Document is an entry that the caller makes.
type Document struct {
	Name string // such as "daemon/health.json"
	Read func(ctx context.Context) ([]byte, error)
}

// Options say what a dump is made of.
type Options struct {
	Root      string // where /proc and the like are: "/"
	State     string // the daemon's, below which logs lie
	Version   string
	Documents []Document
	Secrets   []string // to be removed wherever they stand
	Limit     int64    // of all entries together, in bytes before packing; 0: DefaultLimit
	Now       func() time.Time
}

// Limits, in bytes before packing.
const (
	DefaultLimit = 24 << 20
	SmallLimit   = 3 << 20 // for a serial line: some minutes at 115200 bit/s
	entryLimit   = 4 << 20
)

// Entry is a line of the manifest.
type Entry struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	Cut   bool   `json:"cut,omitempty"` // only the end is there
	Error string `json:"error,omitempty"`
}

// Manifest is manifest.json.
type Manifest struct {
	Made    string  `json:"made"`
	Version string  `json:"version"`
	Entries []Entry `json:"entries"`
}

// Write makes a dump. Only a failing w, or the end of ctx, is an error: what
// cannot be read is noted in the manifest.
func Write(ctx context.Context, w io.Writer, o Options) error {
	if o.Limit == 0 {
		o.Limit = DefaultLimit
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d := dump{o: o, zip: zip.NewWriter(w), left: o.Limit, scrub: NewScrubber(append(o.Secrets, targetSecrets(o.Root)...))}
	d.manifest = Manifest{Made: o.Now().UTC().Format(time.RFC3339), Version: o.Version, Entries: []Entry{}}
	for _, doc := range append(o.Documents, sources(o.Root, o.State)...) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.add(ctx, doc); err != nil {
			return fmt.Errorf("support dump: %s: %w", doc.Name, err)
		}
	}
	b, err := json.MarshalIndent(d.manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := d.write("manifest.json", b); err != nil {
		return fmt.Errorf("support dump: %w", err)
	}
	return d.zip.Close()
}

type dump struct {
	o        Options
	zip      *zip.Writer
	left     int64
	scrub    *Scrubber
	manifest Manifest
}

func (d *dump) add(ctx context.Context, doc Document) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	b, err := readIn(ctx, doc)
	e := Entry{Name: doc.Name}
	if err != nil {
		e.Error = string(d.scrub.Clean([]byte(err.Error())))
	}
	if max := min(int64(entryLimit), d.left); int64(len(b)) > max { // the end of a log is its news
		b, e.Cut = b[int64(len(b))-max:], true
	}
	b = d.scrub.Clean(b)
	d.left -= int64(len(b))
	e.Bytes = len(b)
	d.manifest.Entries = append(d.manifest.Entries, e)
	if len(b) == 0 {
		return nil
	}
	return d.write(doc.Name, b)
}

// readIn does not wait for a reader that hangs, as one of a stuck device does.
func readIn(ctx context.Context, doc Document) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		b, err := doc.Read(ctx)
		done <- result{b, err}
	}()
	select {
	case r := <-done:
		return r.b, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *dump) write(name string, b []byte) error {
	f, err := d.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: d.o.Now()})
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(b))
	return err
}

// procFiles are read whole, below proc.
var procFiles = []string{
	"version", "cmdline", "uptime", "loadavg", "meminfo", "cpuinfo", "vmstat", "mounts", "partitions", "diskstats", "modules", "interrupts",
	"slabinfo", "buddyinfo", "swaps", "devices", "filesystems", "drbd", "net/dev", "net/bonding/ic0", "net/route", "net/arp", "net/sockstat", "net/snmp",
	"net/netstat", "net/tcp", "net/udp", "pressure/cpu", "pressure/memory", "pressure/io",
}

// sources are what can be read on any module, the most telling first: the whole
// is bounded.
func sources(root, state string) []Document {
	at := func(p ...string) string { return filepath.Join(append([]string{root}, p...)...) }
	docs := []Document{{Name: "kernel/log", Read: kernelLog}, {Name: "kernel/dm.txt", Read: deviceMapper(root)}}
	for _, name := range []string{"ring.1", "ring"} {
		docs = append(docs, file("log/"+name, at("run/log", name)))
	}
	crashes, _ := filepath.Glob(at("run/log/crash/*")) // the pattern is good
	for _, f := range crashes {
		docs = append(docs, file("log/crash/"+filepath.Base(f), f))
	}
	for _, f := range procFiles {
		docs = append(docs, file("proc/"+f, at("proc", f)))
	}
	docs = append(docs, Document{Name: "kernel/target.txt", Read: tree(at("sys/kernel/config/target"), skipAuth)},
		Document{Name: "kernel/pstore.txt", Read: tree(at("sys/fs/pstore"), nil)},
		Document{Name: "state/files.txt", Read: listing(at(state))})
	for _, pattern := range []string{"log/system/*", "log/volumes/*"} {
		found, _ := filepath.Glob(at(state, pattern)) // the pattern is good
		sort.Strings(found)
		for _, f := range found[max(0, len(found)-40):] {
			docs = append(docs, file("state/"+strings.TrimSuffix(pattern, "*")+filepath.Base(f), f))
		}
	}
	return docs
}

// file reads one file, of which only the end matters if it is long.
func file(name, path string) Document {
	return Document{Name: name, Read: func(context.Context) ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.Size() > entryLimit {
			if _, err := f.Seek(-entryLimit, io.SeekEnd); err != nil {
				return nil, err
			}
		}
		return io.ReadAll(io.LimitReader(f, entryLimit+1))
	}}
}

// tree reads small files of a kernel file system, one to a line.
func tree(dir string, skip func(path string) bool) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		var out bytes.Buffer
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				return nil // such as a directory that went meanwhile
			case skip != nil && skip(path):
				if e.IsDir() {
					return fs.SkipDir
				}
				return nil
			case e.IsDir():
				return nil
			}
			name := strings.TrimPrefix(path, dir+"/")
			if e.Type()&fs.ModeSymlink != 0 {
				to, _ := os.Readlink(path)
				fmt.Fprintf(&out, "%s -> %s\n", name, to)
				return nil
			}
			b, err := readSome(path, 64<<10)
			if err != nil {
				fmt.Fprintf(&out, "%s: %v\n", name, err)
				return nil
			}
			fmt.Fprintf(&out, "%s: %s\n", name, strings.TrimSpace(string(b)))
			return nil
		})
		return out.Bytes(), err
	}
}

func readSome(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// skipAuth leaves out where the target keeps CHAP names and secrets.
func skipAuth(path string) bool {
	base := filepath.Base(path)
	return base == "auth" || strings.HasSuffix(base, "_auth") || strings.Contains(base, "password") || strings.Contains(base, "userid")
}

// targetSecrets are the CHAP secrets that the kernel knows, so that they can be
// found elsewhere.
func targetSecrets(root string) []string {
	var out []string
	for _, pattern := range []string{"auth/password*", "acls/*/auth/password*"} {
		found, _ := filepath.Glob(filepath.Join(root, "sys/kernel/config/target/iscsi/*/tpgt_*", pattern))
		for _, f := range found {
			if b, err := readSome(f, 4096); err == nil {
				out = append(out, strings.TrimSpace(string(b)))
			}
		}
	}
	return out
}

// listing tells which files there are, and nothing of what is in them.
func listing(dir string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		var out bytes.Buffer
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return nil
			}
			if info, err := e.Info(); err == nil {
				fmt.Fprintf(&out, "%v %12d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), strings.TrimPrefix(path, dir))
			}
			return nil
		})
		return out.Bytes(), err
	}
}
