package member

import (
	"bytes"
	"context"
	"net/http"
	"slices"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// Service is what a member answers other members, behind
// pki.Module.ServerTLS.
type Service struct {
	Module  *pki.Module
	Node    *cluster.Node
	Records Records
	Self    func() domain.Module
	// Authority is that of the domain, on the appliances of the primary pair;
	// nil, or returns nil, where it is not.
	Authority func() *pki.Authority
}

// Handler answers the calls of members. Others may add to it.
func (s *Service) Handler() *http.ServeMux {
	mux := http.NewServeMux()
	peers := s.Node.PeerHandler()
	for _, p := range cluster.PeerPaths() {
		mux.Handle(p, peers)
	}
	mux.Handle(cluster.PingPath, s.Node.Pong())
	mux.HandleFunc("GET "+pathIdentity, answer(func(*http.Request) (any, error) { return s.Self(), nil }))
	mux.HandleFunc("POST "+pathRejoin, answer(s.rejoin))
	mux.HandleFunc("POST "+pathRequest, answer(func(*http.Request) (any, error) {
		request, err := s.Module.Request()
		return renewal{Request: request, Ageing: s.Module.Ageing(), CAs: s.Module.Trusted()}, err
	}))
	mux.HandleFunc("POST "+pathCertificate, answer(func(r *http.Request) (any, error) {
		var t Ticket
		if err := decodeBody(r.Body, &t); err != nil {
			return nil, err
		}
		return struct{}{}, s.Module.Install(t.Certificate, t.CAs)
	}))
	mux.HandleFunc("GET "+pathAuthority, answer(s.exportAuthority))
	return mux
}

// caller is the record of the module at the other end.
func (s *Service) caller(r *http.Request) (domain.Module, error) {
	id, err := pki.PeerIdentity(*r.TLS)
	if err != nil {
		return domain.Module{}, err
	}
	m, ok, err := s.Records.Modules.Get(r.Context(), id.Serial)
	if err == nil && (!ok || m.State == domain.ModuleQuarantined) {
		err = domain.Errorf(domain.Forbidden, id.String(), "takes no part in this domain").
			Fix("Claim it with bayctl appliance claim.")
	}
	return m, err
}

// rejoin makes room for a member whose own state is damaged.
func (s *Service) rejoin(r *http.Request) (any, error) {
	m, err := s.caller(r)
	if err != nil {
		return nil, err
	}
	var want cluster.Peer
	if err := decodeBody(r.Body, &want); err != nil {
		return nil, err
	}
	if _, err := s.Records.Modules.Update(r.Context(), m.ID, func(m *domain.Module) error {
		m.State = domain.ModuleJoining
		return nil
	}); err != nil {
		return nil, err
	}
	return s.Node.Add(r.Context(), cluster.Peer{Name: m.ID, URL: want.URL})
}

// exportAuthority hands the CA to the other appliance of the primary pair.
func (s *Service) exportAuthority(r *http.Request) (any, error) {
	m, err := s.caller(r)
	switch {
	case err != nil:
		return nil, err
	case m.Role != domain.RoleOfAppliance:
		return nil, domain.Errorf(domain.Forbidden, "module "+m.ID, "is no appliance of the primary pair: the CA's key is not for it")
	case s.Authority != nil:
		if a := s.Authority(); a != nil {
			return a.Export()
		}
	}
	return nil, domain.Errorf(domain.Unavailable, "authority", "is not here").Fix("Ask the active appliance.")
}

// Reenter asks the members for a new place for this module, whose own state was
// damaged and set aside; url is its address. It returns what to join with.
func Reenter(ctx context.Context, m *pki.Module, st State, url string) ([]cluster.Peer, error) {
	var last error = domain.Errorf(domain.Unavailable, "domain "+st.Name, "has no other member that is known here")
	own, _ := m.Identity()
	for _, p := range st.Peers {
		if p.Name == own.Serial {
			continue
		}
		var peers []cluster.Peer
		if last = call(ctx, m.ClientTLS(nil), trimScheme(p.URL), "POST", pathRejoin, cluster.Peer{URL: url}, &peers); last == nil {
			return peers, nil
		}
	}
	return nil, last
}

// FetchAuthority copies the domain's CA into dir from the appliance at address.
func FetchAuthority(ctx context.Context, m *pki.Module, address, dir string) error {
	var files map[string][]byte
	if err := call(ctx, m.ClientTLS(nil), address, "GET", pathAuthority, nil, &files); err != nil {
		return err
	}
	return pki.Import(dir, files)
}

func trimScheme(url string) string {
	const https = "https://"
	if len(url) > len(https) && url[:len(https)] == https {
		return url[len(https):]
	}
	return url
}

// renewal is what a module says of its certificate.
type renewal struct {
	Request []byte `json:"request"`
	Ageing  bool   `json:"ageing"`
	CAs     []byte `json:"cas"` // that it trusts
}

// renew gives a module a new certificate when the old one ages or the CAs have
// changed. One that does not answer is asked the next time.
func (c *Claims) renew(ctx context.Context, m domain.Module) error {
	d, ok, err := c.Records.Domain.Get(ctx)
	if err != nil || !ok {
		return err
	}
	own, _ := c.Self.Identity()
	if m.ID == own.Serial {
		return c.renewSelf(d, m)
	}
	var have renewal
	if err := call(ctx, c.clientTLS(m), m.Address, "POST", pathRequest, nil, &have); err != nil {
		return nil
	}
	cas, err := c.Authority.Bundle()
	if err != nil || !have.Ageing && sameCAs(have.CAs, cas) {
		return err
	}
	t := Ticket{}
	if t.Certificate, t.CAs, err = c.sign(d, m, have.Request); err != nil {
		return err
	}
	if err := call(ctx, c.clientTLS(m), m.Address, "POST", pathCertificate, t, nil); err != nil {
		return err
	}
	c.Log.Info("certificate renewed", "module", m.ID)
	return nil
}

func (c *Claims) renewSelf(d domain.Domain, m domain.Module) error {
	cas, err := c.Authority.Bundle()
	if err != nil || !c.Self.Ageing() && sameCAs(c.Self.Trusted(), cas) {
		return err
	}
	return enrol(c.Authority, c.Self, d.ID, m)
}

func sameCAs(a, b []byte) bool {
	clean := func(b []byte) []byte { return bytes.TrimSpace(slices.Clone(b)) }
	return bytes.Equal(clean(a), clean(b))
}
