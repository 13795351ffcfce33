package ipmi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var sampleDate = time.Date(2026, 3, 4, 5, 6, 0, 0, time.UTC)

func num(f float64) *float64 { return &f }

// TestCapture asks what TestGuest asked of QEMU's simulated controller.
func TestCapture(t *testing.T) {
	look(t, NewClient(loadReplay(t, "testdata/qemu-bmc-sim/messages")))
}

// look asks a controller for everything and compares.
func look(t *testing.T, c *Client) {
	t.Helper()
	ctx := t.Context()
	dev, err := c.Device(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Device{ID: 32, Firmware: "1.42", IPMI: "2.0", Manufacturer: 0x1234, Product: 7}, dev); diff != "" {
		t.Errorf("Device (-want +got):\n%s", diff)
	}
	if ch, err := c.Chassis(ctx); err != nil || !ch.PowerOn || ch.PowerFault {
		t.Errorf("Chassis = %+v, %v, want power on", ch, err)
	}
	fru, err := c.FRU(ctx, 0)
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(FRU{
		Chassis: &FRUArea{Part: "CH-100", Serial: "VF0001"},
		Board:   &FRUArea{Manufacturer: "Baystream", Name: "Virtual board", Part: "B-7", Serial: "VB0001", Made: sampleDate.Format(time.RFC3339)},
		Product: &FRUArea{Manufacturer: "Baystream", Name: "Virtual appliance", Part: "VA-1", Version: "2.0", Serial: "VA0001"},
	}, fru); diff != "" {
		t.Errorf("FRU (-want +got):\n%s", diff)
	}
	if _, err := c.FRU(ctx, 1); !NotPresent(err) {
		t.Errorf("FRU of a device that is not there: %v", err)
	}

	sensors, err := c.Sensors(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got, err := sensors.Read(ctx)
	if err != nil {
		t.Error(err)
	}
	want := []Sensor{
		{Number: 0x10, Name: "CPU temp", Type: "Temperature", Unit: "degrees C", State: Unavailable},
		{Number: 0x11, Name: "Fans", Type: "Fan", State: OK},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Sensors (-want +got):\n%s", diff)
	}

	if log, err := c.Log(ctx); err != nil || len(log) != 0 {
		t.Errorf("Log = %+v, %v, want none", log, err)
	}
	for _, e := range allEvents {
		if _, err := c.Write(ctx, e); err != nil {
			t.Errorf("Write(%s): %v", e, err)
		}
	}
	log, err := c.Log(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, r := range log {
		if r.Source != "baystream" {
			t.Errorf("record %d is from %q", r.ID, r.Source)
		}
		texts = append(texts, r.Text)
		if i := len(texts) - 1; i < len(allEvents) && (r.Event == nil || *r.Event != allEvents[i]) {
			t.Errorf("record %d is the event %+v, want %+v", r.ID, r.Event, allEvents[i])
		}
	}
	if diff := cmp.Diff(eventTexts, texts); diff != "" {
		t.Errorf("Log (-want +got):\n%s", diff)
	}
	if info, err := c.LogInfo(ctx); err != nil || info.Entries != len(allEvents) || info.FreeBytes == 0 || info.Overflow {
		t.Errorf("LogInfo = %+v, %v", info, err)
	}
}

var allEvents = []Event{
	{Kind: Started}, {Kind: DiskFailed, Code: 2}, {Kind: DiskReplaced, Code: 2},
	{Kind: Maintenance, Code: ReasonBay}, {Kind: MaintenanceEnded, Code: ReasonBay},
	{Kind: Fence, Bay: BayOf("device", 3)}, {Kind: Updated}, {Kind: DiskErrors, Code: 1},
	{Kind: LinkLost, Code: NetworkInterconnect}, {Kind: LinkBack, Code: NetworkInterconnect},
}

var eventTexts = []string{
	"appliance started", "disk 2 failed or was removed", "disk 2 is there again",
	"maintenance: sources of the bay's identity disagree", "maintenance ended",
	"device bay 3 was cut off from power", "another version of the image starts",
	"disk 1 has I/O errors", "no carrier: interconnect ports", "carrier is back: interconnect ports",
}

// script is a controller that answers by a function.
type script func(netFn, cmd byte, data []byte) []byte

func (script) Close() error { return nil }
func (s script) Exchange(_ context.Context, netFn, cmd byte, data []byte) ([]byte, error) {
	return s(netFn, cmd, data), nil
}

// A controller with a small buffer, words for units, and a FRU of odd size.
func TestFRUIsReadInSmallPieces(t *testing.T) {
	whole := []byte(strings.Repeat("0123456789", 9))
	for _, words := range []bool{false, true} {
		c := NewClient(script(func(_, cmd byte, data []byte) []byte {
			if cmd == 0x10 {
				flag := byte(0)
				if words {
					flag = 1
				}
				return []byte{0, byte(len(whole)), 0, flag}
			}
			at, n := int(data[1])|int(data[2])<<8, int(data[3])
			if words {
				at, n = at*2, n*2
			}
			if n > 10 {
				return []byte{byte(codeTooMuchAsked)}
			}
			part := whole[at:min(at+n, len(whole))]
			count := len(part)
			if words {
				count /= 2
			}
			return append([]byte{0, byte(count)}, part...)
		}))
		got, err := c.FRUData(t.Context(), 1)
		if err != nil || string(got) != string(whole) {
			t.Errorf("FRUData, words %v = %q, %v", words, got, err)
		}
	}
}

// Sensor records in parts, with a reservation that is lost once.
func TestSensorRecordInParts(t *testing.T) {
	rec := temperatureRecord(7)
	lost := false
	c := NewClient(script(func(_, cmd byte, d []byte) []byte {
		switch {
		case cmd == 0x22:
			return []byte{0, 9, 0}
		case d[5] == 0xff:
			return []byte{byte(codeTooMuchAsked)}
		case d[4] > 20 && !lost:
			lost = true
			return []byte{byte(codeReservationLost)}
		}
		return append([]byte{0, 0xff, 0xff}, rec[d[4]:min(int(d[4]+d[5]), len(rec))]...)
	}))
	got, err := c.records(t.Context())
	if err != nil || !lost {
		t.Fatalf("records: %v", err)
	}
	if diff := cmp.Diff([][]byte{rec}, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestChainsOfRecordsEnd(t *testing.T) {
	c := NewClient(script(func(_, cmd byte, _ []byte) []byte { // next record: always 1
		return append([]byte{0, 1, 0}, make([]byte, 16)...)
	}))
	if _, err := c.Log(t.Context()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("Log of a chain in a circle: %v", err)
	}
	if _, err := c.Sensors(t.Context()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("Sensors of a chain in a circle: %v", err)
	}
}

func TestFullLogSaysWhatToDo(t *testing.T) {
	c := NewClient(script(func(byte, byte, []byte) []byte { return []byte{byte(codeOutOfSpace)} }))
	if _, err := c.Write(t.Context(), Event{Kind: Started}); !errors.Is(err, ErrLogFull) {
		t.Errorf("Write to a full log: %v", err)
	}
}

func TestSensorStates(t *testing.T) {
	p := probe{name: "t", class: 1, full: temperature(), rec: temperatureRecord(1)}
	for _, tc := range []struct {
		answer  []byte
		state   State
		reading *float64
	}{
		{[]byte{40, 0x40, 0x00}, OK, num(40)},
		{[]byte{0xf6, 0x40}, OK, num(15)}, // -10 steps, no comparison
		{[]byte{62, 0x40, 0x08}, NonCritical, num(51)},
		{[]byte{82, 0x40, 0x18}, Critical, num(61)},
		{[]byte{102, 0x40, 0x38}, NonRecoverable, num(71)},
		{[]byte{0x80, 0x40, 0x02}, Critical, num(-44)},
		{[]byte{40, 0x60, 0x00}, Unavailable, nil}, // reading is not available
		{[]byte{40, 0x00, 0x00}, Unavailable, nil}, // not scanned
	} {
		v := Sensor{State: Unavailable}
		p.judge(&v, tc.answer)
		if v.State != tc.state || !cmp.Equal(v.Reading, tc.reading) {
			t.Errorf("judge(%x) = %s, %v, want %s, %v", tc.answer, v.State, v.Reading, tc.state, tc.reading)
		}
	}
}

func TestDiscreteSensorNamesItsStates(t *testing.T) {
	all, err := probes([][]byte{fan()})
	if err != nil || len(all) != 1 {
		t.Fatalf("probes = %v, %v", all, err)
	}
	var v Sensor
	all[0].judge(&v, []byte{0, 0xc0, 0x04, 0x80})
	if diff := cmp.Diff(Sensor{State: OK, Asserted: []string{"Redundancy Degraded"}}, v); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	all[0].judge(&v, []byte{0, 0xc0, 0, 0x40})
	if got := v.Asserted[len(v.Asserted)-1]; got != "state 14" {
		t.Errorf("a state without a name is %q", got)
	}
}

// Thresholds come from the controller; one that does not tell has those of the
// sensor record.
func TestSensorThresholds(t *testing.T) {
	told := []byte{0, 0x3b, 10, 0xd8, 0, 60, 80, 100}
	for _, tc := range []struct {
		thresholds []byte
		want       *Thresholds
	}{
		{told, &Thresholds{LowerNonCritical: num(25), LowerCritical: num(0), UpperNonCritical: num(50), UpperCritical: num(60), UpperNonRecoverable: num(70)}},
		{[]byte{byte(codeInvalidCommand)}, &Thresholds{LowerCritical: num(0), UpperNonCritical: num(50), UpperCritical: num(60), UpperNonRecoverable: num(70)}},
		{[]byte{0, 0, 1, 2, 3, 4, 5, 6}, nil},
	} {
		c := NewClient(script(func(_, cmd byte, _ []byte) []byte {
			switch cmd {
			case 0x23:
				return append([]byte{0, 0xff, 0xff}, temperatureRecord(1)...)
			case 0x27:
				return tc.thresholds
			}
			return []byte{0, 40, 0xc0, 0xc0}
		}))
		s, err := c.Sensors(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := []Sensor{{Number: 0x10, Name: "CPU temp", Type: "Temperature", Unit: "degrees C", Reading: num(40), State: OK, Thresholds: tc.want}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%x (-want +got):\n%s", tc.thresholds, diff)
		}
	}
}

func TestRecordsOfOthers(t *testing.T) {
	for _, tc := range []struct {
		raw  string
		want Record
	}{
		{"\x05\x00\x02\x00\x10\xa0\x69\x20\x00\x04\x01\x30\x01\x57\x3c\x3c", // threshold of a temperature
			Record{ID: 5, Time: time.Unix(0x69a01000, 0).UTC(), Source: "controller", Sensor: "Temperature", Number: 0x30, Text: "Upper Non-critical - going high"}},
		{"\x06\x00\xc0\x00\x10\xa0\x69\x34\x12\x00abcdef",
			Record{ID: 6, Time: time.Unix(0x69a01000, 0).UTC(), Source: "controller", Text: "record 0xc0 of manufacturer 4660: 616263646566"}},
		{"\x07\x00\xe0" + "0123456789abc", Record{ID: 7, Source: "controller", Text: fmt.Sprintf("record 0xe0: %x", "0123456789abc")}},
		{"\x08\x00\x02\x10\x00\x00\x00\x01\x00\x04\x12\x00\x6f\x01\xff\xff", // before the clock was set
			Record{ID: 8, Source: "firmware", Sensor: "System Event", Text: "OEM System Boot Event"}},
	} {
		got, err := parseRecord([]byte(tc.raw))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(Record{}, "Raw")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestDamagedFRU(t *testing.T) {
	good := sampleFRU(t)
	for name, change := range map[string]func(b []byte) []byte{
		"cut off":              func(b []byte) []byte { return b[:len(b)-9] },
		"a flipped bit":        func(b []byte) []byte { b[len(b)-10] ^= 1; return b },
		"no header":            func(b []byte) []byte { b[0] = 7; return b },
		"empty":                func([]byte) []byte { return nil },
		"a field over the end": func(b []byte) []byte { b[8+3] = 0xff; b[8+7] += 0; return fixSum(b, 8) },
	} {
		if f, err := ParseFRU(change(append([]byte(nil), good...))); err == nil {
			t.Errorf("%s: no error: %+v", name, f)
		}
	}
	f, err := ParseFRU(good[:len(good)-9])
	if err == nil || f.Chassis == nil || f.Board == nil || f.Product != nil {
		t.Errorf("a product area that is cut off costs the others: %+v, %v", f, err)
	}
}

// fixSum makes the checksum of the area at offset right again.
func fixSum(b []byte, at int) []byte {
	area := b[at : at+int(b[at+1])*8]
	area[len(area)-1] -= sum(area)
	return b
}

func TestFRUFieldEncodings(t *testing.T) {
	r := &fruReader{b: []byte("\x42\x12\x3a" + "\x83\x29\xdc\xa6" + "\x02\xab\xcd" + "\xc5a\x00b\xe9 " + "\xc0" + "\xc1" + "rest")}
	var got []string
	for !r.end && r.err == nil {
		got = append(got, r.field())
	}
	if diff := cmp.Diff([]string{"123", "IPMI", "abcd", "abé", "", ""}, got); diff != "" || r.err != nil {
		t.Errorf("%v (-want +got):\n%s", r.err, diff)
	}
}

func FuzzParseFRU(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x01\x00\x00\x00\xfe\x01\x01\x00\x00\x00\x00\xc1\x3d"))
	f.Add([]byte{1, 0, 1, 0, 0, 0, 0, 0xfe, 1, 1, 0x17, 0xc0, 0xc0, 0xc1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for at := range len(b) / 8 { // most mutations would only break checksums
			if at*8+8 <= len(b) && b[at*8] == 1 && b[at*8+1] > 0 && at*8+int(b[at*8+1])*8 <= len(b) {
				fixSum(b, at*8)
			}
		}
		if len(b) >= 8 {
			b[7] -= sum(b[:8])
		}
		_, _ = ParseFRU(b)
	})
}

func FuzzSensorRecord(f *testing.F) {
	f.Add(temperatureRecord(1), []byte{40, 0x40, 0, 0})
	f.Add(fan(), []byte{0, 0x40, 1, 0x80})
	f.Fuzz(func(t *testing.T, rec, answer []byte) {
		all, err := probes([][]byte{rec})
		if err != nil || len(answer) < 2 {
			return
		}
		for _, p := range all {
			var v Sensor
			p.judge(&v, answer)
			if p.full != nil {
				thresholds(p.full, recordThresholds(p.rec))
			}
		}
	})
}

func FuzzEventRecord(f *testing.F) {
	for _, e := range allEvents {
		b := e.record()
		f.Add(b[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err == nil && r.Text == "" {
			t.Errorf("record %x has no text", b)
		}
	})
}
