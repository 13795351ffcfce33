package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"baystream/qemu"
	"baystream/qemu/block"

	"github.com/google/go-cmp/cmp"
)

func TestFlagsTakeOneDash(t *testing.T) {
	got := longFlags([]string{"up", "-detach", "-frames", "2", "--compute=1", "-h", "-1", "--", "-x1"})
	want := []string{"up", "--detach", "--frames", "2", "--compute=1", "-h", "-1", "--", "-x1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("longFlags (-want +got):\n%s", diff)
	}
}

func TestFaultsByHand(t *testing.T) {
	for _, f := range faults() {
		if _, err := findFault(append([]string{f.name}, strings.Fields("a b c d e f")[:f.least]...)); err != nil {
			t.Errorf("fault %s: %v", f.name, err)
		}
		if !strings.HasPrefix(f.example, f.name) || !strings.Contains(faultHelp(), "fault "+f.name+" ") {
			t.Errorf("fault %s has the example %q", f.name, f.example)
		}
	}
	for _, words := range []string{"explode ic3", "loss ic3", "heal a b"} {
		if _, err := findFault(strings.Fields(words)); err == nil || !strings.Contains(err.Error(), "fault ") {
			t.Errorf("fault %s: %v, want what is right", words, err)
		}
	}
}

func TestFaultValues(t *testing.T) {
	var n qemu.Fault
	for _, c := range []struct{ words, err string }{
		{"loss 10", ""}, {"duplicate 2.5%", ""}, {"delay 20ms 5ms", ""},
		{"loss 101", "percentage"}, {"delay 20", "20ms"},
	} {
		words := strings.Fields(c.words)
		now := n
		err := change(&now, words[0], words[1:])
		checkErr(t, c.words, err, c.err)
		if err == nil {
			n = now
		}
	}
	want := qemu.Fault{Loss: 0.1, Duplicate: 0.025, Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond}
	if diff := cmp.Diff(want, n); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
	var d block.Fault
	for _, c := range []struct{ words, err string }{
		{"readerrors 0x1000 8192", ""}, {"delay 1s", ""}, {"full", ""}, {"stall", ""}, {"throttle 50", ""},
		{"errors 1", "wrong words"}, {"throttle fast", "number"}, {"melt", "wrong words"},
	} {
		words := strings.Fields(c.words)
		now := d
		err := breakDisk(&now, words[0], words[1:])
		checkErr(t, c.words, err, c.err)
		if err == nil {
			d = now
		}
	}
	if diff := cmp.Diff(block.Fault{ReadErrors: true, From: 4096, To: 8192, Delay: time.Second, Full: true, Stall: true, PerSecond: 50}, d); diff != "" {
		t.Errorf("disk (-want +got):\n%s", diff)
	}
}

func checkErr(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

func TestCommandsWithoutAFrameSayHowToStartOne(t *testing.T) {
	for _, args := range [][]string{{"down"}, {"status"}, {"power", "compute1", "on"}, {"console", "compute1"}, {"fault", "heal"}, {"capture", "ic3", "f"}, {"plug", "appliance1", "7", "--disk", "1"}, {"unplug", "appliance1", "7"}} {
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
