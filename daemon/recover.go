package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"baystream/daemon/domain"
	"baystream/daemon/member"
)

// recoverMark in the state directory asks for the domain to go on without its
// other modules, from the next start of the daemon on. It holds the domain's
// name.
const recoverMark = "recover-domain"

// RecoverDomain lets this appliance go on alone with what it holds of the
// domain state, when the daemon starts next. It is for a domain whose majority
// is lost for good, and whoever asks for it answers for the others: they must be
// off, and be reset before they are claimed again. The name is that of the
// domain, as a proof that it is meant.
func RecoverDomain(cfg Config, name string) error {
	st, err := member.Load(cfg.State)
	switch {
	case err != nil:
		return err
	case st.Domain == "":
		return domain.Errorf(domain.Conflict, "domain", "cannot be recovered here: this module belongs to none")
	case st.Role != domain.RoleOfAppliance:
		return domain.Errorf(domain.Conflict, "domain "+st.Name, "cannot be recovered by a witness: it holds no volumes").Fix("Use an appliance of the pair.")
	case st.Name != name:
		return domain.Errorf(domain.Invalid, "domain "+name, "is not that of this module, which belongs to %s", st.Name)
	}
	cfg.Log.Warn("audit: the domain is to be recovered by this module alone", "domain", name)
	return renameio.WriteFile(filepath.Join(cfg.State, recoverMark), []byte(name+"\n"), 0o600)
}

// recovering says whether this member is to go on without the others.
func (m *membership) recovering() bool {
	b, err := os.ReadFile(filepath.Join(m.d.cfg.State, recoverMark))
	return err == nil && strings.TrimSpace(string(b)) == m.state.Name
}

// recovered writes down that the others take no part any more, once the domain
// state has gone on without them.
func (m *membership) recovered() error {
	m.state.Peers = nil
	if err := m.state.Save(m.d.cfg.State); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(m.d.cfg.State, recoverMark)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("recovery of the domain: %w", err)
	}
	m.d.log.Warn("audit: the domain was recovered by this module alone", "domain", m.state.Name)
	m.d.cfg.Console("domain %s goes on without its other modules", m.state.Name)
	return nil
}
