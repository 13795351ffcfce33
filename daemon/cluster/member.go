package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"

	"baystream/daemon/domain"
)

// serverName is in the certificate of every appliance (pki.ServerName).
const serverName = "baystream"

// settle is how long a change of the membership is tried again: etcd refuses
// one until the members have been connected for 5 s.
const settle = 30 * time.Second

// PeerHandler is what other members call; it belongs behind mutual TLS, at the
// paths of PeerPaths.
func (n *Node) PeerHandler() http.Handler {
	return etcdhttp.NewPeerHandler(n.etcd.GetLogger(), n.etcd.Server)
}

// PeerPaths are the paths that PeerHandler answers, those with a slash at the
// end with all below them.
func PeerPaths() []string {
	return []string{"/raft", "/raft/", "/members", "/members/", "/leases", "/leases/", "/version", "/downgrade/"}
}

func initialCluster(peers []Peer) string {
	var all []string
	for _, p := range peers {
		all = append(all, p.Name+"="+p.URL)
	}
	return strings.Join(all, ",")
}

// Advertise makes url the address of this member, for all of them; where it is
// already, nothing happens. It needs a majority, which can be reached while
// this member's own address is not yet known to the others.
func (n *Node) Advertise(ctx context.Context, url string) error {
	self, err := n.member(ctx, n.name)
	if err != nil || slices.Equal(self.PeerURLs, []string{url}) {
		return err
	}
	if _, err := n.client.MemberUpdate(ctx, self.ID, []string{url}); err != nil {
		return wrap("make "+url+" the address of member "+n.name, err)
	}
	return nil
}

// Add makes room for a new member without a vote and returns what it needs to
// join (Config.Join). It may be repeated until the member has started. A member
// of the same name that has state, or once had, is removed: whoever asks to be
// added has lost it. Its vote comes with Promote.
func (n *Node) Add(ctx context.Context, p Peer) ([]Peer, error) {
	if p.Name == n.name {
		return nil, domain.Errorf(domain.Invalid, "member "+p.Name, "is this one").Fix("Ask another member to add it.")
	}
	old, err := n.member(ctx, p.Name)
	if err != nil && domain.KindOf(err) != domain.NotFound {
		return nil, err
	}
	if err == nil {
		if err := n.remove(ctx, old.ID, p.Name); err != nil {
			return nil, err
		}
	}
	var added uint64
	err = n.change(ctx, "add member "+p.Name, func(ctx context.Context) error {
		r, err := n.client.MemberAddAsLearner(ctx, []string{p.URL})
		if errors.Is(err, rpctypes.ErrPeerURLExist) {
			added, err = n.waiting(ctx, p.URL)
			return err
		}
		if err == nil {
			added = r.Member.ID
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	list, err := n.client.MemberList(ctx)
	if err != nil {
		return nil, wrap("members of the domain state", err)
	}
	peers := []Peer{}
	for _, m := range list.Members {
		name := m.Name
		if m.ID == added {
			name = p.Name
		}
		for _, u := range m.PeerURLs {
			peers = append(peers, Peer{Name: name, URL: u})
		}
	}
	return peers, nil
}

// waiting is the member that was added with the address and has not started.
func (n *Node) waiting(ctx context.Context, url string) (uint64, error) {
	list, err := n.client.MemberList(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range list.Members {
		if slices.Contains(m.PeerURLs, url) {
			if m.Name == "" {
				return m.ID, nil
			}
			return 0, domain.Errorf(domain.Conflict, "address "+url, "belongs to member %s", m.Name).
				Fix("Give the new module another address, or remove member " + m.Name + " first.")
		}
	}
	return 0, rpctypes.ErrMemberNotFound
}

// Promote gives the named member its vote once it holds the whole state, and
// waits for that until ctx ends. A member with a vote keeps it.
func (n *Node) Promote(ctx context.Context, name string) error {
	for {
		m, err := n.member(ctx, name)
		if err == nil && !m.IsLearner {
			return nil
		}
		if err == nil {
			_, err = n.client.MemberPromote(ctx, m.ID)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return wrap("give member "+name+" its vote", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Remove takes the named member out of the domain state; it cannot come back
// but as a new one (Add). A member that is not there is none to remove.
func (n *Node) Remove(ctx context.Context, name string) error {
	m, err := n.member(ctx, name)
	if domain.KindOf(err) == domain.NotFound && err != nil {
		return nil
	}
	if err != nil {
		return err
	}
	return n.remove(ctx, m.ID, name)
}

func (n *Node) remove(ctx context.Context, id uint64, name string) error {
	return n.change(ctx, "remove member "+name, func(ctx context.Context) error {
		_, err := n.client.MemberRemove(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil
		}
		return err
	})
}

// change repeats a change of the membership that etcd finds unsafe for the
// moment.
func (n *Node) change(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		passing := errors.Is(err, rpctypes.ErrUnhealthy) || errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) ||
			errors.Is(err, rpctypes.ErrTooManyLearners) || errors.Is(err, rpctypes.ErrMemberNotFound) || errors.Is(err, rpctypes.ErrLeaderChanged)
		if !passing {
			return wrap(what, err)
		}
		select {
		case <-ctx.Done():
			return wrap(what, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// member finds a member by name, or says NotFound.
func (n *Node) member(ctx context.Context, name string) (*etcdserverpb.Member, error) {
	list, err := n.client.MemberList(ctx)
	if err != nil {
		return nil, wrap("members of the domain state", err)
	}
	for _, m := range list.Members {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, domain.Errorf(domain.NotFound, "member "+name, "does not exist").Fix("List the members with bayctl votes.")
}

// Leads says whether this member has raft's leadership.
func (n *Node) Leads() bool { return n.etcd.Server.Lead() == uint64(n.etcd.Server.MemberID()) }

// Lead hands raft's leadership to the named member if this one has it, and
// says whether it did. Writes wait for a moment, reads too.
func (n *Node) Lead(ctx context.Context, name string) (bool, error) {
	s := n.etcd.Server
	if s.Lead() != uint64(s.MemberID()) || name == n.name {
		return false, nil
	}
	m, err := n.member(ctx, name)
	if err != nil {
		return false, err
	}
	if err := s.MoveLeader(ctx, s.Lead(), m.ID); err != nil {
		return false, fmt.Errorf("cluster: hand the lead to member %s: %w", name, err)
	}
	return true, nil
}
