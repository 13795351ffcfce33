package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is one comparison.
type row struct {
	What    string  `json:"what"`
	Ours    float64 `json:"ours"`
	Peer    float64 `json:"peer,omitempty"`
	Against string  `json:"against,omitempty"` // who the peer is
	Unit    string  `json:"unit"`
	Ratio   float64 `json:"ratio,omitempty"` // ours / peer
	Bound   string  `json:"bound,omitempty"`
	Verdict string  `json:"verdict"`          // "met", "MISSED", "" without a bound
	Spread  float64 `json:"spread,omitempty"` // (max-min)/median of our samples
}

// rule is how a row is made from figures.
type rule struct {
	what, ours    string  // figure
	peer, against string  // figure and its name
	times         float64 // the peer counts so many times; 0: once
	unit          string
	scale         float64 // of the figures' unit in the row's; 0: 1
	bound         float64 // on the ratio, or on ours without a peer
	atLeast       bool    // the bound is a minimum
}

var rules = []rule{
	{what: "clone of 64 MiB to usable device", ours: "clone-64MiB", peer: "lvcreate-snapshot", against: "lvcreate -s -kn", unit: "ms", bound: 0.06},
	{what: "clone of 4 GiB to usable device", ours: "clone-4GiB", peer: "lvcreate-snapshot", against: "lvcreate -s -kn", unit: "ms", bound: 0.06},
	{what: "clone of 4 GiB against one of 64 MiB", ours: "clone-4GiB", peer: "clone-64MiB", against: "itself, 64 MiB", unit: "ms", bound: 1.05},
	{what: "clone to LUN", ours: "clone-to-lun", peer: "clone-only", against: "itself, without export", unit: "ms"},
	{what: "clone to LUN", ours: "clone-to-lun", peer: "lvcreate-snapshot", against: "lvcreate -s -kn, no LUN", unit: "ms"},
	{what: "100 clones at once, the last", ours: "clones-at-once-100", peer: "clone-64MiB", against: "100 x one clone", times: 100, unit: "ms", bound: 1},
	{what: "100 clones at once, p99", ours: "clones-at-once-p99", peer: "clones-at-once-p50", against: "p50", unit: "ms", bound: 3},
	{what: "first power-on to REST ready", ours: "first-boot-ms", peer: "peer-boot-ms", against: "kernel + empty Go init", unit: "ms", bound: 1.25},
	{what: "second power-on to REST ready", ours: "second-boot-ms", peer: "peer-boot-ms", against: "kernel + empty Go init", unit: "ms", bound: 1.25},
	{what: "second power-on to REST ready", ours: "second-boot-ms", peer: "unpack-boot-ms", against: "our image, empty Go init", unit: "ms"},
	{what: "- etcd's share of the first", ours: "debug-first-etcd-ms", peer: "debug-first-boot-ms", against: "the whole boot", unit: "ms"},
	{what: "- etcd's share of the second", ours: "debug-second-etcd-ms", peer: "debug-second-boot-ms", against: "the whole boot", unit: "ms"},
	{what: "memory used, 32 LUNs exported", ours: "ram-used-kib", unit: "MiB", scale: 1. / 1024, bound: 200},
	{what: "memory used, idle", ours: "idle-used-kib", unit: "MiB", scale: 1. / 1024},
	{what: "- resident set of the daemon", ours: "rss-baystreamd-kib", unit: "MiB", scale: 1. / 1024},
	{what: "- of it not in a file", ours: "anon-baystreamd-kib", unit: "MiB", scale: 1. / 1024},
	{what: "kernel and initramfs", ours: "image-bytes", unit: "MiB", scale: 1. / (1 << 20), bound: 40},
	{what: "iSCSI 4 KiB reads", ours: "ours-read-4k", peer: "lio-read-4k", against: "bare LIO", unit: "IO/s", bound: 0.98, atLeast: true},
	{what: "iSCSI 4 KiB writes", ours: "ours-write-4k", peer: "lio-write-4k", against: "bare LIO", unit: "IO/s", bound: 0.98, atLeast: true},
	{what: "iSCSI 128 KiB reads", ours: "ours-read-128k", peer: "lio-read-128k", against: "bare LIO", unit: "IO/s", bound: 0.98, atLeast: true},
	{what: "iSCSI 128 KiB writes", ours: "ours-write-128k", peer: "lio-write-128k", against: "bare LIO", unit: "IO/s", bound: 0.98, atLeast: true},
	{what: "iSCSI 4 KiB reads", ours: "ours-read-4k", peer: "tgt-read-4k", against: "tgt", unit: "IO/s", bound: 1, atLeast: true},
	{what: "iSCSI 4 KiB writes", ours: "ours-write-4k", peer: "tgt-write-4k", against: "tgt", unit: "IO/s", bound: 1, atLeast: true},
	{what: "iSCSI 128 KiB reads", ours: "ours-read-128k", peer: "tgt-read-128k", against: "tgt", unit: "IO/s", bound: 1, atLeast: true},
	{what: "iSCSI 128 KiB writes", ours: "ours-write-128k", peer: "tgt-write-128k", against: "tgt", unit: "IO/s", bound: 1, atLeast: true},
}

// rows applies the rules; those whose figures are missing make no row.
func rows(f figures) []row {
	var out []row
	for _, u := range slices.Concat(rules, hardwareRules, failoverRules, initRules) {
		if r, ok := u.row(f); ok {
			out = append(out, r)
		}
	}
	return out
}

func (u rule) row(f figures) (row, bool) {
	scale := max(u.scale, 0)
	if scale == 0 {
		scale = 1
	}
	r := row{What: u.what, Against: u.against, Unit: u.unit}
	ours := f[u.ours]
	if len(ours) == 0 || u.peer != "" && len(f[u.peer]) == 0 {
		return r, false
	}
	r.Ours = scale * median(ours)
	if m := median(ours); len(ours) > 1 && m > 0 {
		r.Spread = (slices.Max(ours) - slices.Min(ours)) / m
	}
	judged := r.Ours
	if u.peer != "" {
		r.Peer = scale * max(u.times, 1) * median(f[u.peer])
		if r.Peer == 0 {
			return r, false
		}
		r.Ratio = r.Ours / r.Peer
		judged = r.Ratio
	}
	if u.bound == 0 {
		return r, true
	}
	sign, met := "<=", judged <= u.bound
	if u.atLeast {
		sign, met = ">=", judged >= u.bound
	}
	r.Bound = fmt.Sprintf("%s %g", sign, u.bound)
	if u.peer == "" {
		r.Bound += " " + u.unit
	}
	r.Verdict = "MISSED"
	if met {
		r.Verdict = "met"
	}
	return r, true
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// table prints the rows as people read them; it is valid Markdown too.
func table(out io.Writer, r report) {
	m := r.Machine
	fmt.Fprintf(out, "\n%s, commit %s\n%d x %s, %s, kernel %s, load %s\n%s; guests: %s; %s\n\n", r.Date, m.Commit, m.CPUs, m.CPU, m.Memory, m.Kernel, m.Load, m.QEMU, m.Guest, m.Go)
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	line := func(cells ...string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, "\t| ")) }
	line("what", "unit", "ours", "peer", "against", "ratio", "bound", "verdict", "spread")
	line("---", "---", "---", "---", "---", "---", "---", "---", "---")
	for _, r := range r.Rows {
		line(r.What, r.Unit, number(r.Ours), number(r.Peer), r.Against, ratio(r.Ratio), r.Bound, r.Verdict, percent(r.Spread))
	}
	w.Flush()
	for name, reason := range r.Failed {
		fmt.Fprintf(out, "\nNOT MEASURED: %s: %s\n", name, reason)
	}
}

func number(v float64) string {
	switch {
	case v == 0:
		return ""
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func ratio(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.3f", v)
}

func percent(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100*v)
}
