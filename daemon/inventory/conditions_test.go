package inventory

import (
	"testing"
	"time"

	"baystream/hw/ipmi"
)

func TestAFlappingLinkDoesNotFillTheLog(t *testing.T) {
	var c conditions
	at := time.Unix(1_000_000, 0)
	lost, back := ipmi.Event{Kind: ipmi.LinkLost, Code: 2}, ipmi.Event{Kind: ipmi.LinkBack, Code: 2}
	written := 0
	for i := range 24 * 3600 {
		e := lost
		if i%2 == 1 {
			e = back
		}
		if c.note(e, at) {
			written++
		}
		written += len(c.due(at))
		at = at.Add(time.Second)
	}
	if written < 4 || written > 16 {
		t.Errorf("%d records of a link that came and went for a day, want some", written)
	}
	// What it is in the end is told.
	c.note(lost, at)
	late := at.Add(7 * time.Hour)
	c.due(late)
	if v := c.by[lost]; !v.logged || len(c.due(late.Add(24*time.Hour))) > 0 {
		t.Errorf("%+v: the end of it is not told", v)
	}
}

func TestConditionsGoOnFromWhatTheLogSays(t *testing.T) {
	record := func(k ipmi.EventKind, code byte) ipmi.Record {
		return ipmi.Record{Event: &ipmi.Event{Kind: k, Code: code}}
	}
	var c conditions
	c.learn([]ipmi.Record{{Text: "another's"}, record(ipmi.Started, 0),
		record(ipmi.Maintenance, ipmi.ReasonBay), record(ipmi.MaintenanceEnded, ipmi.ReasonBay), record(ipmi.Maintenance, ipmi.ReasonDisk)})
	at := time.Unix(1_000_000, 0)
	for _, tc := range []struct {
		kind ipmi.EventKind
		code byte
		want bool
	}{
		{ipmi.MaintenanceEnded, ipmi.ReasonBay, false}, // told already
		{ipmi.MaintenanceEnded, ipmi.ReasonCrashLoop, false},
		{ipmi.Maintenance, ipmi.ReasonDisk, false},
		{ipmi.MaintenanceEnded, ipmi.ReasonDisk, true},
		{ipmi.Maintenance, ipmi.ReasonBay, true},
		{ipmi.DiskReplaced, 2, true}, // one more
		{ipmi.Started, 0, true},
		{ipmi.Started, 0, true},
		{ipmi.DiskErrors, 1, true},
		{ipmi.DiskErrors, 1, false}, // too soon
		{ipmi.DiskErrors, 2, true},
	} {
		e := ipmi.Event{Kind: tc.kind, Code: tc.code}
		if got := c.note(e, at); got != tc.want {
			t.Errorf("note(%s) = %v, want %v", e, got, tc.want)
		}
	}
	if !c.note(ipmi.Event{Kind: ipmi.DiskErrors, Code: 1}, at.Add(holdFirst)) {
		t.Error("errors after the hold are not told")
	}
}
