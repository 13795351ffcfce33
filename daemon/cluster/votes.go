package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"baystream/daemon/domain"
)

// Voter is one member as Votes looks at it.
type Voter struct {
	Name    string // of the member
	Title   string // for people: "VF0001, appliance 1"; empty: the name
	Role    string // appliance or witness
	Vote    bool   // else a live copy
	Leader  bool
	Healthy bool // it answered just now
	Active  bool // it runs management
	Standby bool // it can take management over
}

// Votes says which votes exist and what the loss of each module would do. It
// is the truth about the domain state and management only; what happens to the
// volumes is the pair's to say.
func Votes(all []Voter) domain.VotesReport {
	v := count(all)
	r := domain.VotesReport{Members: []domain.VoteMember{}, Voters: v.votes, Healthy: v.healthy, Needed: v.needed}
	for i, m := range all {
		title := m.Title
		if title == "" {
			title = m.Name
		}
		r.Members = append(r.Members, domain.VoteMember{
			Name: m.Name, Title: title, Role: m.Role, Vote: m.Vote, Leader: m.Leader, Healthy: m.Healthy, Active: m.Active,
			Loss: lossOf(all, i, v),
		})
		if m.Active {
			r.Active = title
		}
	}
	slices.SortStableFunc(r.Members, func(a, b domain.VoteMember) int { return strings.Compare(a.Title, b.Title) })
	r.Status, r.Verdict = verdict(all, v)
	return r
}

// tally are the votes of a set of members.
type tally struct{ votes, healthy, needed int }

func count(all []Voter) tally {
	var t tally
	for _, m := range all {
		if !m.Vote {
			continue
		}
		t.votes++
		if m.Healthy {
			t.healthy++
		}
	}
	t.needed = t.votes/2 + 1
	return t
}

// lossOf says what happens if member i is lost now.
func lossOf(all []Voter, i int, v tally) string {
	m := all[i]
	if !m.Healthy {
		return "lost already"
	}
	if v.votes == 1 && m.Vote {
		return "everything stops until it is back"
	}
	left := v.healthy
	if m.Vote {
		left--
	}
	var effects []string
	if left < v.needed {
		effects = append(effects, "the domain state stops: no changes, no failover, until a majority is back")
	} else if m.Active {
		if j := slices.IndexFunc(all, func(o Voter) bool { return o.Standby && o.Healthy && o.Name != m.Name }); j >= 0 {
			effects = append(effects, "management moves to "+title(all[j]))
		} else {
			effects = append(effects, "management stops until an appliance is back")
		}
	}
	if len(effects) == 0 && m.Vote && left == v.needed {
		effects = append(effects, "nothing stops, but then no other vote may be lost")
	}
	if len(effects) == 0 {
		return "nothing stops"
	}
	return strings.Join(effects, "; ")
}

func title(v Voter) string {
	if v.Title != "" {
		return v.Title
	}
	return v.Name
}

// verdict is the whole in a sentence.
func verdict(all []Voter, v tally) (status, text string) {
	var dead []string
	for _, m := range all {
		if m.Vote && !m.Healthy {
			dead = append(dead, title(m))
		}
	}
	spare := v.healthy - v.needed
	switch {
	case v.votes == 0:
		return domain.StatusCritical, "the votes are not known: the domain state does not answer"
	case spare < 0:
		return domain.StatusCritical, fmt.Sprintf("no majority: %d of %d votes answer and %d are needed; nothing can be changed and nothing fails over until %s is back",
			v.healthy, v.votes, v.needed, strings.Join(dead, " or "))
	case v.votes == 1:
		return domain.StatusOK, "one vote, the development configuration: losing this appliance stops everything until it is back"
	case v.votes == 2:
		return domain.StatusWarning, "two votes: losing either stops changes, and nothing fails over by itself; claim a witness in a third frame, or see bayctl domain recover for the guarded manual way"
	case len(dead) > 0 && spare == 0:
		return domain.StatusWarning, fmt.Sprintf("%s is lost: no other of the %d votes may be lost until it is back", strings.Join(dead, ", "), v.votes)
	case len(dead) > 0:
		return domain.StatusWarning, fmt.Sprintf("%s is lost: %d more of %d votes may be lost", strings.Join(dead, ", "), spare, v.votes)
	}
	return domain.StatusOK, fmt.Sprintf("%d votes: any %s may be lost", v.votes, map[bool]string{true: "one", false: fmt.Sprint(spare)}[spare == 1])
}

// PingPath is what Ping asks; Pong answers it, behind the same mutual TLS as
// PeerHandler.
const PingPath = "/baystream/ping"

// Pong answers a Ping: this member runs and knows a leader.
func (n *Node) Pong() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.etcd.Server.Lead() == 0 {
			http.Error(w, "no leader is known", http.StatusServiceUnavailable)
		}
	})
}

// Ping asks every other member whether it runs, for at most as long as ctx
// lasts, and returns the names of those that do, this one among them if it
// knows a leader. The tls of the first call is that of all.
func (n *Node) Ping(ctx context.Context, tls *tls.Config) map[string]bool {
	n.pinging.Do(func() { // connections stay: who asks often must not cost a handshake each time
		n.pinger = &http.Client{Transport: &http.Transport{TLSClientConfig: tls, IdleConnTimeout: time.Minute}}
	})
	client := n.pinger
	up := map[string]bool{n.name: n.etcd.Server.Lead() != 0}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range n.etcd.Server.Cluster().Members() {
		if m.Name == "" || m.Name == n.name || len(m.PeerURLs) == 0 {
			continue
		}
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.PeerURLs[0]+PingPath, nil)
			if err != nil {
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			up[m.Name] = resp.StatusCode == http.StatusOK
		})
	}
	wg.Wait()
	return up
}

// pingTime is how long a member may take to answer before it counts as lost.
const pingTime = time.Second

// Voters asks who is a member and who of them answers. describe fills in what
// the membership does not know. Without a majority it is what this member knew
// last.
func (n *Node) Voters(ctx context.Context, tls *tls.Config, describe func(name string) (title, role string)) []Voter {
	ping, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	active := ""
	var asked sync.WaitGroup
	asked.Go(func() { // beside the pings, which may take all of the time
		if t, err := CurrentTerm(ping, n.client); err == nil {
			active = t.Holder
		}
	})
	up := n.Ping(ping, tls)
	asked.Wait()
	leader := n.etcd.Server.Lead()
	var all []Voter
	for _, m := range n.etcd.Server.Cluster().Members() {
		v := Voter{Name: m.Name, Vote: !m.IsLearner, Leader: uint64(m.ID) == leader, Healthy: up[m.Name]}
		v.Title, v.Role = describe(m.Name)
		v.Active = m.Name == active && m.Name != ""
		v.Standby = !v.Active && v.Role == domain.RoleOfAppliance
		all = append(all, v)
	}
	return all
}
