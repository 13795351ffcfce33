package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"baystream/daemon/pki"
)

// A client that verifies the address itself reaches the service at its new
// address, and no longer at the old one.
func TestRESTMovesWithItsAddress(t *testing.T) {
	authority, err := pki.Open(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	at := func(ip string) net.Listener {
		t.Helper()
		if err := authority.Serve(netip.MustParseAddr(ip)); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Skipf("needs %s on the loopback link: %v", ip, err)
		}
		return ln
	}
	m := newMovable(at("127.0.0.1"))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "here") }),
		TLSConfig: authority.TLS(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(m, "", "") }()

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())
	ask := func(addr string) error {
		c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
		resp, err := c.Get("https://" + addr)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	old := m.Addr().String()
	if err := ask(old); err != nil {
		t.Errorf("before the move: %v", err)
	}
	if err := m.move(at("127.0.0.2")); err != nil {
		t.Fatal(err)
	}
	if err := ask(m.Addr().String()); err != nil {
		t.Errorf("at the new address: %v", err)
	}
	if err := ask(old); err == nil {
		t.Error("the old address still answers")
	}
	srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve = %v", err)
	}
	if err := m.move(at("127.0.0.1")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("move after Close = %v, want net.ErrClosed", err)
	}
}

func TestFollowTriesAgainUntilTheAddressIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		now, events, tries := first, make(chan struct{}), 0
		done := make(chan error, 1)
		go func() {
			done <- follow(ctx, events, first, func(context.Context) (netip.Addr, error) { return now, nil }, func(ip netip.Addr) error {
				if tries++; ip != second || tries < 3 {
					return errors.New("cannot assign requested address")
				}
				return nil
			})
		}()
		events <- struct{}{} // nothing has changed
		synctest.Wait()
		if tries != 0 {
			t.Errorf("moved %d times without a new address", tries)
		}
		now = second
		events <- struct{}{}
		time.Sleep(time.Hour)
		synctest.Wait() // after the last try, not beside it
		if tries != 3 {
			t.Errorf("tried %d times, want 3: until it worked", tries)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("follow = %v", err)
		}
	})
}
