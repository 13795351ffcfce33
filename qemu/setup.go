package qemu

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
)

// Lines that an appliance prints on its console, see first contact in the
// project's API description.
var (
	codeLine  = regexp.MustCompile(`baystream: setup code (\S+)\s`)
	caLine    = regexp.MustCompile(`(?i)baystream: CA SHA-256 ([0-9a-f:]+)\s`)
	readyLine = regexp.MustCompile(`baystream: REST ready (\S+)\s`)
)

// Setup makes first contact with the frame's appliance: it waits until REST is
// ready, takes the domain's CA, compares it with the fingerprint on the
// console, and trades the setup code there for an administrator with a random
// password. CA and password are left in the directory (Access names the
// files). An appliance that was set up in an earlier run is logged in to.
func (f *Frame) Setup(ctx context.Context) error {
	if err := f.setup(ctx); err != nil {
		return fmt.Errorf("frame %s: setup: %w", f.Serial, err)
	}
	return f.WriteState()
}

func (f *Frame) setup(ctx context.Context) error {
	if _, err := f.Appliance().WaitConsole(ctx, readyLine); err != nil {
		return err
	}
	password, err := os.ReadFile(f.passwordFile())
	if errors.Is(err, os.ErrNotExist) {
		password, err = f.firstContact(ctx)
	}
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(f.caFile())
	if err != nil {
		return err
	}
	c, err := NewClient(f.restURL, ca)
	if err != nil {
		return err
	}
	if err := f.login(ctx, c, strings.TrimSpace(string(password))); err != nil {
		return err
	}
	f.mu.Lock()
	f.client = c
	f.mu.Unlock()
	return nil
}

// login starts a session. A standby leaves that to the active appliance, whose
// sessions it knows.
func (f *Frame) login(ctx context.Context, c *Client, password string) error {
	err := c.Login(ctx, UserName, password)
	var refused *RESTError
	if !errors.As(err, &refused) || refused.Status != http.StatusTemporaryRedirect || f.rig.service == "" {
		return err
	}
	service := &Client{base: f.rig.service, http: c.http}
	err = service.Login(ctx, UserName, password)
	c.token = service.token
	return err
}

func (f *Frame) firstContact(ctx context.Context) (password []byte, err error) {
	fingerprint, err := f.Appliance().WaitConsole(ctx, caLine)
	if err != nil {
		return nil, err
	}
	code, err := f.Appliance().WaitConsole(ctx, codeLine)
	if err != nil {
		return nil, err
	}
	ca, err := fetchCA(ctx, f.restURL, fingerprint[1])
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(f.caFile(), ca, 0o644); err != nil {
		return nil, err
	}
	c, err := NewClient(f.restURL, ca)
	if err != nil {
		return nil, err
	}
	password = []byte(rand.Text())
	fresh := f.passwordFile() + ".new" // in place only when it is valid
	if err := os.WriteFile(fresh, append(password, '\n'), 0o600); err != nil {
		return nil, err
	}
	in := map[string]string{"setupCode": code[1], "userName": UserName, "password": string(password)}
	if err := c.Do(ctx, http.MethodPost, "/rest/baystream/setup", in, nil); err != nil {
		return nil, err
	}
	return password, os.Rename(fresh, f.passwordFile())
}

// fetchCA asks an appliance that nothing is known of for its CA, and believes
// it only if the fingerprint (SHA-256 of the certificate in DER) is right.
func fetchCA(ctx context.Context, base, fingerprint string) ([]byte, error) {
	// The answer proves itself by the fingerprint, not the connection.
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/rest/baystream/ca", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch CA: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("fetch CA: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch CA: %s: %s", resp.Status, body)
	}
	block, _ := pem.Decode(body)
	if block == nil {
		return nil, fmt.Errorf("fetch CA: no PEM in %.80q", body)
	}
	sum := sha256.Sum256(block.Bytes)
	want := strings.ToLower(strings.ReplaceAll(fingerprint, ":", ""))
	if got := hex.EncodeToString(sum[:]); got != want {
		return nil, fmt.Errorf("fetch CA: fingerprint %s, the console says %s: this is not that appliance", got, want)
	}
	return pem.EncodeToMemory(block), nil
}

// REST returns the client that Setup logged in, nil before.
func (f *Frame) REST() *Client {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.client
}
