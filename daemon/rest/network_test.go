package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"baystream/daemon/domain"
)

// fakeNetwork notes what it is asked.
type fakeNetwork struct {
	change    domain.NetChange
	at        netip.Addr
	connected time.Time
	refuse    error
}

func (f *fakeNetwork) NetworkSettings() domain.NetSettings {
	return domain.NetSettings{Management: "address:192.0.2.10/24", From: "frame"}
}

func (f *fakeNetwork) ChangeNetwork(_ context.Context, c domain.NetChange) (domain.NetTrial, error) {
	f.change = c
	return domain.NetTrial{Management: *c.Management, Address: "192.0.2.11"}, f.refuse
}

func (f *fakeNetwork) ConfirmNetwork(at netip.Addr, connected time.Time) error {
	f.at, f.connected = at, connected
	return f.refuse
}

func TestNetworkSettings(t *testing.T) {
	g := readyRig(t)
	if a := g.want(501, "GET", "/rest/baystream/net/settings", nil); a.str("errorCode") == "" {
		t.Errorf("without a network: %v", a)
	}
	f := &fakeNetwork{}
	g.srv.Network = f
	if a := g.want(200, "GET", "/rest/baystream/net/settings", nil); a.str("management") != "address:192.0.2.10/24" {
		t.Errorf("settings = %v", a)
	}
	a := g.want(202, "PUT", "/rest/baystream/net/settings", map[string]any{"management": "address:192.0.2.11/24", "graceSeconds": 30})
	if a.str("address") != "192.0.2.11" || f.change.GraceSeconds != 30 || *f.change.Management != "address:192.0.2.11/24" || f.change.Deployment != nil {
		t.Errorf("change = %+v, answer %v", f.change, a)
	}
	f.refuse = domain.Errorf(domain.Conflict, "management setting", "192.0.2.11 is used by the station 02:00:00:00:00:07")
	g.want(409, "PUT", "/rest/baystream/net/settings", map[string]any{"management": "address:192.0.2.11/24"})
	g.want(409, "POST", "/rest/baystream/net/settings/confirm", nil)
	g.token = ""
	g.want(401, "PUT", "/rest/baystream/net/settings", map[string]any{"management": ""})
}

// TestConfirmKnowsTheConnection holds that a confirmation tells over which of
// our addresses it came, and how old its connection is.
func TestConfirmKnowsTheConnection(t *testing.T) {
	g := readyRig(t)
	f := &fakeNetwork{}
	g.srv.Network = f
	before := time.Now()
	addr, pool := g.serveTLS()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+addr+"/rest/baystream/net/settings/confirm", bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("auth", g.token)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || f.at != netip.MustParseAddr("127.0.0.1") || f.connected.Before(before) {
		t.Errorf("status %d, at %v, connected %v", resp.StatusCode, f.at, f.connected)
	}
}
