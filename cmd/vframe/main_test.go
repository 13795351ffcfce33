package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"baystream/qemu"
)

func TestFlagsTakeOneDash(t *testing.T) {
	got := longFlags([]string{"up", "-detach", "-frames", "2", "--compute=1", "-h", "-1", "--", "-x1"})
	want := []string{"up", "--detach", "--frames", "2", "--compute=1", "-h", "-1", "--", "-x1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("longFlags (-want +got):\n%s", diff)
	}
}

func TestParseFault(t *testing.T) {
	for _, c := range []struct {
		words string
		want  faultRequest
		err   string
	}{
		{"loss ic3 10", faultRequest{Kind: "loss", Network: "ic3", Value: 0.1}, ""},
		{"loss ic3/compute1 2.5%", faultRequest{Kind: "loss", Network: "ic3", Port: "compute1", Value: 0.025}, ""},
		{"loss ic3 101", faultRequest{}, "percentage"},
		{"delay ic6 20ms 5ms", faultRequest{Kind: "delay", Network: "ic6", Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond}, ""},
		{"delay ic6 20", faultRequest{}, "20ms"},
		{"cut management a,b c", faultRequest{Kind: "cut", Network: "management", Groups: [][]string{{"a", "b"}, {"c"}}}, ""},
		{"oneway ic3 a *", faultRequest{Kind: "oneway", Network: "ic3", Port: "a", To: "*"}, ""},
		{"portdown ic3 a", faultRequest{Kind: "portdown", Network: "ic3", Port: "a"}, ""},
		{"heal", faultRequest{Kind: "heal"}, ""},
		{"explode ic3", faultRequest{}, "wrong words"},
		{"loss ic3", faultRequest{}, "wrong words"},
	} {
		got, err := parseFault(strings.Fields(c.words))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("parseFault(%s): %v, want an error with %q", c.words, err, c.err)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("parseFault(%s): %v (-want +got):\n%s", c.words, err, diff)
		}
	}
}

func TestCommandsWithoutAFrameSayHowToStartOne(t *testing.T) {
	for _, args := range [][]string{{"down"}, {"status"}, {"power", "compute1", "on"}, {"console", "compute1"}, {"fault", "heal"}, {"capture", "ic3", "f"}} {
		var out bytes.Buffer
		err := run(t.Context(), append(args, "-dir", t.TempDir()), &out)
		if err == nil || !strings.Contains(err.Error(), "vframe up") {
			t.Errorf("vframe %v = %v, want the way out", args, err)
		}
	}
}

func TestConsoleKeysEndAtTheLeaveKey(t *testing.T) {
	var sent bytes.Buffer
	keys(&sent, strings.NewReader("root\r\x1dnot this"))
	if got, want := sent.String(), "root\r"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestConsoleOfAnApplianceIsItsOperators(t *testing.T) {
	appliance := qemu.BayState{Bay: "appliance1", Kind: qemu.ApplianceBay, ConsoleSocket: "first", OperatorSocket: "second"}
	compute := qemu.BayState{Bay: "compute1", Kind: qemu.ComputeBay, ConsoleSocket: "first", OperatorSocket: "second"}
	for _, tt := range []struct {
		bay  qemu.BayState
		port int
		want string
	}{{appliance, 0, "second"}, {appliance, 1, "first"}, {compute, 0, "first"}, {compute, 2, "second"}, {compute, 3, ""}} {
		got, err := serialLine(tt.bay, tt.port)
		if got.socket != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("serialLine(%s, %d) = %q, %v; want %q", tt.bay.Bay, tt.port, got.socket, err, tt.want)
		}
	}
}
