package qemu

import (
	"testing"
	"time"
)

func TestProbeROMRunsInLongMode(t *testing.T) {
	NeedQEMU(t)
	letters, err := probe(t.Context(), tcg, time.Minute)
	if err != nil || letters != "RPLK" {
		t.Errorf("probe(tcg) = %q, %v, want RPLK", letters, err)
	}
}

func TestDeadlineStretches(t *testing.T) {
	want := time.Second
	if ChooseAccel().Name == "tcg" {
		want *= tcgStretch
	}
	if got := Deadline(time.Second); got != want {
		t.Errorf("Deadline(1s) = %v, want %v", got, want)
	}
}
