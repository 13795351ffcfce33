// Package cluster keeps the state of the domain: an etcd member that lives in
// this process, and typed tables over it.
//
// A Node is the member. It opens no network port and no socket: the daemon
// reaches it by function calls (Node.Client), and the state lies below one
// directory. A Table holds the entities of one resource collection with a
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
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Config says where a member keeps its state and what it is called.
type Config struct {
	Dir  string       // made with mode 0700 if it is missing; belongs to the member alone
	Name string       // name of the member, "appliance" if empty; never changes after the first start
	Log  *slog.Logger // etcd's warnings and errors come here; required
}

// Limits of the state. Resources are small (the largest are plan scripts of
// some hundred KiB), and an appliance has little memory: etcd keeps a
// snapshot's worth of log entries and the touched part of its database in RAM.
const (
	maxState    = 256 << 20 // bytes of the database; beyond it only deletes pass
	maxRequest  = 24 << 20  // bytes of one transaction: a whole bundle is extracted in one
	maxTxnOps   = 8192      // reads or writes of one transaction
	logEntries  = 500       // raft entries between two snapshots
	keepEntries = 50        // raft entries kept behind a snapshot
	keepHistory = "1000"    // revisions kept when the history is compacted
	tick        = 20        // ms between raft ticks; a single member leads after 20 to 100 ms
	election    = 100       // ms without a leader until an election
)

// peerURL is where other members would find this one. A single member listens
// nowhere, so it is only a name; joining a second member will change it.
const peerURL = "http://127.0.0.1:2380"

// Node is a running member.
type Node struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	name   string
}

// Start runs the member of cfg and returns when it can serve, or fails when
// ctx ends first. The member lives until Close, not until ctx ends.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if cfg.Name == "" {
		cfg.Name = "appliance"
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster: make state folder: %w", err)
	}
	e, err := embed.StartEtcd(memberConfig(cfg))
	if err != nil {
		return nil, fmt.Errorf("cluster: start member %s in %s: %w", cfg.Name, cfg.Dir, err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case <-e.Server.StopNotify():
		e.Close()
		return nil, fmt.Errorf("cluster: member %s in %s stopped while starting", cfg.Name, cfg.Dir)
	case <-ctx.Done():
		e.Server.Stop()
		e.Close()
		return nil, fmt.Errorf("cluster: member %s in %s did not become ready: %w", cfg.Name, cfg.Dir, ctx.Err())
	}
	return &Node{etcd: e, client: v3client.New(e.Server), name: cfg.Name}, nil
}

func memberConfig(cfg Config) *embed.Config {
	c := embed.NewConfig()
	c.Name = cfg.Name
	c.Dir = filepath.Join(cfg.Dir, "member")
	peer, err := url.Parse(peerURL)
	if err != nil {
		panic(err)
	}
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = []url.URL{*peer}, []url.URL{*peer}
	c.InitialCluster = cfg.Name + "=" + peerURL
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
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(bridge{log: cfg.Log}))
	return c
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
			ID: fmt.Sprintf("%x", m.ID), Name: m.Name, Voter: !m.IsLearner, Leader: leader,
		})
	}
	for _, a := range alarms.Alarms {
		s.Alarms = append(s.Alarms, a.Alarm.String())
	}
	return s, nil
}
