package mirror

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestSockaddr(t *testing.T) {
	four := sockaddr(netip.MustParseAddrPort("192.0.2.1:7001"))
	if diff := cmp.Diff([]byte{0x1b, 0x59, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0}, four[2:]); diff != "" || binary.NativeEndian.Uint16(four) != unix.AF_INET {
		t.Errorf("IPv4: %v", four)
	}
	six := sockaddr(netip.MustParseAddrPort("[fd00::1]:7001"))
	if len(six) != 28 || six[8] != 0xfd || six[23] != 1 || binary.NativeEndian.Uint16(six) != unix.AF_INET6 {
		t.Errorf("IPv6: %v", six)
	}
}

func TestResyncsAreBounded(t *testing.T) {
	minors := []uint32{9, 1, 4, 2, 7}
	want := map[uint32]uint32{1: 0, 2: 0, 4: 1, 7: 2, 9: 4, 5: 0}
	for m, after := range want {
		if got := ResyncAfter(minors, m); got != after {
			t.Errorf("ResyncAfter(%d) = %d, want %d", m, got, after)
		}
	}
	first := 0
	for _, m := range minors {
		if ResyncAfter(minors, m) == 0 {
			first++
		}
	}
	if first != parallelResyncs {
		t.Errorf("%d resyncs may begin at once, want %d", first, parallelResyncs)
	}
}

func TestMulticastGroup(t *testing.T) {
	group := func(n uint16, name string, id uint32) []byte {
		return nest(n, attr(1, append([]byte(name), 0)), attr(2, binary.NativeEndian.AppendUint32(nil, id)))
	}
	family := parseAttrs(nest(7, group(1, "other", 5), group(2, "events", 6)))
	family = map[uint16][]byte{7: family[7]}
	if id, ok := multicastGroup(family, "events"); !ok || id != 6 {
		t.Errorf("events = %d, %v", id, ok)
	}
	if _, ok := multicastGroup(nil, "events"); ok {
		t.Error("a group of nothing")
	}
}

func TestStateOfTwoSides(t *testing.T) {
	word := uint32(Secondary) | uint32(Primary)<<2 | uint32(SyncTarget)<<4 | uint32(Inconsistent)<<9 | uint32(UpToDate)<<13 | 1<<22
	got := parseState(message{minor: 3, attrs: map[uint16][]byte{nlaStateInfo: attr(2, binary.NativeEndian.AppendUint32(nil, word))}})
	want := State{Minor: 3, Role: Secondary, PeerRole: Primary, Connection: SyncTarget, Disk: Inconsistent, PeerDisk: UpToDate, Suspended: true, Fencing: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !got.Connection.Up() || !got.Connection.Resyncing() || Connected.Resyncing() || Connection(18).Resyncing() || WFConnection.Up() {
		t.Error("the connection's words are wrong")
	}
	if got.Connection.String() != "SyncTarget" || Connection(40).String() != "state 40" {
		t.Error("the connection's names are wrong")
	}
}

func TestDisownedLegIsInconsistent(t *testing.T) {
	const data = 8192
	sectors, err := LegSectors(data)
	if err != nil {
		t.Fatal(err)
	}
	leg := &ramLeg{b: make([]byte, sectors*512)}
	if err := WriteMetadata(leg, data, 0x1234567890abcdee); err != nil {
		t.Fatal(err)
	}
	if err := disown(leg, data); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSuperblock(leg, data)
	if err != nil {
		t.Fatal(err)
	}
	if s.Flags&(flagConsistent|flagWasUpToDate|flagPrimary|flagCrashed) != 0 || !s.Clean || s.UUIDs[0] != 0x1234567890abcdee {
		t.Errorf("superblock %+v, want it clean, inconsistent, with its UUID", s)
	}
}
