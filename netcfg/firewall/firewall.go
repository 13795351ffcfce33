// Package firewall lets exactly the documented ports of a module be reached,
// on each of its networks.
//
// Ports is the one table of them: rules are made of it (Rules, pure) and so is
// the table in docs/network.md. Apply puts the rules into the kernel, in a
// table of our own (nftables); other tables and links that are not ours are
// left alone.
//
// There is no connection tracking, which would cost the iSCSI traffic a lookup
// for each packet. TCP needs none: only a packet with SYN and without ACK opens
// a connection, so every other TCP packet is accepted by the second rule, and
// all of a session's data ends there. UDP has no such mark: answers to
// questions of ours, and TFTP transfers, come in on the ports that the kernel
// hands out (ip_local_port_range), which are open; nothing waits for strangers
// there.
package firewall

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// A Network is one of a module's networks.
type Network string

// The networks. Closed is for links that carry others, such as the bond: no
// port is open there.
const (
	Management Network = "management"
	Deployment Network = "deployment"
	FrameLink  Network = "frame link"
	Closed     Network = "none"
)

// Proto is a transport protocol.
type Proto string

// The protocols.
const (
	TCP Proto = "tcp"
	UDP Proto = "udp"
)

// A Port is a port that others may reach.
type Port struct {
	Network     Network
	Proto       Proto
	First, Last uint16
	Service     string
	Who         string // talks to it
}

// The ports that the kernel hands out, ip_local_port_range of ip(7).
const ephemeralFirst, ephemeralLast = 32768, 60999

// Ports are all ports that are open; whoever listens on another one adds a
// line. ICMP is open everywhere: echo, path MTU, neighbour discovery.
var Ports = []Port{
	{Management, TCP, 443, 443, "REST and UI, HTTPS", "administrators, clients"},
	{Management, TCP, 7974, 7974, "health, HTTP: GET /health", "monitoring"},
	{Management, TCP, 7973, 7973, "modules of the domain, mutual TLS; claims", "appliances and witnesses"},
	{Management, UDP, 7973, 7973, "announcements of modules, link-local multicast", "appliances and witnesses"},
	{Management, UDP, 7974, 7974, "words between the appliances of a pair", "the partner"},
	{Management, UDP, 68, 68, "DHCP client, where no address is set", "DHCP server"},
	{Management, UDP, ephemeralFirst, ephemeralLast, "answers to DNS, NTP and the like", "servers that were asked"},
	{Deployment, TCP, 3260, 3260, "iSCSI portal", "compute modules"},
	{Deployment, TCP, 7000, 7900, "mirrors of OS volumes (DRBD)", "the partner"},
	{Deployment, UDP, 7974, 7974, "words between the appliances of a pair", "the partner"},
	{Deployment, UDP, 67, 67, "DHCP for compute modules", "compute modules"},
	{Deployment, UDP, 69, 69, "TFTP: network boot programs", "compute modules"},
	{Deployment, UDP, ephemeralFirst, ephemeralLast, "TFTP transfers", "compute modules"},
	{Deployment, TCP, 80, 80, "HTTP: boot scripts, kernels", "compute modules"},
	{FrameLink, UDP, ephemeralFirst, ephemeralLast, "answers of the frame manager", "frame manager"},
}

// Links says which link, by the kernel's name, is on which network.
type Links map[string]Network

// Verdict is what a rule does with a packet.
type Verdict string

// The verdicts.
const (
	Accept Verdict = "accept"
	Reject Verdict = "reject" // with a TCP reset, or ICMP port unreachable
	Drop   Verdict = "drop"
)

// A Rule is one rule of the input chain. Zero fields match anything.
type Rule struct {
	Link        string
	Proto       string // tcp, udp, icmp, icmpv6
	First, Last uint16 // destination ports
	NotSyn      bool   // TCP packets that open no connection
	ToUs        bool   // not by broadcast or multicast
	Verdict     Verdict
}

// Rules returns the rules for these links, in order. What they do not match is
// accepted: links of others, and those without a name here.
func Rules(links Links, ports []Port) []Rule {
	rules := []Rule{
		{Link: "lo", Verdict: Accept},
		{Proto: "tcp", NotSyn: true, Verdict: Accept},
		{Proto: "icmp", Verdict: Accept},
		{Proto: "icmpv6", Verdict: Accept},
	}
	var names []string
	for name := range links {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, p := range ports {
			if p.Network == links[name] {
				rules = append(rules, Rule{Link: name, Proto: string(p.Proto), First: p.First, Last: p.Last, Verdict: Accept})
			}
		}
	}
	for _, name := range names {
		rules = append(rules,
			Rule{Link: name, Proto: "tcp", Verdict: Reject},
			Rule{Link: name, Proto: "udp", ToUs: true, Verdict: Reject},
			Rule{Link: name, Verdict: Drop})
	}
	return rules
}

// digest names a list of rules; it is kept with the rules in the kernel.
func digest(rules []Rule) []byte {
	h := sha256.Sum256(fmt.Appendf(nil, "1 %v", rules))
	return h[:16]
}

// Markdown is the table of ports for the documentation.
func Markdown(ports []Port) string {
	var b strings.Builder
	b.WriteString("| Network | Port | Service | Reached by |\n|---|---|---|---|\n")
	for _, p := range ports {
		number := fmt.Sprint(p.First)
		if p.Last != p.First {
			number = fmt.Sprintf("%d–%d", p.First, p.Last)
		}
		fmt.Fprintf(&b, "| %s | %s %s | %s | %s |\n", p.Network, p.Proto, number, p.Service, p.Who)
	}
	return b.String()
}
