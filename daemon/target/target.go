// Package target exports block devices over iSCSI with the kernel's LIO, driven
// by plain writes to configfs.
//
// A Target says what one initiator shall see: one IQN with one portal group,
// LUN 0 on one device, an explicit access list with CHAP. Its identity (IQN,
// unit serial, NAA, product id) comes from the caller and never from this
// machine, so that a partner can serve the same target later.
//
// A Reconciler observes configfs (observe.go), plans the difference (plan.go,
// pure) and applies it. Applying the same Target again changes nothing, so a
// restarted daemon adopts targets with live sessions. It touches only targets
// whose IQN begins with the Reconciler's prefix, and only backstores that are
// named after them. One target belongs to one caller at a time; different
// targets may be applied and removed at once.
//
// The data path is the kernel's alone. The other side: Linux
// Documentation/target and drivers/target/{target_core_configfs.c,
// iscsi/iscsi_target_configfs.c}.
package target

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse says that an initiator is logged in.
var ErrInUse = errors.New("an initiator is logged in")

// A Secret is a password that does not show itself in logs and messages.
type Secret string

func (Secret) String() string { return "[secret]" }

// GoString keeps the secret out of %#v.
func (Secret) GoString() string { return "[secret]" }

// LogValue keeps the secret out of logs.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// A Target is what should be exported.
type Target struct {
	Name    string // of the backstore: unique, letters, digits and hyphens
	IQN     string
	Device  string         // block device behind LUN 0
	Serial  string         // unit serial; its hex digits make the NAA
	Vendor  string         // at most 8 bytes
	Product string         // at most 16 bytes
	Unmap   bool           // the device supports discard
	Portal  netip.AddrPort // address that is local to this machine
	ACL     ACL
}

// ACL is the one initiator that may log in.
type ACL struct {
	Initiator string // IQN
	User      string // CHAP name
	Secret    Secret // CHAP secret, 12 bytes or more (RFC 7143, 9.2.1)
}

// Session is a logged-in initiator.
type Session struct {
	IQN       string // of the target
	Initiator string
	State     string // "LOGGED_IN"
	Addresses []string
}

// validate refuses what configfs would take in a wrong way.
func (t Target) validate() error {
	switch {
	case t.Name == "" || strings.ContainsAny(t.Name, "/\n "):
		return fmt.Errorf("backstore name %q: want a plain word", t.Name)
	case !strings.HasPrefix(t.IQN, "iqn.") || strings.ContainsAny(t.IQN, "/\n "):
		return fmt.Errorf("IQN %q: want iqn.YYYY-MM.domain:name", t.IQN)
	case !strings.HasPrefix(t.ACL.Initiator, "iqn.") || strings.ContainsAny(t.ACL.Initiator, "/\n "):
		return fmt.Errorf("initiator %q: want iqn.YYYY-MM.domain:name", t.ACL.Initiator)
	case !t.Portal.IsValid():
		return errors.New("portal address is missing: set the deployment network")
	case t.ACL.User == "" || t.ACL.Secret == "":
		return errors.New("CHAP user or secret is missing")
	case strings.ContainsAny(t.ACL.User+string(t.ACL.Secret), "\n\x00") || len(t.ACL.User) > 255 || len(t.ACL.Secret) > 255:
		return errors.New("CHAP user or secret has a line break or is longer than 255 bytes")
	case len(t.Vendor) > 8 || len(t.Product) > 16:
		return fmt.Errorf("vendor %q and product %q: 8 and 16 bytes at most", t.Vendor, t.Product)
	}
	return nil
}

// configfs is what the Reconciler does to the kernel's tree. Paths are
// relative to the root of the target subsystem.
type configfs interface {
	Mkdir(dir string) error
	Remove(dir string) error // rmdir
	Write(attr, value string) error
	Read(attr string) (string, error) // without the final newline
	Link(to, from string) error       // from becomes a link to to
	Unlink(link string) error
	Readlink(link string) (string, error)
	List(dir string) ([]string, error) // names; fs.ErrNotExist when dir is missing
}

// Reconciler applies Targets to the kernel.
type Reconciler struct {
	fs     configfs
	prefix string
	log    *slog.Logger
}

// New returns a Reconciler for the targets whose IQN begins with prefix. The
// modules target_core_mod, target_core_iblock and iscsi_target_mod must be
// loaded and configfs mounted on /sys/kernel/config.
func New(log *slog.Logger, prefix string) (*Reconciler, error) {
	fs, err := openKernel("/sys/kernel/config/target")
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	return &Reconciler{fs: fs, prefix: prefix, log: log}, nil
}

// Apply makes one target be as it should. What is right already, a live
// session above all, is not touched.
func (r *Reconciler) Apply(ctx context.Context, want Target) error {
	if err := want.validate(); err != nil {
		return fmt.Errorf("target %s: %w", want.IQN, err)
	}
	if !strings.HasPrefix(want.IQN, r.prefix) {
		return fmt.Errorf("target %s: is not ours: want prefix %s", want.IQN, r.prefix)
	}
	have, err := observe(r.fs, want.IQN, want.Name)
	if err != nil {
		return fmt.Errorf("target %s: %w", want.IQN, err)
	}
	ops, err := plan(want, have)
	if err != nil {
		return fmt.Errorf("target %s: %w", want.IQN, err)
	}
	if err := r.run(ctx, ops); errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("target %s: portal %s is not an address of this appliance: set the deployment network: %w", want.IQN, want.Portal, err)
	} else if err != nil {
		return fmt.Errorf("target %s: %w", want.IQN, err)
	}
	if len(ops) > 0 {
		r.log.Info("target exported", "iqn", want.IQN, "device", want.Device, "initiator", want.ACL.Initiator, "portal", want.Portal)
	}
	return nil
}

// Remove takes one target away. While an initiator is logged in it answers
// ErrInUse, unless force is set, which ends the sessions. A target that is not
// there is no error.
func (r *Reconciler) Remove(ctx context.Context, iqn, name string, force bool) error {
	if !force {
		s, err := r.sessions(iqn)
		if err != nil {
			return fmt.Errorf("target %s: %w", iqn, err)
		}
		if len(s) > 0 {
			return fmt.Errorf("target %s: %w: %s from %s: shut the server down first",
				iqn, ErrInUse, s[0].Initiator, strings.Join(s[0].Addresses, ", "))
		}
	}
	have, err := observe(r.fs, iqn, name)
	if err != nil {
		return fmt.Errorf("target %s: %w", iqn, err)
	}
	ops := teardown(have)
	if err := r.run(ctx, ops); err != nil {
		return fmt.Errorf("target %s: %w", iqn, err)
	}
	if len(ops) > 0 {
		r.log.Info("target removed", "iqn", iqn)
	}
	return nil
}

// Sync makes the wanted targets be, and removes every other target of ours
// that has no session. Independent targets do not wait for each other's
// errors; those come joined.
func (r *Reconciler) Sync(ctx context.Context, want []Target) error {
	keep := map[string]bool{}
	var errs []error
	for _, t := range want {
		keep[t.IQN] = true
		errs = append(errs, r.Apply(ctx, t))
	}
	iqns, err := r.Targets()
	errs = append(errs, err)
	for _, iqn := range iqns {
		if !keep[iqn] {
			errs = append(errs, r.Remove(ctx, iqn, "", false))
		}
	}
	return errors.Join(errs...)
}

// Targets lists the IQNs of our targets.
func (r *Reconciler) Targets() ([]string, error) {
	names, err := listOrNone(r.fs, "iscsi")
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	var out []string
	for _, n := range names {
		if strings.HasPrefix(n, r.prefix) {
			out = append(out, n)
		}
	}
	return out, nil
}

// Sessions tells who is logged in to the target, or to all of ours when iqn
// is empty.
func (r *Reconciler) Sessions(_ context.Context, iqn string) ([]Session, error) {
	iqns := []string{iqn}
	if iqn == "" {
		var err error
		if iqns, err = r.Targets(); err != nil {
			return nil, err
		}
	}
	var out []Session
	for _, i := range iqns {
		s, err := r.sessions(i)
		if err != nil {
			return out, fmt.Errorf("target %s: %w", i, err)
		}
		out = append(out, s...)
	}
	return out, nil
}

func (r *Reconciler) sessions(iqn string) ([]Session, error) {
	acls, err := listOrNone(r.fs, tpgDir(iqn)+"/acls")
	if err != nil {
		return nil, err
	}
	var out []Session
	for _, ini := range acls {
		info, err := r.fs.Read(tpgDir(iqn) + "/acls/" + ini + "/info")
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("sessions of %s: %w", ini, err)
		}
		if s, ok := parseSession(info); ok {
			s.IQN, s.Initiator = iqn, ini
			out = append(out, s)
		}
	}
	return out, nil
}

// run carries out ops in order and stops at the first error. While the kernel
// still lets go of a closed session, removal answers "busy": that is tried
// again for two seconds.
func (r *Reconciler) run(ctx context.Context, ops []op) error {
	for _, o := range ops {
		for try := 0; ; try++ {
			err := o.do(r.fs)
			if err == nil {
				break
			}
			if !busy(err) || try == 40 || !o.retry {
				return fmt.Errorf("%s: %w", o, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s: %w", o, ctx.Err())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// parseSession reads acls/INITIATOR/info, which the kernel writes in prose.
func parseSession(info string) (Session, bool) {
	if info == "" || strings.HasPrefix(info, "No active iSCSI Session") {
		return Session{}, false
	}
	s := Session{State: "unknown"}
	for line := range strings.Lines(info) {
		if _, rest, ok := strings.Cut(line, "TARG_SESS_STATE_"); ok {
			s.State = strings.TrimSpace(rest)
		}
		if _, rest, ok := strings.Cut(line, "Address "); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				s.Addresses = append(s.Addresses, f[0])
			}
		}
	}
	return s, true
}
