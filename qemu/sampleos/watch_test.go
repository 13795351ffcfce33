package sampleos

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadFindsTheLongestGapAndEachError(t *testing.T) {
	const calm = "SAMPLE-OS UP hostname=web-1 seq=0 t=3.1\r\nSAMPLE-OS IO writes=40 errors=0 mismatches=0 maxgap=12ms seq=40 synced=38\r\n"
	for name, c := range map[string]struct {
		text string
		want Report
	}{
		"nothing": {"", Report{}},
		"calm":    {calm, Report{Writes: 40, Gap: 12 * time.Millisecond}},
		"a gap":   {calm + "SAMPLE-OS GAP 1.93 s\r\n" + calm, Report{Writes: 40, Gap: 1930 * time.Millisecond}},
		"one that lasts": {calm + "SAMPLE-OS IO writes=41 errors=0 mismatches=0 maxgap=7301ms seq=41 synced=38\r\n",
			Report{Writes: 41, Gap: 7301 * time.Millisecond}},
		"an error": {calm + "SAMPLE-OS IOERROR write seq=41: input/output error\r\nSAMPLE-OS IO writes=40 errors=1 mismatches=0 maxgap=12ms seq=40 synced=38\r\n",
			Report{Writes: 40, Errors: 1, Gap: 12 * time.Millisecond, Bad: []string{"SAMPLE-OS IOERROR write seq=41: input/output error"}}},
		"cut off": {"SAMPLE-OS IO writes=40 errors=0 mism", Report{}},
	} {
		got := Read(c.text)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.Clean() != (len(c.want.Bad) == 0) {
			t.Errorf("%s: Clean() = %v", name, got.Clean())
		}
	}
}
