package bayctl

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"baystream/daemon/domain"
	"baystream/internal/local"
)

// Who may use the console:
//
//	the daemon answers, there are users   an infrastructure administrator, checked by the daemon
//	the daemon answers, factory state     whoever types the setup code of port 1; makes the first administrator
//	it does not, administrators are known one of them, checked against the hashes that the daemon left
//	it does not, none is known            whoever types the recovery code, which is shown on port 1 now
//
// A recovery code is only made where no administrator can be known: without the
// data disk there is nothing else on the module to protect.

const (
	guesses    = 5
	guessPause = 10 // seconds
)

// newLocalClient speaks to the daemon of this module.
func newLocalClient(socket string) *client {
	return &client{base: "http://module", http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", socket)
		},
		ResponseHeaderTimeout: 30 * time.Second,
	}}}
}

// setUp asks the daemon whether there are users; an error means that it is no
// help now.
func (c *console) setUp(cl *client) (bool, error) {
	ctx, cancel := context.WithTimeout(c.tty.ctx, 5*time.Second)
	defer cancel()
	var v struct {
		SetUp bool `json:"setUp"`
	}
	_, err := cl.do(ctx, http.MethodGet, "/rest/baystream/setup", nil, &v)
	return v.SetUp, err
}

func (c *console) login() error {
	cl := newLocalClient(c.paths.socket)
	for try := range guesses {
		if try > 0 {
			fmt.Fprintln(c.tty, "That was not right.")
			if err := c.pause(time.Duration(try) * c.patience); err != nil {
				return err
			}
		}
		good, err := c.attempt(cl)
		if err != nil || good {
			return err
		}
	}
	c.code = ""
	fmt.Fprintln(c.audit, "audit: console: too many failed log-ins")
	if err := c.pause(guessPause * c.patience); err != nil {
		return err
	}
	return errors.New("too many failed log-ins")
}

// attempt asks once, in the way that the state of the module allows.
func (c *console) attempt(cl *client) (bool, error) {
	isSetUp, err := c.setUp(cl)
	switch {
	case err == nil && isSetUp:
		return c.askDaemon(cl)
	case err == nil:
		return c.firstContact(cl)
	}
	admins, err := local.ReadAdministrators(c.paths.run, c.paths.state)
	if err != nil {
		fmt.Fprintln(c.audit, "console: administrators:", err)
	}
	fmt.Fprintln(c.tty, "The daemon of this module does not answer.")
	if len(admins) > 0 || err != nil {
		return c.askHashes(admins)
	}
	return c.askRecovery()
}

func (c *console) ask(prompt string) (string, error) {
	line, err := c.tty.editor(prompt).ReadLine()
	return strings.TrimSpace(line), err
}

func (c *console) askSecret(prompt string) (string, error) {
	return c.tty.editor("").ReadPassword(prompt)
}

func (c *console) askDaemon(cl *client) (bool, error) {
	user, word, err := c.askBoth()
	if err != nil {
		return false, err
	}
	return c.enter(cl, user, word)
}

func (c *console) askBoth() (user, word string, err error) {
	if user, err = c.ask("user name: "); err != nil {
		return "", "", err
	}
	word, err = c.askSecret("password: ")
	return user, word, err
}

// enter logs in to the daemon. Other users than administrators see nothing
// here that they could not see better elsewhere.
func (c *console) enter(cl *client, user, word string) (bool, error) {
	ctx, cancel := context.WithTimeout(c.tty.ctx, 30*time.Second)
	defer cancel()
	var answer struct {
		SessionID string `json:"sessionID"`
		UserName  string `json:"userName"`
		Role      string `json:"role"`
	}
	_, err := cl.do(ctx, http.MethodPost, "/rest/login-sessions", map[string]any{"userName": user, "password": word}, &answer)
	var refusal *apiError
	switch {
	case errors.As(err, &refusal) && refusal.Status == http.StatusUnauthorized:
		return false, nil
	case err != nil:
		fmt.Fprintln(c.tty, err)
		return false, nil
	}
	cl.token = answer.SessionID
	if answer.Role != domain.RoleInfrastructure {
		c.client = cl
		c.logout()
		fmt.Fprintf(c.tty, "%s has the role %q; the console is for infrastructure administrators.\n", answer.UserName, answer.Role)
		return false, nil
	}
	c.client, c.user = cl, answer.UserName
	return true, nil
}

// firstContact makes the first administrator.
func (c *console) firstContact(cl *client) (bool, error) {
	c.warn(cl)
	fmt.Fprintln(c.tty, "This appliance has no administrator yet. The first serial port shows its setup code.")
	code, err := c.askSecret("setup code: ")
	if err != nil {
		return false, err
	}
	user, err := c.ask("name of the first administrator [administrator]: ")
	if err != nil {
		return false, err
	}
	user = or(user, "administrator")
	word, err := c.askSecret("new password, at least 10 characters: ")
	if err != nil {
		return false, err
	}
	again, err := c.askSecret("the same again: ")
	if err != nil {
		return false, err
	}
	if word != again {
		fmt.Fprintln(c.tty, "The passwords differ.")
		return false, nil
	}
	ctx, cancel := context.WithTimeout(c.tty.ctx, 30*time.Second)
	defer cancel()
	if _, err := cl.do(ctx, http.MethodPost, "/rest/baystream/setup", map[string]string{"setupCode": code, "userName": user, "password": word}, nil); err != nil {
		fmt.Fprintln(c.tty, err)
		return false, nil
	}
	return c.enter(cl, user, word)
}

// warn shows what is critical to somebody who is not logged in: a module that has
// lost its data disk looks like a new one.
func (c *console) warn(cl *client) {
	ctx, cancel := context.WithTimeout(c.tty.ctx, 5*time.Second)
	defer cancel()
	var h domain.HealthSummary
	if _, err := cl.do(ctx, http.MethodGet, "/rest/baystream/health", nil, &h); err != nil {
		return // the setup code is asked for all the same
	}
	for _, p := range h.Parts {
		if p.Status != domain.StatusCritical {
			continue
		}
		fmt.Fprintln(c.tty, cut(fmt.Sprintf("CRITICAL  %s: %s", p.Name, p.Detail), 400))
		if p.Remedy != "" {
			fmt.Fprintln(c.tty, "what to do:", p.Remedy)
		}
		if p.Name == "data disk" {
			fmt.Fprintln(c.tty, "What is set up without it is lost at the next start.")
		}
	}
}

func (c *console) askHashes(admins local.Administrators) (bool, error) {
	user, word, err := c.askBoth()
	if err != nil || !admins.Check(user, word) {
		return false, err
	}
	c.user = user
	return true, nil
}

// askRecovery lets in whoever sees the first serial port, too.
func (c *console) askRecovery() (bool, error) {
	if c.code == "" {
		text := rand.Text()
		c.code = strings.Join([]string{text[:4], text[4:8], text[8:12]}, "-")
		if err := c.showCode(); err != nil {
			c.code = ""
			return false, fmt.Errorf("the recovery code cannot be shown on the first serial port: %w", err)
		}
	}
	fmt.Fprintln(c.tty, "No administrator of it is known here. The first serial port shows a recovery code.")
	code, err := c.askSecret("recovery code: ")
	if err != nil || !sameText(code, c.code) {
		return false, err
	}
	c.code, c.user = "", "recovery"
	return true, nil
}

// showCode writes to the port itself, past the log: a code is for whoever
// stands there.
func (c *console) showCode() error {
	w, err := c.console1()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\r\nbaystream: recovery code %s\r\n", c.code)
	return errors.Join(err, w.Close())
}

func sameText(a, b string) bool {
	norm := func(s string) []byte {
		sum := sha256.Sum256([]byte(strings.ReplaceAll(strings.ToUpper(strings.TrimSpace(s)), "-", "")))
		return sum[:]
	}
	return subtle.ConstantTimeCompare(norm(a), norm(b)) == 1
}

func (c *console) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-c.tty.ctx.Done():
		return c.tty.ctx.Err()
	}
}

// logout ends the session at the daemon.
func (c *console) logout() {
	if c.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.tty.ctx), 3*time.Second)
	defer cancel()
	_, _ = c.client.do(ctx, http.MethodDelete, "/rest/login-sessions", nil, nil) // it expires by itself else
	c.client = nil
}

// reconnect finds out whether the daemon still answers. Sessions survive its
// restart; somebody who logged in without it logs in again for its commands.
func (c *console) reconnect() {
	if c.client == nil {
		return
	}
	if _, err := c.setUp(c.client); err != nil {
		fmt.Fprintln(c.tty, errDaemon)
		c.client = nil
	}
}
