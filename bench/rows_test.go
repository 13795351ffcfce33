package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestRuleJudges(t *testing.T) {
	f := figures{"a": {3, 1, 2}, "b": {4}, "zero": {0}}
	for _, c := range []struct {
		name string
		rule rule
		want row
		ok   bool
	}{
		{"below a bound", rule{ours: "a", peer: "b", bound: 0.5}, row{Ours: 2, Peer: 4, Ratio: 0.5, Bound: "<= 0.5", Verdict: "met", Spread: 1}, true},
		{"above a bound", rule{ours: "a", peer: "b", bound: 0.4}, row{Ours: 2, Peer: 4, Ratio: 0.5, Bound: "<= 0.4", Verdict: "MISSED", Spread: 1}, true},
		{"below a minimum", rule{ours: "a", peer: "b", bound: 0.98, atLeast: true}, row{Ours: 2, Peer: 4, Ratio: 0.5, Bound: ">= 0.98", Verdict: "MISSED", Spread: 1}, true},
		{"many times the peer", rule{ours: "a", peer: "b", times: 100, bound: 1}, row{Ours: 2, Peer: 400, Ratio: 0.005, Bound: "<= 1", Verdict: "met", Spread: 1}, true},
		{"without a peer", rule{ours: "b", unit: "MiB", scale: 0.5, bound: 1}, row{Ours: 2, Unit: "MiB", Bound: "<= 1 MiB", Verdict: "MISSED"}, true},
		{"without a bound", rule{ours: "b", peer: "b"}, row{Ours: 4, Peer: 4, Ratio: 1}, true},
		{"peer not measured", rule{ours: "a", peer: "c"}, row{}, false},
		{"not measured", rule{ours: "c"}, row{}, false},
		{"peer of nothing", rule{ours: "a", peer: "zero"}, row{}, false},
	} {
		got, ok := c.rule.row(f)
		if ok != c.ok {
			t.Errorf("%s: row made: %v, want %v", c.name, ok, c.ok)
			continue
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateApprox(1e-9, 0)); ok && diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestRowsSurviveWhatIsMissing(t *testing.T) {
	if got := rows(figures{}); len(got) != 0 {
		t.Errorf("rows of nothing = %+v", got)
	}
	if got := rows(figures{"image-bytes": {41 << 20}}); len(got) != 1 || got[0].Verdict != "MISSED" {
		t.Errorf("rows of a large image = %+v, want one that missed its bound", got)
	}
}

func TestCollect(t *testing.T) {
	f := figures{}
	collect(f, "x-", "noise\r\n    bench clone-64MiB 24.08\nbench clone-64MiB 25\r\nbench end\nbench boot-ms 1.5 odd\n[ 1.0] bench ram-used-kib 7\n")
	want := figures{"x-clone-64MiB": {24.08, 25}, "x-ram-used-kib": {7}}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
}

func TestEtcdShare(t *testing.T) {
	console := `time=2026-11-22T16:51:01.000Z level=INFO msg="other" part=net
time=2026-11-22T16:51:02.250Z level=DEBUG msg="etcd: starting" part=etcd
time=2026-11-22T16:51:03.750Z level=DEBUG msg="etcd: serving" part=etcd
baystream: REST ready https://192.0.2.10:443
time=2026-11-22T16:51:09.000Z level=DEBUG msg="etcd: later" part=etcd
`
	if got, ok := etcdShare(console); !ok || got != 1500 {
		t.Errorf("etcdShare = %v, %v, want 1500 ms", got, ok)
	}
	if got, ok := etcdShare("REST ready"); ok {
		t.Errorf("etcdShare of a console without etcd = %v", got)
	}
}

func TestTableIsMarkdown(t *testing.T) {
	var b bytes.Buffer
	table(&b, report{Rows: []row{{What: "thing", Ours: 1, Unit: "ms", Verdict: "met"}}, Failed: map[string]string{"boot": "no disk"}})
	for _, want := range []string{"| thing | ms", "NOT MEASURED: boot: no disk"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, b.String())
		}
	}
}
