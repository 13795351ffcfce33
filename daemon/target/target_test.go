package target

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const prefix = "iqn.2026-11.org.baystream:"

func reconciler(f *fakeKernel) *Reconciler {
	return &Reconciler{fs: f, prefix: prefix, log: slog.New(slog.DiscardHandler)}
}

func volume(id string) Target {
	return Target{Name: id, IQN: prefix + id, Device: "/dev/drbd1", Serial: id, Vendor: "BAYSTRM", Product: "OS volume", Unmap: true,
		Portal: netip.MustParseAddrPort("192.0.2.1:3260"),
		ACL:    ACL{Initiator: "iqn.2026-11.org.baystream.server:a", User: "u", Secret: "0123456789ab"}}
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	f := newFake()
	r := reconciler(f)
	ctx := context.Background()
	if err := r.Apply(ctx, volume("one")); err != nil {
		t.Fatal(err)
	}
	d := tpgDir(prefix + "one")
	for attr, want := range map[string]string{
		d + "/enable": "1", d + "/attrib/authentication": "1", d + "/param/InitialR2T": "No", d + "/attrib/generate_node_acls": "0",
		d + "/param/DefaultTime2Wait": "0", d + "/acls/iqn.2026-11.org.baystream.server:a/auth/password": "0123456789ab",
		hba + "/one/wwn/vpd_unit_serial": "one", hba + "/one/attrib/emulate_tpu": "1", hba + "/one/attrib/emulate_3pc": "0",
	} {
		if got := f.attrs[attr]; got != want {
			t.Errorf("%s = %q, want %q", attr, got, want)
		}
	}
	n := f.ops
	if err := r.Apply(ctx, volume("one")); err != nil || f.ops != n {
		t.Errorf("second Apply: %v, %d changes", err, f.ops-n)
	}
}

// An Apply that stopped anywhere is finished by the next one, and a Remove
// that comes instead leaves nothing.
func TestEveryStepMayBeTheLast(t *testing.T) {
	ctx := context.Background()
	whole := newFake()
	have, err := observe(whole, prefix+"one", "one")
	if err != nil {
		t.Fatal(err)
	}
	ops, err := plan(volume("one"), have)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(ops) + 1 {
		for _, finish := range []bool{true, false} {
			f := newFake()
			r := reconciler(f)
			if err := r.run(ctx, ops[:n]); err != nil {
				t.Fatal(err)
			}
			if finish {
				if err := r.Apply(ctx, volume("one")); err != nil {
					t.Errorf("Apply after %d steps: %v", n, err)
				}
			}
			if err := r.Remove(ctx, prefix+"one", "one", false); err != nil {
				t.Errorf("Remove after %d steps: %v", n, err)
			}
			if len(f.dirs) != len(newFake().dirs) || len(f.links) != 0 {
				t.Errorf("Remove after %d steps leaves %v %v", n, f.dirs, f.links)
			}
		}
	}
}

func TestApplyFollowsChanges(t *testing.T) {
	f := newFake()
	f.local["192.0.2.9:3260"] = true
	r := reconciler(f)
	ctx := context.Background()
	v := volume("one")
	if err := r.Apply(ctx, v); err != nil {
		t.Fatal(err)
	}
	v.Portal = netip.MustParseAddrPort("192.0.2.9:3260")
	v.ACL = ACL{Initiator: "iqn.2026-11.org.baystream.server:b", User: "b", Secret: "another secret"}
	if err := r.Apply(ctx, v); err != nil {
		t.Fatal(err)
	}
	d := tpgDir(v.IQN)
	if np, _ := f.List(d + "/np"); fmt.Sprint(np) != "[192.0.2.9:3260]" {
		t.Errorf("portals = %v", np)
	}
	if acls, _ := f.List(d + "/acls"); fmt.Sprint(acls) != "[iqn.2026-11.org.baystream.server:b]" {
		t.Errorf("acls = %v", acls)
	}
	v.Device = "/dev/drbd2"
	if err := r.Apply(ctx, v); !errors.Is(err, errBackstore) {
		t.Errorf("Apply with another device: %v", err)
	}
}

func TestSyncRemovesOnlyOurs(t *testing.T) {
	f := newFake()
	r := reconciler(f)
	ctx := context.Background()
	if err := r.Sync(ctx, []Target{volume("one"), volume("two")}); err != nil {
		t.Fatal(err)
	}
	if err := f.Mkdir("iscsi/iqn.2003-01.org.other:x"); err != nil {
		t.Fatal(err)
	}
	if err := r.Sync(ctx, []Target{volume("two")}); err != nil {
		t.Fatal(err)
	}
	if got, _ := f.List("iscsi"); fmt.Sprint(got) != "[iqn.2003-01.org.other:x "+prefix+"two]" {
		t.Errorf("targets = %v", got)
	}
	if got, _ := f.List(hba); fmt.Sprint(got) != "[attrib two wwn]" && fmt.Sprint(got) != "[two]" {
		t.Errorf("backstores = %v", got)
	}
	foreign := volume("one")
	foreign.IQN = "iqn.2003-01.org.other:x"
	if err := r.Apply(ctx, foreign); err == nil {
		t.Error("a foreign target was changed")
	}
}

const loggedIn = `InitiatorName: iqn.2026-11.org.baystream.server:a
InitiatorAlias: 
LIO Session ID: 1   ISID: 0x80 00 00 00 00 01  TSIH: 1  SessionType: Normal
Session State: TARG_SESS_STATE_LOGGED_IN
---------------------[iSCSI Session Values]-----------------------
  CmdSN/WR  :  CmdSN/WC  :  ExpCmdSN  :  MaxCmdSN  :     ITT    :     TTT
 0x00000010   0x00000010   0x00000002   0x00000011   0x00000001   0x00000002
----------------------[iSCSI Connections]-------------------------
CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN
   Address 198.51.100.7 TCP  StatSN: 0x00000003
`

func TestRemoveRefusesWhileLoggedIn(t *testing.T) {
	f := newFake()
	r := reconciler(f)
	ctx := context.Background()
	v := volume("one")
	if err := r.Apply(ctx, v); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Sessions(ctx, ""); err != nil || len(s) != 0 {
		t.Errorf("Sessions = %v, %v, want none", s, err)
	}
	f.attrs[tpgDir(v.IQN)+"/acls/"+v.ACL.Initiator+"/info"] = loggedIn
	s, err := r.Sessions(ctx, "")
	if err != nil || len(s) != 1 || s[0].State != "LOGGED_IN" || s[0].Initiator != v.ACL.Initiator || fmt.Sprint(s[0].Addresses) != "[198.51.100.7]" {
		t.Errorf("Sessions = %+v, %v", s, err)
	}
	n := f.ops
	err = r.Remove(ctx, v.IQN, v.Name, false)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "198.51.100.7") || f.ops != n {
		t.Errorf("Remove = %v, %d changes, want ErrInUse and none", err, f.ops-n)
	}
	if err := r.Remove(ctx, v.IQN, v.Name, true); err != nil {
		t.Errorf("forced Remove: %v", err)
	}
}

func TestErrorsNameTheStepAndHideTheSecret(t *testing.T) {
	f := newFake()
	r := reconciler(f)
	v := volume("one")
	v.Portal = netip.MustParseAddrPort("203.0.113.1:3260")
	err := r.Apply(context.Background(), v)
	if !errors.Is(err, unix.EADDRNOTAVAIL) || !strings.Contains(err.Error(), v.IQN) {
		t.Errorf("portal that is not local: %v", err)
	}
	f = newFake()
	r = reconciler(f)
	f.fail["write "+tpgDir(v.IQN)+"/acls/"+v.ACL.Initiator+"/auth/password"] = unix.EIO
	err = r.Apply(context.Background(), volume("one"))
	if !errors.Is(err, unix.EIO) || strings.Contains(err.Error(), "0123456789ab") {
		t.Errorf("failing password: %v", err)
	}
	if s := fmt.Sprintf("%v %+v %#v", v, v, v); strings.Contains(s, "0123456789ab") {
		t.Errorf("printed target shows the secret: %s", s)
	}
}

// When the backstore cannot be enabled nothing is written to its attributes:
// the kernel would crash.
func TestNoAttributeOfADeadBackstore(t *testing.T) {
	f := newFake()
	f.fail["write "+hba+"/one/enable"] = unix.ENODEV
	if err := reconciler(f).Apply(context.Background(), volume("one")); !errors.Is(err, unix.ENODEV) {
		t.Errorf("Apply = %v, want ENODEV", err)
	}
	if f.attrs[hba+"/one/attrib/emulate_3pc"] != "1" {
		t.Error("an attribute was written after enable had failed")
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*Target){
		"no portal":         func(v *Target) { v.Portal = netip.AddrPort{} },
		"no secret":         func(v *Target) { v.ACL.Secret = "" },
		"line break":        func(v *Target) { v.ACL.Secret = "0123456789ab\n" },
		"path in initiator": func(v *Target) { v.ACL.Initiator = "iqn.x/../y" },
		"path in IQN":       func(v *Target) { v.IQN = prefix + "a/b" },
		"path in name":      func(v *Target) { v.Name = "a/b" },
		"long product":      func(v *Target) { v.Product = "seventeen letters" },
	} {
		f := newFake()
		v := volume("one")
		change(&v)
		if err := reconciler(f).Apply(context.Background(), v); err == nil || f.ops != 0 {
			t.Errorf("%s: %v, %d changes, want an error and none", name, err, f.ops)
		}
	}
}
