package plan

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// call is one word at work.
type call struct {
	*session
	args []string // without the word
	here map[int]string
	out  io.Writer
}

// word is an entry of the language.
type word struct {
	usage    string
	min, max int  // arguments; max -1: any number
	files    bool // needs something mounted
	do       func(ctx context.Context, c call) error
}

// words is the language, but for glob, which runs another word.
var words = map[string]word{
	"echo":             {"echo WORDS", 0, -1, false, echo},
	"upload":           {"upload LOCAL REMOTE", 2, 2, false, upload},
	"download":         {"download REMOTE LOCAL", 2, 2, true, download},
	"mkdir":            {"mkdir DIR", 1, 1, true, func(_ context.Context, c call) error { return c.vol.mkdir(c.args[0], 0o777) }},
	"mkdir-p":          {"mkdir-p DIR", 1, 1, true, func(_ context.Context, c call) error { return c.vol.mkdirAll(c.args[0]) }},
	"rm":               {"rm FILE", 1, 1, true, func(_ context.Context, c call) error { return c.vol.remove(c.args[0]) }},
	"rm-f":             {"rm-f FILE", 1, 1, true, removeForce},
	"rm-rf":            {"rm-rf PATH", 1, 1, true, removeTree},
	"cat":              {"cat FILE", 1, 1, true, cat},
	"ls":               {"ls DIR", 1, 1, true, list},
	"touch":            {"touch FILE", 1, 1, true, touch},
	"chmod":            {"chmod MODE PATH", 2, 2, true, chmod},
	"mount":            {"mount DEVICE DIR", 2, 2, false, func(_ context.Context, c call) error { return c.mount(c.args[0], c.args[1], false) }},
	"mount-ro":         {"mount-ro DEVICE DIR", 2, 2, false, func(_ context.Context, c call) error { return c.mount(c.args[0], c.args[1], true) }},
	"umount":           {"umount DIR|DEVICE", 1, 1, false, umount},
	"unmount":          {"unmount DIR|DEVICE", 1, 1, false, umount},
	"umount-all":       {"umount-all", 0, 0, false, func(_ context.Context, c call) error { return c.unmountAll() }},
	"unmount-all":      {"unmount-all", 0, 0, false, func(_ context.Context, c call) error { return c.unmountAll() }},
	"list-filesystems": {"list-filesystems", 0, 0, false, listFilesystems},
	"list-devices":     {"list-devices", 0, 0, false, func(_ context.Context, c call) error { return c.listDevices(false) }},
	"list-partitions":  {"list-partitions", 0, 0, false, func(_ context.Context, c call) error { return c.listDevices(true) }},
	"statvfs":          {"statvfs DIR", 1, 1, true, statvfs},
	"vgs":              {"vgs", 0, 0, false, nothing},
	"lvs":              {"lvs", 0, 0, false, nothing},
	"copy-in":          {"copy-in LOCAL... DIR", 2, -1, true, copyIn},
	"copy-out":         {"copy-out REMOTE... DIR", 2, -1, true, copyOut},
	"cp":               {"cp FROM TO", 2, 2, true, copyFile},
	"cp-a":             {"cp-a FROM TO", 2, 2, true, copyAll},
	"mv":               {"mv FROM TO", 2, 2, true, move},
	"ln-s":             {"ln-s TARGET LINK", 2, 2, true, func(_ context.Context, c call) error { return c.vol.symlink(c.args[0], c.args[1]) }},
	"ln-f":             {"ln-f TARGET LINK", 2, 2, true, linkForce},
	"write":            {"write FILE TEXT", 2, 2, true, func(ctx context.Context, c call) error { return c.write(ctx, unix.O_TRUNC) }},
	"write-append":     {"write-append FILE TEXT", 2, 2, true, func(ctx context.Context, c call) error { return c.write(ctx, unix.O_APPEND) }},
	"compress-out":     {"compress-out gzip REMOTE LOCAL", 3, 3, true, compressOut},
	"inspect-os":       {"inspect-os", 0, 0, false, inspectOS},
	"sync":             {"sync", 0, 0, false, func(context.Context, call) error { unix.Sync(); return nil }},
	"version":          {"version", 0, 0, false, version},
}

// refused are words of guestfish that people may expect, and why they fail.
var refused = map[string]string{
	"command":  "runs a program of the volume, which is not allowed here; let the server run it at its first boot",
	"sh":       "runs a program of the volume, which is not allowed here; let the server run it at its first boot",
	"vgrename": "changes volume groups, which are not supported here; let the server do it at its first boot",
	"add":      "is done already: the volume is /dev/sda",
	"run":      "is done already: the volume is /dev/sda",
}

// checkWord says what is wrong with a command before it runs.
func checkWord(args []string) error {
	name := args[0]
	if name == "glob" {
		if len(args) < 2 || args[1] == "glob" {
			return errors.New("glob: usage: glob COMMAND PATTERNS")
		}
		if _, ok := words[args[1]]; ok {
			return nil // how many arguments it gets depends on the files there
		}
		return checkWord(args[1:])
	}
	w, ok := words[name]
	if !ok {
		if why := refused[name]; why != "" {
			return fmt.Errorf("%s: %s", name, why)
		}
		return fmt.Errorf("%s: unknown command", name)
	}
	if n := len(args) - 1; n < w.min || w.max >= 0 && n > w.max {
		return fmt.Errorf("%s: %d arguments; usage: %s", name, n, w.usage)
	}
	return nil
}

// word runs a command that checkWord has passed.
func (s *session) word(ctx context.Context, c Command, args []string, out io.Writer) error {
	if args[0] == "glob" {
		return s.glob(ctx, c, args[1:], out)
	}
	if err := checkWord(args); err != nil {
		return err
	}
	w := words[args[0]]
	if w.files {
		if err := s.needRoot(); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
	}
	here := map[int]string{}
	for _, h := range c.Here {
		here[h.Arg-1] = h.Text
	}
	if err := w.do(ctx, call{session: s, args: args[1:], here: here, out: out}); err != nil {
		return fmt.Errorf("%s: %w", args[0], plain(err))
	}
	return nil
}

// plain drops the system call from an error about a path: the word says enough.
func plain(err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		return fmt.Errorf("%s: %w", pe.Path, plain(pe.Err))
	}
	return err
}

// glob runs a word for every combination of what its patterns match.
func (s *session) glob(ctx context.Context, c Command, args []string, out io.Writer) error {
	combos := [][]string{{args[0]}}
	for _, a := range args[1:] {
		matches := []string{a}
		if strings.HasPrefix(a, "/") {
			if err := s.needRoot(); err != nil {
				return fmt.Errorf("glob: %w", err)
			}
			var err error
			if matches, err = s.vol.glob(a); err != nil {
				return fmt.Errorf("glob: %w", err)
			}
		}
		var next [][]string
		for _, combo := range combos {
			for _, m := range matches {
				next = append(next, append(combo[:len(combo):len(combo)], m))
			}
		}
		if combos = next; len(combos) > 100000 {
			return errors.New("glob: more than 100000 matches")
		}
	}
	for _, combo := range combos {
		if err := s.word(ctx, Command{}, combo, out); err != nil {
			return err
		}
	}
	return nil
}

func echo(_ context.Context, c call) error {
	_, err := fmt.Fprintln(c.out, strings.Join(c.args, " "))
	return err
}

func nothing(context.Context, call) error { return nil }

func version(_ context.Context, c call) error {
	_, err := fmt.Fprint(c.out, "major: 1\nminor: 0\nrelease: 0\nextra: baystream\n")
	return err
}

// upload copies a scratch file or a here-document to the volume; one that is to
// go to ./file stays in the scratch space. An existing file keeps its mode.
func upload(ctx context.Context, c call) error {
	to := c.vol
	if strings.HasPrefix(c.args[1], "./") {
		to = c.scratch
	} else if err := c.needRoot(); err != nil {
		return err
	}
	if text, ok := c.here[0]; ok {
		return to.writeFile(ctx, c.args[1], unix.O_TRUNC, 0o644, strings.NewReader(text))
	}
	f, err := c.scratch.open(c.args[0])
	if err != nil {
		return localError(err)
	}
	defer f.Close()
	return to.writeFile(ctx, c.args[1], unix.O_TRUNC, 0o644, f)
}

// localError says that a path is one of the scratch space.
func localError(err error) error {
	return fmt.Errorf("scratch file %w", plain(err))
}

func download(ctx context.Context, c call) error {
	f, err := c.vol.open(c.args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.scratch.writeFile(ctx, c.args[1], unix.O_TRUNC, 0o644, f); err != nil {
		return localError(err)
	}
	return nil
}

func removeForce(_ context.Context, c call) error {
	err := c.vol.remove(c.args[0])
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// removeTree empties the volume if it is given /, like guestfish.
func removeTree(_ context.Context, c call) error {
	if clean(c.args[0]) != "/" {
		return c.vol.removeAll(c.args[0])
	}
	names, err := c.vol.names("/")
	for _, n := range names {
		err = errors.Join(err, c.vol.removeAll("/"+n))
	}
	return err
}

func cat(ctx context.Context, c call) error {
	f, err := c.vol.open(c.args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	return copyTo(ctx, c.out, f)
}

func list(_ context.Context, c call) error {
	names, err := c.vol.names(c.args[0])
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := fmt.Fprintln(c.out, n); err != nil {
			return err
		}
	}
	return nil
}

func touch(_ context.Context, c call) error { return c.vol.touch(c.args[0]) }

// chmod reads its mode as octal, with or without a leading 0: that is what
// everybody means, also where guestfish would have read it as decimal.
func chmod(_ context.Context, c call) error {
	mode, err := strconv.ParseUint(strings.TrimPrefix(c.args[0], "0o"), 8, 12)
	if err != nil {
		return fmt.Errorf("mode %q is not octal", c.args[0])
	}
	return c.vol.chmod(c.args[1], uint32(mode))
}

func umount(_ context.Context, c call) error { return c.unmount(c.args[0]) }

func listFilesystems(_ context.Context, c call) error {
	for _, d := range c.devices {
		if c.hasPartitions(d.Name) {
			continue
		}
		fs := c.fsType(d)
		if fs == "LVM2_member" {
			continue
		}
		if fs == "" {
			fs = "unknown"
		}
		if _, err := fmt.Fprintf(c.out, "%s: %s\n", d.Name, fs); err != nil {
			return err
		}
	}
	return nil
}

func (c call) listDevices(partitions bool) error {
	for _, d := range c.devices {
		if c.partition(d.Name) == partitions {
			if _, err := fmt.Fprintln(c.out, d.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func statvfs(_ context.Context, c call) error {
	d, err := c.vol.openat(c.args[0], unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return pathError("statvfs", c.args[0], err)
	}
	fsid := uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32
	_, err = fmt.Fprintf(c.out, "bsize: %d\nfrsize: %d\nblocks: %d\nbfree: %d\nbavail: %d\nfiles: %d\nffree: %d\nfavail: %d\nfsid: %d\nflag: %d\nnamemax: %d\n",
		st.Bsize, st.Frsize, st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Ffree, fsid, st.Flags, st.Namelen)
	return err
}

func copyIn(ctx context.Context, c call) error {
	dst := c.args[len(c.args)-1]
	if !c.vol.isDir(dst) {
		return pathError("copy-in", dst, errors.New("no such directory in the volume"))
	}
	for _, src := range c.args[:len(c.args)-1] {
		if err := copyTree(ctx, c.scratch, src, c.vol, path.Join(dst, path.Base(clean(src))), 0); err != nil {
			return err
		}
	}
	return nil
}

func copyOut(ctx context.Context, c call) error {
	dst := c.args[len(c.args)-1]
	if !c.scratch.isDir(dst) {
		return localError(pathError("copy-out", dst, errors.New("no such directory; make it with !mkdir")))
	}
	for _, src := range c.args[:len(c.args)-1] {
		if err := copyTree(ctx, c.vol, src, c.scratch, path.Join(dst, path.Base(clean(src))), 0); err != nil {
			return err
		}
	}
	return nil
}

// into is where a copy of src goes when dst may be a directory.
func (c call) into(src, dst string) string {
	if c.vol.isDir(dst) {
		return path.Join(dst, path.Base(clean(src)))
	}
	return dst
}

func copyFile(ctx context.Context, c call) error {
	f, err := c.vol.open(c.args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := c.notSame(); err != nil {
		return err
	}
	return c.vol.writeFile(ctx, c.into(c.args[0], c.args[1]), unix.O_TRUNC, st.Mode().Perm(), f)
}

// notSame refuses to copy something onto or into itself.
func (c call) notSame() error {
	from, to := clean(c.args[0]), clean(c.into(c.args[0], c.args[1]))
	if from == to || strings.HasPrefix(to, strings.TrimSuffix(from, "/")+"/") {
		return pathError("copy", c.args[1], fmt.Errorf("is %s itself, or inside it", c.args[0]))
	}
	return nil
}

func copyAll(ctx context.Context, c call) error {
	if err := c.notSame(); err != nil {
		return err
	}
	return copyTree(ctx, c.vol, c.args[0], c.vol, c.into(c.args[0], c.args[1]), 0)
}

func move(ctx context.Context, c call) error {
	dst := c.into(c.args[0], c.args[1])
	err := c.vol.rename(c.args[0], dst)
	if !errors.Is(err, unix.EXDEV) { // on another file system: copy, then remove
		return err
	}
	if err := copyTree(ctx, c.vol, c.args[0], c.vol, dst, 0); err != nil {
		return err
	}
	return c.vol.removeAll(c.args[0])
}

func linkForce(_ context.Context, c call) error {
	err := c.vol.remove(c.args[1])
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return c.vol.link(c.args[0], c.args[1])
}

func (c call) write(ctx context.Context, flags int) error {
	return c.vol.writeFile(ctx, c.args[0], flags, 0o644, strings.NewReader(c.args[1]))
}

func compressOut(ctx context.Context, c call) error {
	if c.args[0] != "gzip" {
		return fmt.Errorf("method %s is not supported; use gzip", c.args[0])
	}
	f, err := c.vol.open(c.args[1])
	if err != nil {
		return err
	}
	defer f.Close()
	r, w := io.Pipe()
	go func() {
		z := gzip.NewWriter(w)
		w.CloseWithError(errors.Join(copyTo(ctx, z, f), z.Close()))
	}()
	err = c.scratch.writeFile(ctx, c.args[2], unix.O_TRUNC, 0o644, r)
	r.Close()
	return err
}

// inspectOS prints the devices that hold an operating system. Like guestfish's
// it wants nothing mounted, and unmounts everything.
func inspectOS(_ context.Context, c call) error {
	if err := c.unmountAll(); err != nil {
		return err
	}
	for _, d := range c.devices {
		if c.hasPartitions(d.Name) || !mountable[c.fsType(d)] {
			continue
		}
		if err := c.mount(d.Name, "/", true); err != nil {
			continue // cannot be looked into: holds no system that could boot
		}
		for _, sign := range []string{"/etc/os-release", "/usr/lib/os-release", "/Windows/System32"} {
			if f, err := c.vol.openat(sign, unix.O_PATH, 0); err == nil {
				f.Close()
				fmt.Fprintln(c.out, d.Name)
				break
			}
		}
		if err := c.unmount("/"); err != nil {
			return err
		}
	}
	return nil
}
