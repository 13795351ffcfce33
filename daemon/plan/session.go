package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Device is a block device of the volume as scripts see it.
type Device struct {
	Name   string // "/dev/sda" for the volume, "/dev/sda1" for a partition
	Node   string // the device node on this machine, "/dev/drbd3" or "/dev/dm-7"
	FSType string // as FileSystem names it; "" is found out when needed
}

// mounter is what a session needs of the kernel. Directories are on this
// machine, not of the volume.
type mounter interface {
	mount(d Device, fsType string, readOnly bool, dir string) error
	unmount(dir string) error
	fileSystem(d Device) string
}

// shellFunc runs one line of shell in the scratch space. The error says why it
// did not end well.
type shellFunc func(ctx context.Context, line string, stdin io.Reader, stdout io.Writer) error

// session carries out commands one after the other, as guestfish would.
type session struct {
	vol     *tree // the mount point of the volume
	scratch *tree
	devices []Device
	mounter mounter
	shell   shellFunc
	out     io.Writer
	before  func(c Command) // told of each command before it runs

	mounts []mounted // in order
}

type mounted struct {
	device string
	dir    string // in the volume, clean
}

// RunError says which line of which script failed, and why.
type RunError struct {
	Script string
	Line   int // 0 when no line is to blame
	Msg    string
}

func (e *RunError) Error() string {
	switch {
	case e.Script == "":
		return "plan: " + e.Msg
	case e.Line == 0:
		return fmt.Sprintf("plan script %s: %s", e.Script, e.Msg)
	}
	return fmt.Sprintf("plan script %s line %d: %s", e.Script, e.Line, e.Msg)
}

// maxSource bounds what <! may yield, in bytes; nesting in levels.
const (
	maxSource  = 1 << 20
	maxNesting = 8
)

// run carries out the plan, then unmounts what is still mounted. The first
// command that fails without Ignore ends it.
func (s *session) run(ctx context.Context, p *Plan) error {
	err := s.commands(ctx, p.Commands, 0)
	if uerr := s.unmountAll(); uerr != nil && err == nil {
		err = &RunError{Msg: fmt.Sprintf("unmount at the end: %v", uerr)}
	}
	return err
}

func (s *session) commands(ctx context.Context, cmds []Command, nesting int) error {
	for _, c := range cmds {
		if err := ctx.Err(); err != nil {
			return &RunError{Script: c.Script, Line: c.Line, Msg: err.Error()}
		}
		if s.before != nil {
			s.before(c)
		}
		err := s.command(ctx, c, nesting)
		if err == nil {
			continue
		}
		var inner *RunError
		if !errors.As(err, &inner) {
			inner = &RunError{Script: c.Script, Line: c.Line, Msg: err.Error()}
		}
		if !c.Ignore || ctx.Err() != nil {
			return inner
		}
		fmt.Fprintf(s.out, "%v (ignored)\n", inner)
	}
	return nil
}

func (s *session) command(ctx context.Context, c Command, nesting int) error {
	switch c.Kind {
	case Shell:
		return s.shell(ctx, c.Text, nil, s.out)
	case Source:
		return s.source(ctx, c, nesting)
	}
	if err := checkWord(c.Args); err != nil {
		return err
	}
	if !c.Piped {
		return s.word(ctx, c, c.Args, s.out)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	shellDone := make(chan error, 1)
	go func() {
		err := s.shell(ctx, c.Text, r, s.out)
		r.Close() // so that the word does not wait for a reader who left
		shellDone <- err
	}()
	werr := s.word(ctx, c, c.Args, w)
	w.Close()
	serr := <-shellDone
	if errors.Is(werr, unix.EPIPE) {
		werr = nil // as in every shell, a reader may have had enough
	}
	return errors.Join(werr, serr)
}

// source runs the commands that the shell prints.
func (s *session) source(ctx context.Context, c Command, nesting int) error {
	if nesting >= maxNesting {
		return fmt.Errorf("<! within <! more than %d deep", maxNesting)
	}
	var out bytes.Buffer
	w := &boundedWriter{w: &out, left: maxSource}
	if err := s.shell(ctx, c.Text, nil, w); w.over {
		return fmt.Errorf("more than %d bytes of output to be read as commands", maxSource)
	} else if err != nil {
		return err
	}
	cmds, err := parseScript(c.Script, out.String())
	var se *SyntaxError
	if errors.As(err, &se) {
		return fmt.Errorf("output line %d: %s", se.Line, se.Msg)
	}
	for i := range cmds { // lines of the output have no lines in the script
		cmds[i].Line = c.Line
	}
	return s.commands(ctx, cmds, nesting+1)
}

// boundedWriter fails beyond left bytes.
type boundedWriter struct {
	w    io.Writer
	left int
	over bool
}

var errOutput = errors.New("more output than allowed")

func (b *boundedWriter) Write(p []byte) (int, error) {
	if b.over = b.over || len(p) > b.left; b.over {
		return 0, errOutput
	}
	b.left -= len(p)
	return b.w.Write(p)
}

func (s *session) device(name string) (Device, error) {
	var have []string
	for _, d := range s.devices {
		if d.Name == name {
			return d, nil
		}
		have = append(have, d.Name)
	}
	return Device{}, fmt.Errorf("%s: no such device; the volume has %s", name, strings.Join(have, ", "))
}

// partition tells whether a device is part of another one.
func (s *session) partition(name string) bool {
	for _, d := range s.devices {
		rest, ok := strings.CutPrefix(name, d.Name)
		if rest = strings.TrimPrefix(rest, "p"); ok && rest != "" && strings.Trim(rest, "0123456789") == "" {
			return true
		}
	}
	return false
}

// hasPartitions tells whether other devices are part of this one.
func (s *session) hasPartitions(name string) bool {
	one := session{devices: []Device{{Name: name}}}
	for _, d := range s.devices {
		if one.partition(d.Name) {
			return true
		}
	}
	return false
}

func (s *session) fsType(d Device) string {
	if d.FSType != "" {
		return d.FSType
	}
	return s.mounter.fileSystem(d)
}

// mountable are the file systems that the appliance's kernel may mount.
var mountable = map[string]bool{"vfat": true, "ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true}

func (s *session) mount(device, dir string, readOnly bool) error {
	d, err := s.device(device)
	if err != nil {
		return err
	}
	dir = clean(dir)
	for _, m := range s.mounts {
		if m.dir == dir {
			return fmt.Errorf("%s is mounted on %s already", m.device, dir)
		}
		if m.device == device {
			return fmt.Errorf("%s is mounted already, on %s", device, m.dir)
		}
	}
	if dir != "/" {
		if err := s.mountPoint(dir); err != nil {
			return err
		}
	}
	fs := s.fsType(d)
	switch {
	case fs == "":
		return fmt.Errorf("%s: no file system found there", device)
	case !mountable[fs]:
		return fmt.Errorf("%s: file system %s cannot be mounted here; personalise by files on the EFI partition (vfat)", device, fs)
	}
	if err := s.mounter.mount(d, fs, readOnly, path.Join(s.vol.dir, dir)); err != nil {
		return fmt.Errorf("%s on %s: %w", device, dir, err)
	}
	s.mounts = append(s.mounts, mounted{device: device, dir: dir})
	return nil
}

// mountPoint checks that dir is a plain directory with no link on the way:
// mount(2) would follow a link out of the volume.
func (s *session) mountPoint(dir string) error {
	if err := s.needRoot(); err != nil {
		return err
	}
	at := "/"
	for _, part := range strings.Split(dir[1:], "/") {
		at = path.Join(at, part)
		st, err := s.vol.lstat(at)
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Errorf("%s is no directory", at)
		}
	}
	return nil
}

// needRoot is the error of everything that needs the volume's files.
func (s *session) needRoot() error {
	if len(s.mounts) == 0 {
		return errors.New("nothing is mounted; write a line such as mount /dev/sda1 / before it")
	}
	return nil
}

// unmount takes a device or a directory.
func (s *session) unmount(what string) error {
	for i := len(s.mounts) - 1; i >= 0; i-- {
		m := s.mounts[i]
		if m.device != what && m.dir != clean(what) {
			continue
		}
		for _, later := range s.mounts[i+1:] {
			if strings.HasPrefix(later.dir, strings.TrimSuffix(m.dir, "/")+"/") {
				return fmt.Errorf("%s: %s is mounted below it", what, later.device)
			}
		}
		if err := s.mounter.unmount(path.Join(s.vol.dir, m.dir)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		s.mounts = append(s.mounts[:i:i], s.mounts[i+1:]...)
		return nil
	}
	return fmt.Errorf("%s: not mounted", what)
}

func (s *session) unmountAll() error {
	var errs []error
	for i := len(s.mounts) - 1; i >= 0; i-- {
		errs = append(errs, s.mounter.unmount(path.Join(s.vol.dir, s.mounts[i].dir)))
	}
	s.mounts = nil
	return errors.Join(errs...)
}
