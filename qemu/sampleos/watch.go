package sampleos

import (
	"regexp"
	"strconv"
	"time"
)

// A Report is what the workload of a running sample OS said on its console in
// some stretch of text.
type Report struct {
	Writes     int // acknowledged since the machine started; 0 if nothing was said
	Errors     int
	Mismatches int
	// Gap is the longest time that one write with its check took, those that
	// were not done yet included.
	Gap time.Duration
	Bad []string // lines that must never come
}

// Clean tells that the server saw no I/O error and read what it had written.
func (r Report) Clean() bool { return r.Errors+r.Mismatches+len(r.Bad) == 0 }

var (
	ioLine  = regexp.MustCompile(`SAMPLE-OS IO writes=(\d+) errors=(\d+) mismatches=(\d+) maxgap=(\d+)ms `)
	gapLine = regexp.MustCompile(`SAMPLE-OS GAP ([0-9.]+) s\s`)
	badLine = regexp.MustCompile(`SAMPLE-OS (IOERROR|MISMATCH|FAILED)[^\r\n]*`)
)

// Read takes a report out of a console's text.
func Read(text string) Report {
	var r Report
	for _, m := range ioLine.FindAllStringSubmatch(text, -1) {
		r.Writes, r.Errors, r.Mismatches = number(m[1]), number(m[2]), number(m[3])
		r.Gap = max(r.Gap, time.Duration(number(m[4]))*time.Millisecond)
	}
	for _, m := range gapLine.FindAllStringSubmatch(text, -1) {
		s, _ := strconv.ParseFloat(m[1], 64) // the pattern has numbers only
		r.Gap = max(r.Gap, time.Duration(s*float64(time.Second)))
	}
	r.Bad = badLine.FindAllString(text, -1)
	return r
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // the pattern has digits only
	return n
}
