package bayctl

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
)

func (a *app) netCmd() *cobra.Command {
	cmd := simple(a, "net", "Network of the appliance: ports, what is behind them, and what is wrong", "/rest/baystream/net", drawNet)
	cmd.AddCommand(a.netSetCmd())
	return cmd
}

// drawNet draws a module's ports with what stands at the other end of each
// cable, and what the interconnect ports carry.
//
//	slot 1  eth0      ===  leaf-1, port 12                           management     192.0.2.10/24
//	slot 3  eth2      ===  VF0001 interconnect bay 3, appliance-1:a  works, in use
//	slot 6  eth3      ---  VF0001 interconnect bay 6, appliance-1:a  works
//	        |
//	        ic0            active-backup over eth2
//	        ic0.1300       deployment                                               198.51.100.2/24
func drawNet(w io.Writer, v domain.NetReport) {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	for _, p := range v.Ports {
		line(fmt.Sprintf("slot %d", p.Slot), p.Link, cable(p), behind(p.Neighbour), portState(p), addresses(v, p.Link))
	}
	if v.Bond != nil {
		line("", "|", "", "", "", "")
		line("", v.Bond.Name, "", bondMode(*v.Bond), "", addresses(v, v.Bond.Name))
	}
	for _, l := range v.Links {
		port := slices.ContainsFunc(v.Ports, func(p domain.NetPort) bool { return p.Link == l.Name })
		if port || v.Bond != nil && l.Name == v.Bond.Name {
			continue
		}
		state := l.Purpose
		if state == "" {
			state = "not the appliance's"
		}
		if !l.Up {
			state += ", down"
		}
		line("", l.Name, "", state, "", addresses(v, l.Name))
	}
	t.Flush()
	for l := range strings.Lines(b.String()) {
		fmt.Fprintln(w, strings.TrimRight(l, " \n"))
	}
	if len(v.Ports) == 0 {
		fmt.Fprintln(w, "no ports of a module: the network of an ordinary host is left alone")
	}
	if b := v.Bond; b != nil && b.Changes > 0 {
		fmt.Fprintf(w, "\n%s changed its port %d times, last at %s: %s\n", b.Name, b.Changes, clock(b.Changed), b.Reason)
	}
	if t := v.Settings.Trial; t != nil {
		if t.Anywhere {
			fmt.Fprintf(w, "\non trial until %s: deployment %q\n", clock(t.Until), t.Deployment)
		} else {
			fmt.Fprintf(w, "\non trial until %s: management %q, confirmed by a request to its address\n", clock(t.Until), t.Management)
		}
	}
	for _, s := range v.Warnings {
		fmt.Fprintln(w, "\nwarning:", s)
	}
	for _, d := range v.Drift {
		fmt.Fprintln(w, "\ndiffers from what is wanted:", d)
	}
}

// cable is a port's line to its neighbour: double while it carries traffic.
func cable(p domain.NetPort) string {
	switch {
	case !p.Carrier:
		return " / "
	case p.Verdict != "" && p.Verdict != "works" && p.Verdict != "unknown":
		return "-x-"
	case p.InUse:
		return "==="
	}
	return "---"
}

func behind(n *domain.NetNeighbour) string {
	if n == nil {
		return "?"
	}
	name := n.System
	if name == "" {
		name = n.Chassis
	}
	return name + ", " + n.Port
}

func portState(p domain.NetPort) string {
	state := p.Network
	switch {
	case !p.Carrier:
		return state + ", no carrier"
	case p.Network != "interconnect":
		return state
	case p.Verdict != "":
		state = p.Verdict
	}
	if p.InUse {
		state += ", in use"
	}
	return state
}

func bondMode(b domain.NetBond) string {
	if b.Active == "" {
		return b.Mode
	}
	return b.Mode + " over " + b.Active
}

// addresses are those of a link that somebody set or lent.
func addresses(v domain.NetReport, link string) string {
	for _, l := range v.Links {
		if l.Name == link {
			return strings.Join(slices.DeleteFunc(slices.Clone(l.Addresses), func(a string) bool { return strings.HasPrefix(a, "fe80:") }), " ")
		}
	}
	return ""
}

// clock leaves the date of a time stamp out.
func clock(stamp string) string {
	if _, t, ok := strings.Cut(stamp, "T"); ok {
		t, _, _ = strings.Cut(t, ".")
		return t + " UTC"
	}
	return stamp
}
