package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of our table, in the family inet.
const tableName = "baystream"

// Apply makes these the rules in the calling thread's namespace, in one
// transaction. It says whether anything had to be changed.
func Apply(rules []Rule) (changed bool, err error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("firewall: %w", err)
	}
	if same, err := inPlace(c, rules); err != nil || same {
		return false, err
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	mark := digest(rules)
	for _, r := range rules {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.exprs(), UserData: mark})
	}
	if err := c.Flush(); err != nil {
		return false, fmt.Errorf("firewall: put %d rules in place: %w%s", len(rules), err, remedy(err))
	}
	return true, nil
}

// Remove takes our table away.
func Remove() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	c.AddTable(table)
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("firewall: remove the rules: %w%s", err, remedy(err))
	}
	return nil
}

// inPlace says whether the kernel has these rules.
func inPlace(c *nftables.Conn, rules []Rule) (bool, error) {
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	have, err := c.GetRules(table, &nftables.Chain{Name: "input", Table: table})
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("firewall: read the rules: %w%s", err, remedy(err))
	}
	mark := digest(rules)
	for _, r := range have {
		if !bytes.Equal(r.UserData, mark) {
			return false, nil
		}
	}
	return len(have) == len(rules), nil
}

func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return " (run as root, with CAP_NET_ADMIN)"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPROTONOSUPPORT):
		return " (load the kernel modules for it: nf_tables, nft_reject_inet)"
	}
	return ""
}

// exprs is the rule in the machine language of nftables: loads into a
// register, and comparisons that end the rule when they fail.
func (r Rule) exprs() []expr.Any {
	var e []expr.Any
	load := func(key expr.MetaKey) { e = append(e, &expr.Meta{Key: key, Register: 1}) }
	equals := func(data []byte) { e = append(e, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}) }
	if r.Link != "" {
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, r.Link)
		load(expr.MetaKeyIIFNAME)
		equals(name)
	}
	if r.Proto != "" {
		load(expr.MetaKeyL4PROTO)
		equals([]byte{protocols[r.Proto]})
	}
	if r.NotSyn {
		const flags, syn, synAck = 13, 0x02, 0x12
		e = append(e,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{synAck}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{syn}})
	}
	if r.First != 0 {
		e = append(e, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
		if first, last := binary.BigEndian.AppendUint16(nil, r.First), binary.BigEndian.AppendUint16(nil, r.Last); r.First == r.Last {
			equals(first)
		} else {
			e = append(e, &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: first, ToData: last})
		}
	}
	if r.ToUs {
		load(expr.MetaKeyPKTTYPE)
		equals([]byte{unix.PACKET_HOST})
	}
	switch r.Verdict {
	case Accept:
		e = append(e, &expr.Verdict{Kind: expr.VerdictAccept})
	case Drop:
		e = append(e, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
	case Reject:
		how := &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}
		if r.Proto == "tcp" {
			how = &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}
		}
		e = append(e, &expr.Counter{}, how)
	}
	return e
}

var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP, "icmpv6": unix.IPPROTO_ICMPV6}
