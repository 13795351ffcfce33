package firewall

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the table of ports in docs/network.md")

func TestRules(t *testing.T) {
	got := Rules(Links{"enp1s0": Management, "ic0": Closed}, []Port{
		{Network: Management, Proto: TCP, First: 443, Last: 443},
		{Network: Deployment, Proto: TCP, First: 3260, Last: 3260},
	})
	want := []Rule{
		{Link: "lo", Verdict: Accept},
		{Proto: "tcp", NotSyn: true, Verdict: Accept},
		{Proto: "icmp", Verdict: Accept},
		{Proto: "icmpv6", Verdict: Accept},
		{Link: "enp1s0", Proto: "tcp", First: 443, Last: 443, Verdict: Accept},
		{Link: "enp1s0", Proto: "tcp", Verdict: Reject},
		{Link: "enp1s0", Proto: "udp", ToUs: true, Verdict: Reject},
		{Link: "enp1s0", Verdict: Drop},
		{Link: "ic0", Proto: "tcp", Verdict: Reject},
		{Link: "ic0", Proto: "udp", ToUs: true, Verdict: Reject},
		{Link: "ic0", Verdict: Drop},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Rules (-want +got):\n%s", diff)
	}
}

func TestPortsAreSane(t *testing.T) {
	for _, p := range Ports {
		if p.First == 0 || p.Last < p.First || p.Service == "" || p.Who == "" || p.Network == Closed {
			t.Errorf("%+v", p)
		}
	}
}

// TestDocumentedPorts holds that docs/network.md shows the table as it is; with
// -update it writes it.
func TestDocumentedPorts(t *testing.T) {
	const file, begin, end = "../../docs/network.md", "<!-- ports: go test ./netcfg/firewall -update -->\n", "<!-- end of ports -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: no marks around the table of ports", file)
	}
	want := "\n" + Markdown(Ports) + "\n"
	if have == want {
		return
	}
	if !*update {
		t.Fatalf("%s does not show the ports that are open; run go test ./netcfg/firewall -update\n%s", file, cmp.Diff(have, want))
	}
	if err := os.WriteFile(file, []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
