package target

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

// op is one step on configfs.
type op struct {
	kind   opKind
	path   string
	value  string // written, or what a link leads to
	secret bool   // keep the value out of messages
	retry  bool   // "busy" passes by itself
}

type opKind uint8

const (
	opMkdir opKind = iota
	opWrite
	opLink
	opUnlink
	opRemove
)

func (o op) String() string {
	switch o.kind {
	case opMkdir:
		return "mkdir " + o.path
	case opWrite:
		if o.secret {
			return "write " + o.path
		}
		return fmt.Sprintf("write %q to %s", o.value, o.path)
	case opLink:
		return "link " + o.path + " to " + o.value
	case opUnlink:
		return "unlink " + o.path
	}
	return "remove " + o.path
}

func (o op) do(c configfs) error {
	switch o.kind {
	case opMkdir:
		return c.Mkdir(o.path)
	case opWrite:
		return c.Write(o.path, o.value)
	case opLink:
		return c.Link(o.value, o.path)
	case opUnlink:
		return c.Unlink(o.path)
	}
	return c.Remove(o.path)
}

// errBackstore says that the backstore serves another device than wanted.
var errBackstore = errors.New("backstore serves another device: remove the target first")

// plan returns the steps from have to want in an order the kernel accepts. It
// does no I/O. Values that are right are not written again: some attributes
// refuse a write while the LUN is exported. The target is enabled last, when
// everything behind it stands.
func plan(want Target, have state) ([]op, error) {
	p := planner{have: have}
	store := hba + "/" + want.Name
	if have.storeOn && have.device != want.Device {
		return nil, fmt.Errorf("%w (%s, want %s)", errBackstore, have.device, want.Device)
	}
	if have.lunLink != "" && have.lunTo != store {
		return nil, fmt.Errorf("%w (%s, want %s)", errBackstore, have.lunTo, store)
	}
	p.backstore(want, store)
	p.group(want, store)
	p.acls(want)
	p.portals(want)
	if !have.tpgOn {
		p.add(op{kind: opWrite, path: tpgDir(want.IQN) + "/enable", value: "1"})
	}
	return p.ops, nil
}

type planner struct {
	have state
	ops  []op
}

func (p *planner) add(o op) { p.ops = append(p.ops, o) }

// burst is how many bytes a server may send at once: as many as the kernel lets
// follow one leave to send.
const burst = "262144"

// set writes an attribute unless it has the value already.
func (p *planner) set(path, value string, fresh bool) {
	if v, ok := p.have.attrs[path]; ok && !fresh && v == value {
		return
	}
	p.add(op{kind: opWrite, path: path, value: value, secret: strings.Contains(path, "/auth/")})
}

func (p *planner) backstore(want Target, store string) {
	if p.have.store == "" {
		p.add(op{kind: opMkdir, path: store})
	}
	if !p.have.storeOn {
		p.add(op{kind: opWrite, path: store + "/control", value: "udev_path=" + want.Device})
		p.add(op{kind: opWrite, path: store + "/enable", value: "1"})
	}
	p.set(store+"/wwn/vpd_unit_serial", want.Serial, false)
	p.set(store+"/wwn/vendor_id", want.Vendor, false)
	p.set(store+"/wwn/product_id", want.Product, false)
	unmap := "0"
	if want.Unmap {
		unmap = "1"
	}
	p.set(store+"/attrib/emulate_tpu", unmap, false)
	p.set(store+"/attrib/emulate_tpws", unmap, false)
	p.set(store+"/attrib/emulate_3pc", "0", false) // no copy between LUNs: each belongs to one server
}

func (p *planner) group(want Target, store string) {
	d := tpgDir(want.IQN)
	if !p.have.iscsi {
		p.add(op{kind: opMkdir, path: "iscsi/" + want.IQN})
	}
	if !p.have.tpg {
		p.add(op{kind: opMkdir, path: d})
	}
	p.set(d+"/attrib/authentication", "1", false)
	p.set(d+"/attrib/generate_node_acls", "0", false)
	p.set(d+"/attrib/demo_mode_write_protect", "1", false)
	p.set(d+"/param/DefaultTime2Wait", "0", false)
	// The kernel takes 8 KiB at a time by default, and lets the server wait for
	// leave to send (RFC 7143, 13). Servers that ask for less get less.
	p.set(d+"/param/InitialR2T", "No", false)
	p.set(d+"/param/FirstBurstLength", burst, false)
	p.set(d+"/param/MaxRecvDataSegmentLength", burst, false)
	if !p.have.lun {
		p.add(op{kind: opMkdir, path: d + "/lun/lun_0"})
	}
	if p.have.lunLink == "" {
		p.add(op{kind: opLink, path: d + "/lun/lun_0/" + want.Name, value: store})
	}
}

func (p *planner) acls(want Target) {
	d := tpgDir(want.IQN)
	for _, ini := range sorted(p.have.acls) {
		if ini != want.ACL.Initiator {
			p.removeACL(ini)
		}
	}
	a, there := p.have.acls[want.ACL.Initiator]
	dir := d + "/acls/" + want.ACL.Initiator
	if !there {
		p.add(op{kind: opMkdir, path: dir})
	}
	// Without a final newline: the kernel would take it as part of the name.
	p.set(dir+"/auth/userid", want.ACL.User, !there)
	p.set(dir+"/auth/password", string(want.ACL.Secret), !there)
	if !a.lun {
		p.add(op{kind: opMkdir, path: dir + "/lun_0"})
	}
	if a.lunLink == "" {
		p.add(op{kind: opLink, path: dir + "/lun_0/lun_0", value: d + "/lun/lun_0"})
	}
}

func (p *planner) portals(want Target) {
	d := tpgDir(want.IQN) + "/np/"
	found := false
	for _, np := range p.have.portals {
		if np == want.Portal.String() {
			found = true
			continue
		}
		p.add(op{kind: opRemove, path: d + np})
	}
	if !found {
		p.add(op{kind: opMkdir, path: d + want.Portal.String()})
	}
}

func (p *planner) removeACL(ini string) {
	d := tpgDir(p.have.iqn) + "/acls/" + ini
	a := p.have.acls[ini]
	if a.lunLink != "" {
		p.add(op{kind: opUnlink, path: d + "/lun_0/" + a.lunLink})
	}
	if a.lun {
		p.add(op{kind: opRemove, path: d + "/lun_0"})
	}
	p.add(op{kind: opRemove, path: d, retry: true})
}

// teardown returns the steps that take a target and its backstore away.
func teardown(have state) []op {
	p := planner{have: have}
	d := tpgDir(have.iqn)
	if have.tpgOn {
		p.add(op{kind: opWrite, path: d + "/enable", value: "0"})
	}
	for _, ini := range sorted(have.acls) {
		p.removeACL(ini)
	}
	if have.lunLink != "" {
		p.add(op{kind: opUnlink, path: d + "/lun/lun_0/" + have.lunLink})
	}
	if have.lun {
		p.add(op{kind: opRemove, path: d + "/lun/lun_0", retry: true})
	}
	for _, np := range have.portals {
		p.add(op{kind: opRemove, path: d + "/np/" + np, retry: true})
	}
	if have.tpg {
		p.add(op{kind: opRemove, path: d, retry: true})
	}
	if have.iscsi {
		p.add(op{kind: opRemove, path: "iscsi/" + have.iqn, retry: true})
	}
	if have.store != "" {
		p.add(op{kind: opRemove, path: have.store, retry: true})
	}
	return p.ops
}

func sorted(m map[string]aclHas) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
