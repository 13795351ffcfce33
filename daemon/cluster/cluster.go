// Package cluster keeps the state of the domain: an etcd member that lives in
// this process, and typed tables over it.
//
// A Node is the member. It opens no network port and no socket: the daemon
// reaches it by function calls (Node.Client), and the state lies below one
// directory. Other members reach it through Node.PeerHandler, which the daemon
// serves behind mutual TLS, and it reaches them at the addresses in the
// membership; alone it needs neither (development configuration). Members come
// as learners and get their vote when they hold the whole state (Add, Promote;
// member.go); one whose files are damaged is set aside and joins anew
// (DamagedError). A Register changes hands by compare-and-swap (the grants of
// the storage groups). The Elector makes one appliance the active one; writes
// under its Term fail once the term is over.
//
// A Table holds the entities of one resource collection with a
// unique name index; a KV holds small values that are not resources (users,
// secrets), a Value exactly one of them (settings). A Txn joins any number of
// them: everything read and written in it happens at one revision or not at
// all, and is tried again when somebody else was faster.
//
// Everything here may be used from many goroutines; a Txn belongs to the
// function that it was given to. Errors are domain.Errors: NotFound and
// Conflict name the kind and the name, Stale says that the eTag is old,
// Unavailable that no majority answers, Full that the state's quota is used up.
package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config says where a member keeps its state and what it is called.
type Config struct {
	Dir  string       // made with mode 0700 if it is missing; belongs to the member alone
	Name string       // name of the member, "appliance" if empty; never changes after the first start
	Log  *slog.Logger // etcd's warnings and errors come here; required

	URL string // where the other members find this one, https://ADDRESS:PORT; empty while it is alone
	TLS Files  // shown to other members; zero: a member that stays alone
	// Alone: the other members are lost for good, and this one goes on without
	// them with what it holds. They must never come back with what they hold.
	Alone bool
	Join  []Peer // of a member that joins: all members, this one included (Node.Add); ignored once it has state
}

// Files are what a member needs to speak to others. The certificate and its
// key are read anew for each connection, the CAs once at the start.
type Files struct{ Cert, Key, CAs string }

// Peer is where a member is found.
type Peer struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Limits of the state. Resources are small (the largest are plan scripts of
// some hundred KiB), and an appliance has little memory: etcd keeps a
// snapshot's worth of log entries and the touched part of its database in RAM.
//
// The times leave room for leases of a second: etcd makes none shorter than one
// and a half elections, in whole seconds.
const (
	maxState    = 256 << 20 // bytes of the database; beyond it only deletes pass
	maxRequest  = 24 << 20  // bytes of one transaction: a whole bundle is extracted in one
	maxTxnOps   = 8192      // reads or writes of one transaction
	logEntries  = 500       // raft entries between two snapshots
	keepEntries = 50        // raft entries kept behind a snapshot
	keepHistory = "1000"    // revisions kept when the history is compacted
	tick        = 100       // ms between raft ticks, the leader's heartbeat
	election    = 1000      // ms without a heartbeat until an election; a single member does not wait for it
	maxCopies   = 8         // members without a vote
)

// aloneURL is the address of a member that nobody needs to find; it is only a
// name. The member gets a true one before the first other joins (Advertise).
const aloneURL = "http://127.0.0.1:2380"

// Node is a running member.
type Node struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	name   string

	pinging sync.Once
	pinger  *http.Client
}

// Start runs the member of cfg and returns when it can serve, or fails when
// ctx ends first. The member lives until Close, not until ctx ends. It is for a
// member that is alone; one with others is opened, then its PeerHandler served,
// then waited for.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	n, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	if err := n.WaitReady(ctx); err != nil {
		n.etcd.Server.Stop()
		n.etcd.Close()
		return nil, err
	}
	return n, nil
}

// Open begins to run the member of cfg. Its files are checked if it has others
// to be rebuilt from; then a DamagedError says that they are not as it left
// them. A first start as one of several needs the others (Config.Join), and
// fails if they cannot be reached.
func Open(cfg Config) (*Node, error) {
	cfg.Name = cmp.Or(cfg.Name, "appliance")
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster: make state folder: %w", err)
	}
	mc, err := memberConfig(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.URL != "" {
		if err := verify(mc.Dir); err != nil {
			return nil, &DamagedError{Dir: mc.Dir, Err: err}
		}
	}
	e, err := startEtcd(mc)
	if err != nil {
		return nil, fmt.Errorf("cluster: start member %s in %s: %w", cfg.Name, cfg.Dir, err)
	}
	n := &Node{etcd: e, client: v3client.New(e.Server), name: cfg.Name}
	go n.leadAlone()
	return n, nil
}

// WaitReady returns when the member can serve: it has found a leader and taken
// part. If ctx ends first it goes on trying; Close ends it.
func (n *Node) WaitReady(ctx context.Context) error {
	select {
	case <-n.etcd.Server.ReadyNotify():
		return nil
	case <-n.etcd.Server.StopNotify():
		return fmt.Errorf("cluster: member %s stopped while starting", n.name)
	case <-ctx.Done():
		return fmt.Errorf("cluster: member %s did not become ready: %w", n.name, ctx.Err())
	}
}

// startEtcd turns a panic over files that it cannot read into an error.
func startEtcd(c *embed.Config) (e *embed.Etcd, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &DamagedError{Dir: c.Dir, Err: fmt.Errorf("%v", p)}
		}
	}()
	return embed.StartEtcd(c)
}

// leadAlone makes the only member leader at once: there is nobody whose
// heartbeat it could miss.
func (n *Node) leadAlone() {
	s := n.etcd.Server
	self := uint64(s.MemberID())
	for s.Lead() == 0 {
		select {
		case <-s.StopNotify():
			return
		case <-time.After(tick / 5 * time.Millisecond):
		}
		if all := s.Cluster().Members(); len(all) != 1 || uint64(all[0].ID) != self || s.AppliedIndex() < s.CommittedIndex() {
			continue
		}
		if err := s.Process(context.Background(), raftpb.Message{Type: raftpb.MsgTimeoutNow, From: self, To: self}); err != nil {
			return
		}
	}
}

func memberConfig(cfg Config) (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name = cfg.Name
	c.Dir = filepath.Join(cfg.Dir, "member")
	address := cmp.Or(cfg.URL, aloneURL)
	peer, err := url.Parse(address)
	if err != nil || peer.Host == "" {
		return nil, fmt.Errorf("cluster: member %s: address %q: want https://ADDRESS:PORT", cfg.Name, address)
	}
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = []url.URL{*peer}, []url.URL{*peer}
	c.InitialCluster = cfg.Name + "=" + address
	if len(cfg.Join) > 0 {
		c.InitialCluster, c.ClusterState = initialCluster(cfg.Join), embed.ClusterStateFlagExisting
	}
	if cfg.TLS != (Files{}) {
		c.PeerTLSInfo = transport.TLSInfo{
			CertFile: cfg.TLS.Cert, KeyFile: cfg.TLS.Key, TrustedCAFile: cfg.TLS.CAs,
			ServerName: serverName, MinVersion: tls.VersionTLS13,
		}
	}
	c.ForceNewCluster = cfg.Alone
	c.MaxLearners = maxCopies
	c.InitialClusterToken = "baystream"
	c.TickMs, c.ElectionMs = tick, election
	c.QuotaBackendBytes = maxState
	c.MaxRequestBytes = maxRequest
	c.MaxTxnOps = maxTxnOps
	c.SnapshotCount = logEntries
	c.SnapshotCatchUpEntries = keepEntries
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	c.AutoCompactionMode = embed.CompactorModeRevision
	c.AutoCompactionRetention = keepHistory
	c.BootstrapDefragThresholdMegabytes = 32
	// A slow disk delays requests, it does not make them wrong: warn late.
	c.WarningApplyDuration = 2 * time.Second
	c.WarningUnaryRequestDuration = 5 * time.Second
	// Damaged files make etcd call Fatal: that must not end the daemon here.
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(bridge{log: cfg.Log, told: &told{}}, zap.WithFatalHook(zapcore.WriteThenPanic)))
	return c, nil
}

// Close stops the member; the state stays. It may be called once.
func (n *Node) Close() error {
	err := n.client.Close()
	n.etcd.Close()
	if err != nil && err != context.Canceled {
		return fmt.Errorf("cluster: close client: %w", err)
	}
	return nil
}

// Client is the member's in-process client; it ends with Close.
func (n *Node) Client() *clientv3.Client { return n.client }

// Done is closed when the member has stopped by itself, which it does when its
// disk fails.
func (n *Node) Done() <-chan struct{} { return n.etcd.Server.StopNotify() }

// Alive asks the member itself, which answers without the others too.
func (n *Node) Alive(ctx context.Context) error {
	if _, err := n.client.Status(ctx, ""); err != nil {
		return wrap("status of the domain state", err)
	}
	return nil
}

// Others is how many other members there are, with or without a vote, as far as
// this one knows.
func (n *Node) Others() int { return len(n.etcd.Server.Cluster().Members()) - 1 }

// Status is the condition of the domain state.
type Status struct {
	Member      string   `json:"member"` // this one
	Leader      string   `json:"leader"` // empty: no majority
	Members     []Member `json:"members"`
	Revision    int64    `json:"revision"`
	DBBytes     int64    `json:"dbBytes"`      // the database file
	DBUsedBytes int64    `json:"dbUsedBytes"`  // of it, in use
	DBMaxBytes  int64    `json:"dbQuotaBytes"` // beyond it only deletes pass
	Alarms      []string `json:"alarms"`       // NOSPACE, CORRUPT
	Version     string   `json:"version"`      // of etcd
}

// Member is one vote or one live copy.
type Member struct {
	ID     string `json:"id"` // hexadecimal
	Name   string `json:"name"`
	URL    string `json:"url"` // where the others find it; a mere name of one that is alone
	Voter  bool   `json:"voter"`
	Leader bool   `json:"leader"`
}

// Status asks the member about itself and the others.
func (n *Node) Status(ctx context.Context) (Status, error) {
	st, err := n.client.Status(ctx, "")
	if err != nil {
		return Status{}, wrap("status of the domain state", err)
	}
	list, err := n.client.MemberList(ctx)
	if err != nil {
		return Status{}, wrap("members of the domain state", err)
	}
	alarms, err := n.client.AlarmList(ctx)
	if err != nil {
		return Status{}, wrap("alarms of the domain state", err)
	}
	s := Status{
		Member: n.name, Revision: st.Header.Revision, Version: st.Version,
		DBBytes: st.DbSize, DBUsedBytes: st.DbSizeInUse, DBMaxBytes: maxState,
		Members: []Member{}, Alarms: []string{},
	}
	for _, m := range list.Members {
		leader := m.ID == st.Leader
		if leader {
			s.Leader = m.Name
		}
		s.Members = append(s.Members, Member{
			ID: fmt.Sprintf("%x", m.ID), Name: m.Name, URL: strings.Join(m.PeerURLs, ","), Voter: !m.IsLearner, Leader: leader,
		})
	}
	for _, a := range alarms.Alarms {
		s.Alarms = append(s.Alarms, a.Alarm.String())
	}
	return s, nil
}
