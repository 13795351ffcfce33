package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"strings"

	"baystream/daemon/pki"
)

// firstContact prints, while there is no administrator, what the first one
// needs to prove that they stand at this module and that this is the module
// they talk to. The code lives in memory only: a restart makes another.
func (d *Daemon) firstContact(ctx context.Context, authority *pki.Authority) (string, error) {
	users, err := d.state.Users.List(ctx)
	if err != nil || len(users) > 0 {
		return "", err
	}
	code := setupCode(rand.Text())
	d.cfg.Console("setup code %s", code)
	d.cfg.Console("CA SHA-256 %s", authority.Fingerprint())
	return code, nil
}

// setupCode cuts 12 letters of random text (60 bits) into groups that can be
// read out.
func setupCode(text string) string {
	return strings.Join([]string{text[:4], text[4:8], text[8:12]}, "-")
}

// inheritedListener is the socket that a service manager opened for us
// (LISTEN_FDS), nil if there is none. Those that it keeps for us are no such.
func inheritedListener() (net.Listener, error) {
	_, files := inheritedFiles()
	switch len(files) {
	case 0:
		return nil, nil
	case 1:
		return net.FileListener(files[0])
	}
	return nil, errors.New("more than one inherited socket: want the one of REST")
}
