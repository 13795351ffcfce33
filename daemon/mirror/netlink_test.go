package mirror

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestAttributesSurviveTheWire(t *testing.T) {
	n := nest(nlaContext, u32Field(1, 0), strField(2, "v17"))
	top := parseAttrs(n)
	ctx := parseAttrs(top[nlaContext])
	if cstring(ctx[2]) != "v17" || len(ctx[1]) != 4 {
		t.Errorf("context = %v", ctx)
	}
	if binary.NativeEndian.Uint16(n[2:])&nlaNested == 0 {
		t.Error("nest lacks NLA_F_NESTED")
	}
	if got := parseAttrs([]byte{200, 0, 1, 0, 9}); len(got) != 0 {
		t.Errorf("a cut attribute = %v", got)
	}
}

// answer builds a message as DRBD sends it.
func answer(typ uint16, minor uint32, ret int32, attrs ...[]byte) []byte {
	body := binary.NativeEndian.AppendUint32(nil, minor)
	body = binary.NativeEndian.AppendUint32(body, uint32(ret))
	for _, a := range attrs {
		body = append(body, a...)
	}
	return request(typ, 0, 1, 1, body)
}

func TestParseMessages(t *testing.T) {
	const fam = 31
	state := uint32(1) | 8<<9 // primary, UpToDate, StandAlone
	uuids := make([]byte, 32)
	binary.NativeEndian.PutUint64(uuids, 77)
	b := answer(fam, 5, retOK,
		nest(nlaContext, u32Field(1, 0), strField(2, "v5")),
		nest(nlaDiskConf, strField(1, "/dev/dm-3")),
		nest(nlaStateInfo, u32Field(2, state), attr(3, binary.NativeEndian.AppendUint64(nil, 2048)), attr(7, uuids),
			attr(10, binary.NativeEndian.AppendUint64(nil, 2))))
	done := request(unix.NLMSG_DONE, 0, 0, 0, nil)
	msgs, end, err := parseMessages(append(b, done...), fam)
	if err != nil || !end || len(msgs) != 1 {
		t.Fatalf("parseMessages = %v, %v, %v", msgs, end, err)
	}
	want := State{Name: "v5", Minor: 5, Leg: "/dev/dm-3", Role: Primary, Disk: UpToDate, DataSectors: 2048,
		UUIDs: []uint64{77, 0, 0, 0}, OutOfSync: 8192}
	if diff := cmp.Diff(want, parseState(msgs[0])); diff != "" {
		t.Error(diff)
	}
	if _, _, err := parseMessages(b[:len(b)-3], fam); err == nil {
		t.Error("a short message was taken")
	}
	fail := make([]byte, 36)
	binary.NativeEndian.PutUint32(fail, 36)
	binary.NativeEndian.PutUint16(fail[4:], unix.NLMSG_ERROR)
	e := int32(-int(unix.EPERM))
	binary.NativeEndian.PutUint32(fail[16:], uint32(e))
	if _, _, err := parseMessages(fail, fam); !errors.Is(err, unix.EPERM) {
		t.Errorf("error message = %v, want EPERM", err)
	}
}

func TestRefusals(t *testing.T) {
	if err := error(refusal{code: retDeviceInUse}); !errors.Is(err, ErrInUse) {
		t.Errorf("%v is not ErrInUse", err)
	}
	for _, c := range []struct {
		r    refusal
		want string
	}{
		{refusal{code: 165}, "drbd answered 165: the activity log was not applied"},
		{refusal{code: 165, info: "Found unclean meta data."}, "drbd answered 165: Found unclean meta data."},
		{refusal{code: 999}, "drbd answered 999"},
	} {
		if got := c.r.Error(); got != c.want {
			t.Errorf("refusal = %q, want %q", got, c.want)
		}
	}
}

func TestNamesOfStates(t *testing.T) {
	if UpToDate.String() != "UpToDate" || Disk(99).String() != "Unknown" || Primary.String() != "Primary" ||
		Connection(0).String() != "StandAlone" || Connection(31).String() != "state 31" {
		t.Error("a state has a wrong name")
	}
}
