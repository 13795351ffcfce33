package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Three frames have a pair: the appliances of the first two, and the witness in
// the third. Their modules come up as strangers; FormDomain makes a domain of
// them as an administrator does, with the fingerprints that consoles show.

const (
	domainPath     = "/rest/baystream/domain"
	appliancesPath = "/rest/baystream/appliances"
	memberState    = "member"
	lookAgain      = 250 * time.Millisecond
)

// keyLine is what a module that can be claimed shows on its console.
var keyLine = regexp.MustCompile(`(?i)key SHA-256 ([0-9a-f:]{64,})\s`)

// A Member is a module of a domain, or one that asks to be claimed, as REST
// shows it.
type Member struct {
	ID          string `json:"id"` // serial number
	Frame       string `json:"frame"`
	Role        string `json:"role"`
	State       string `json:"state"`
	Fingerprint string `json:"fingerprint"`
	Detail      string `json:"detail"`
}

func (r *rig) pairState() *PairState {
	if r.service == "" {
		return nil
	}
	p := &PairState{Service: r.service, Address: serviceAddress().Addr().String(), Formed: r.formed.Load()}
	for _, a := range portals() {
		p.Portals = append(p.Portals, a.String())
	}
	return p
}

// Modules are the appliances and the witness of the linked frames, in order.
func (f *Frame) Modules() (modules []*Bay) {
	for _, g := range f.rig.frames {
		modules = append(modules, g.Appliance())
	}
	return modules
}

// Standalone are the linked frames whose appliances are set up each by itself:
// all, or the first if there is a pair, which the others are claimed for.
func (f *Frame) Standalone() []*Frame {
	if f.rig.service != "" {
		return f.rig.frames[:1]
	}
	return f.rig.frames
}

// FormDomain makes the first appliance, which Setup has set up, the first of a
// domain, and claims the other modules for it. It returns when all are members.
// Progress, if not nil, hears what is done.
func (f *Frame) FormDomain(ctx context.Context, name string, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	rest := f.rig.frames[0].REST()
	if rest == nil {
		return errors.New("form domain: the first appliance is not set up; call Setup first")
	}
	err := rest.Get(ctx, domainPath, nil)
	if refused := (*RESTError)(nil); errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		err = rest.Do(ctx, http.MethodPost, domainPath, map[string]string{"name": name}, nil)
	}
	if err != nil {
		return fmt.Errorf("form domain: %w", err)
	}
	progress("domain " + name)
	known, err := rest.Members(ctx)
	if err != nil {
		return fmt.Errorf("form domain: %w", err)
	}
	for _, b := range f.Modules()[1:] {
		if slices.ContainsFunc(known, func(m Member) bool { return m.ID == b.Identity.Serial && m.State == memberState }) {
			continue // of an earlier run
		}
		if err := rest.Claim(ctx, b); err != nil {
			return fmt.Errorf("form domain: claim %s: %w", b.Name(), err)
		}
		progress(b.Name() + " claimed as " + b.Role())
		// One after the other: each that joins changes the votes.
		if err := rest.WaitMember(ctx, b.Identity.Serial); err != nil {
			return fmt.Errorf("form domain: %w", err)
		}
		progress(b.Name() + " is a member")
	}
	f.rig.formed.Store(true)
	return f.WriteState()
}

// Claim takes a module that nobody has claimed into the domain: it waits until
// the module announces itself with the fingerprint on its console.
func (c *Client) Claim(ctx context.Context, b *Bay) error {
	m, err := b.WaitConsole(ctx, keyLine)
	if err != nil {
		return err
	}
	fingerprint := strings.ToLower(strings.ReplaceAll(m[1], ":", ""))
	if sum, err := hex.DecodeString(fingerprint); err != nil || len(sum) != 32 {
		return fmt.Errorf("fingerprint %q on the console: want 32 bytes", m[1])
	}
	found := func(m Member) bool { return m.ID == b.Identity.Serial && m.Fingerprint == fingerprint }
	if err := c.waitModule(ctx, "announces itself", found); err != nil {
		return err
	}
	claim := map[string]string{"id": b.Identity.Serial, "fingerprint": fingerprint, "role": b.Role()}
	for {
		err := c.Do(ctx, http.MethodPost, appliancesPath, claim, nil)
		var refused *RESTError
		if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable {
			return err
		}
		select { // votes change hands: try again, as it says
		case <-ctx.Done():
			return err
		case <-time.After(lookAgain):
		}
	}
}

// WaitMember waits until the module with that serial number takes part.
func (c *Client) WaitMember(ctx context.Context, id string) error {
	return c.waitModule(ctx, "is a member", func(m Member) bool { return m.ID == id && m.State == memberState })
}

// Members are the modules that REST lists.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	var page struct {
		Members []Member `json:"members"`
	}
	err := c.Get(ctx, appliancesPath, &page)
	return page.Members, err
}

// waitModule asks until a module is as it should be. The appliance may refuse
// meanwhile: it takes votes in.
func (c *Client) waitModule(ctx context.Context, what string, ok func(Member) bool) error {
	for {
		seen, err := c.Members(ctx)
		for _, m := range seen {
			if ok(m) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no module %s: %w; seen %+v (%v)", what, ctx.Err(), seen, err)
		case <-time.After(lookAgain):
		}
	}
}

// Service returns a client of the address where a pair's management answers,
// with the session of the first appliance's administrator. Each request makes a
// connection of its own, and tries again soon when it is not accepted: no request
// waits for a module that died.
func (f *Frame) Service() (*Client, error) {
	return f.clientAt(f.rig.service, serviceAddress().Addr())
}

// Module returns a client of the module in a bay, whether it is active or not,
// with the session of the first appliance's administrator.
func (f *Frame) Module(b *Bay) (*Client, error) {
	at, err := netip.ParseAddr(b.address)
	if err != nil {
		return nil, fmt.Errorf("%s has no management: %w", b.Name(), err)
	}
	return f.clientAt("https://"+b.address, at)
}

// connectTime is how long a module has to accept a connection, until it is tried
// again after connectPause.
const (
	connectTime  = 300 * time.Millisecond
	connectPause = 50 * time.Millisecond
)

func (f *Frame) clientAt(base string, addr netip.Addr) (*Client, error) {
	r := f.rig
	rest := r.frames[0].REST()
	if r.service == "" || rest == nil {
		return nil, errors.New("there is no pair here, or it is not set up")
	}
	t := rest.http.Transport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	to := netip.AddrPortFrom(addr, httpsPort).String()
	t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		for { // nothing was sent yet: another may have the address by now
			once, cancel := context.WithTimeout(ctx, connectTime)
			conn, err := r.host.DialContext(once, network, to)
			cancel()
			if err == nil {
				return conn, nil
			}
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(connectPause):
			}
		}
	}
	c := newClient(base, t)
	c.token = rest.token
	return c, nil
}

// What can be cut between two modules.
const (
	MirrorLink     = "mirror"     // the interconnects: what DRBD uses
	ManagementLink = "management" // what the domain's votes use
	AllLinks       = "all"
)

// CutOneWay drops what one module sends to another on a link, and nothing else:
// third parties hear both.
func (f *Frame) CutOneWay(link string, from, to *Bay) error {
	var networks []string
	switch link {
	case MirrorLink:
		networks = []string{IC3, IC6}
	case ManagementLink:
		networks = []string{Management}
	case AllLinks:
		networks = []string{Management, IC3, IC6}
	default:
		return fmt.Errorf("link %q: want %s, %s or %s", link, MirrorLink, ManagementLink, AllLinks)
	}
	var stations []net.HardwareAddr
	for _, n := range from.cfg.NICs {
		stations = append(stations, n.MAC)
	}
	for _, name := range networks {
		n, err := f.Network(name)
		if err != nil {
			return err
		}
		if err := n.Deafen(to.Name(), stations...); err != nil {
			return err
		}
	}
	return nil
}

// CutLink is CutOneWay in both directions.
func (f *Frame) CutLink(link string, a, b *Bay) error {
	return errors.Join(f.CutOneWay(link, a, b), f.CutOneWay(link, b, a))
}

// MendLinks ends what CutLink and CutOneWay did, everywhere.
func (f *Frame) MendLinks() {
	for _, n := range f.rig.networks {
		n.Undeafen()
	}
}

// Flap cuts a link between two modules and mends it again, each for half of the
// period, until ctx ends; then it is mended.
func (f *Frame) Flap(ctx context.Context, link string, a, b *Bay, period time.Duration) error {
	defer f.MendLinks()
	t := time.NewTicker(period / 2)
	defer t.Stop()
	for cut := true; ; cut = !cut {
		if !cut {
			f.MendLinks()
		} else if err := f.CutLink(link, a, b); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
