package rest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"baystream/daemon/domain"
)

// serveTLS serves the rig on a port of this machine and returns its address
// and a pool with its certificate.
func (g *rig) serveTLS() (addr string, pool *x509.CertPool) {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rig"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		g.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		g.t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(cert)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(g.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- g.srv.Serve(ctx, ln, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	}()
	g.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			g.t.Errorf("Serve = %v", err)
		}
	})
	return ln.Addr().String(), pool
}

func TestTLSVersions(t *testing.T) {
	addr, pool := newRig(t).serveTLS()
	for _, c := range []struct {
		version uint16
		want    bool
	}{{tls.VersionTLS11, false}, {tls.VersionTLS12, true}, {tls.VersionTLS13, true}} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, MinVersion: c.version, MaxVersion: c.version})
		if (err == nil) != c.want {
			t.Errorf("%s = %v, want success %v", tls.VersionName(c.version), err, c.want)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// TestPythonsUpload replays, byte for byte, what the Python client writes.
func TestPythonsUpload(t *testing.T) {
	g := readyRig(t)
	addr, pool := g.serveTLS()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	body, ct := form("bundle.zip", string(content))
	var req bytes.Buffer
	for _, line := range []string{"POST /rest/artifact-bundles HTTP/1.1", "Host: " + addr, "Accept-Encoding: identity", "uploadfilename: bundle.zip",
		"auth: " + g.token, "Content-type: " + ct, "Content-length: " + itoa(len(body)), "X-API-Version: 2000", ""} {
		req.WriteString(line + "\r\n")
	}
	req.WriteString(body)
	go func() { _, _ = conn.Write(req.Bytes()) }()
	answer := readAll(t, conn, "PercentComplete")
	if !strings.HasPrefix(answer, "HTTP/1.1 202 Accepted\r\n") || !strings.Contains(answer, "Location: /rest/tasks/") {
		t.Errorf("answer:\n%s", answer)
	}
	if !bytes.Equal(g.fake.got, content) {
		t.Errorf("library got %d bytes, want the %d of the file", len(g.fake.got), len(content))
	}
}

func itoa(n int) string { return string(bytes.TrimSpace([]byte(big.NewInt(int64(n)).String()))) }

// readAll reads from conn up to the end of the line with text.
func readAll(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), text) || !strings.HasSuffix(got.String(), "\n") {
		n, err := conn.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return got.String()
}

// endless gives more than any refusal reads away.
type endless struct{ sent int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.sent += int64(len(p))
	return len(p), nil
}

func TestRefusedUploadGetsItsAnswer(t *testing.T) {
	g := readyRig(t)
	addr, pool := g.serveTLS()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	const size = 8 << 20
	if _, err := g.store.GoldenImages.Create(t.Context(), domain.GoldenImage{Resource: domain.Resource{Name: "taken"}}); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+addr+"/rest/golden-images?name=taken", io.LimitReader(&endless{}, size))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Auth", g.token)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 409 || !bytes.Contains(b, []byte("exists already")) {
		t.Errorf("refused upload = %d %s", resp.StatusCode, b)
	}
}

func TestLimits(t *testing.T) {
	g := readyRig(t)
	if got := g.do("POST", "/rest/plan-scripts", `{"name":"`+strings.Repeat("x", maxJSON)+`"}`).status; got != 413 {
		t.Errorf("body over the limit = %d, want 413", got)
	}
	addr, pool := g.serveTLS()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+addr+"/rest/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", maxHeader*2))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 431 {
		t.Errorf("header over the limit = %d, want 431", resp.StatusCode)
	}
}

func TestPanicIsAnError(t *testing.T) {
	g := readyRig(t)
	h := g.srv.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("bug") }))
	w := &probe{}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
	h.ServeHTTP(w, req)
	if !strings.Contains(g.logged(), "panic in a request") {
		t.Errorf("log: %s", g.logged())
	}
}

func TestSessionsSurviveTheDaemon(t *testing.T) {
	g := readyRig(t)
	g.srv = New(g.srv.Config)
	g.want(200, "GET", "/rest/plan-scripts", nil)
	g.want(409, "POST", "/rest/baystream/setup", map[string]string{"setupCode": rigCode, "userName": "x", "password": rigPassword})
}

func TestBoundary(t *testing.T) {
	for ct, want := range map[string]string{
		"multipart/form-data; boundary=----------ThIs_Is_tHe_bouNdaRY_$": "----------ThIs_Is_tHe_bouNdaRY_$",
		`multipart/form-data; boundary="a b"`:                            "a b",
		"multipart/form-data; boundary=a/b=c; charset=x":                 "a/b=c",
		"multipart/form-data":                                            "",
	} {
		if got := boundary(ct); got != want {
			t.Errorf("boundary(%q) = %q, want %q", ct, got, want)
		}
	}
}
