package boot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/google/uuid"
)

// Each script ends with this tail: it asks for the script again, saying who the
// server is, and so for ever. --replace keeps scripts from piling up in each
// other. When nobody answers, the network is brought up anew, now over one
// port, now over the other. netX is the port that was opened last.
// https://ipxe.org/cmd
const tail = `:ask
chain --autofree --replace %[1]s?mac=${netX/mac}&uuid=${uuid}&serial=${serial:uristring}&product=${product:uristring}&asset=${asset:uristring} ||
:lost
echo Baystream: no answer from %[2]s, trying again
sleep 2
ifclose ||
dhcp net0 && goto ask ||
ifclose net0 ||
dhcp net1 && goto ask ||
ifclose net1 ||
goto lost
`

// retrySeconds is how long a server waits before it asks again.
const retrySeconds = 2

// askScript is for a client that has not said who it is.
func askScript(cfg Config) string { return "#!ipxe\n" + scriptTail(cfg) }

func scriptTail(cfg Config) string {
	return fmt.Sprintf(tail, cfg.base()+"/"+scriptName, cfg.Address.Addr())
}

// script is what srv's firmware shall do, asked for by seen from the address
// from. It never has a secret unless that is the server's own address.
//
// A volume that cannot be attached, or whose boot loader comes back, leads to
// the next try, with fresh credentials. sanboot without --keep detaches the
// volume then, and takes back the table (iBFT) that tells the operating system
// of it; as long as the volume boots, both stay.
func script(srv Server, seen Sighting, from netip.Addr, cfg Config) string {
	name := srv.Name
	if srv.ID == "" {
		name = "unknown server " + seen.MAC.String()
	}
	var b strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&b, "echo Baystream: %s\n", plain(fmt.Sprintf(format, args...)))
	}
	b.WriteString("#!ipxe\n")
	err := srv.Target.check()
	switch {
	case !srv.Ready:
		say("%s does not boot yet: %s", name, srv.Reason)
	case srv.ID == "":
		say("%s does not boot", name)
	case from != srv.Addr:
		say("%s has address %v, but this request came from %v; asking for the right one", name, srv.Addr, from)
		b.WriteString("goto lost\n")
	case err != nil:
		say("%s does not boot: %v", name, err)
	default:
		t := srv.Target
		say("%s boots from %s at %v", name, t.IQN, t.Portal)
		fmt.Fprintf(&b, "set initiator-iqn %s\n", t.InitiatorIQN)
		b.WriteString(setOrClear("username", t.User) + setOrClear("password", t.Secret))
		fmt.Fprintf(&b, "sanboot iscsi:%v::%d:%x:%s ||\n", t.Portal.Addr(), t.Portal.Port(), t.LUN, t.IQN)
		b.WriteString(setOrClear("password", ""))
		say("%s did not boot, trying again", name)
	}
	fmt.Fprintf(&b, "sleep %d\n", retrySeconds)
	return b.String() + scriptTail(cfg)
}

func setOrClear(setting, value string) string {
	if value == "" {
		return "clear " + setting + " ||\n"
	}
	return "set " + setting + " " + value + "\n"
}

// check says why t cannot be put into a script. It never tells the secret.
func (t Target) check() error {
	for _, f := range []struct{ what, value string }{
		{"target name", t.IQN}, {"initiator name", t.InitiatorIQN}, {"CHAP user", t.User}, {"CHAP secret", t.Secret},
	} {
		if plain(f.value) != f.value || strings.Contains(f.value, " ") {
			return fmt.Errorf("its %s has characters that a boot script cannot carry: set another", f.what)
		}
	}
	switch {
	case t.IQN == "" || t.InitiatorIQN == "":
		return errors.New("its target or initiator name is missing: assign the profile again")
	case !t.Portal.IsValid() || !t.Portal.Addr().Is4() || t.LUN < 0:
		return errors.New("the portal of its volume is not an IPv4 address")
	case (t.User == "") != (t.Secret == ""):
		return errors.New("CHAP user and secret must both be set, or none")
	}
	return nil
}

// plain makes s safe in a line of a script: printable ASCII, no expansions, no
// comments, no operators, no line ends.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r > '~':
			return ' '
		case strings.ContainsRune("$#|&\"\\", r):
			return '_'
		}
		return r
	}, s)
}

const maxText = 128 // bytes that we take of a firmware's word

// parseQuery reads what a server says of itself in the URL of its script. The
// MAC address must be there and right; all else may be missing or wrong.
func parseQuery(q url.Values) (Sighting, error) {
	mac, err := net.ParseMAC(q.Get("mac"))
	if err != nil || len(mac) != 6 {
		return Sighting{}, fmt.Errorf("mac %q: use six bytes such as 52:54:00:12:34:56", q.Get("mac"))
	}
	s := Sighting{MAC: mac, Serial: word(q, "serial"), Product: word(q, "product"), Asset: word(q, "asset")}
	if u, err := uuid.Parse(q.Get("uuid")); err == nil && u != uuid.Nil && u != uuid.Max {
		s.UUID = u.String()
	}
	return s, nil
}

func word(q url.Values, key string) string {
	return strings.TrimSpace(plain(q.Get(key)[:min(len(q.Get(key)), maxText)]))
}
