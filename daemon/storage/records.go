package storage

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"baystream/daemon/mirror"
	"baystream/daemon/target"
)

// A Golden is a golden image in the pool. It never changes once it is ready.
type Golden struct {
	ID             string `json:"id"`
	ThinID         uint32 `json:"thinId"`
	SizeBytes      uint64 `json:"sizeBytes"`
	AllocatedBytes uint64 `json:"allocatedBytes"` // blocks that are not zero
	Digest         string `json:"digest"`         // of the whole content
	Ready          bool   `json:"ready"`          // imported and verified
}

// A Volume is one OS volume. ID, UUID, minor and thin ID are chosen once.
type Volume struct {
	ID        string  `json:"id"` // uuid
	Name      string  `json:"name"`
	GoldenID  string  `json:"goldenId,omitempty"`
	Digest    string  `json:"digest,omitempty"` // of the golden image, which both legs must begin with
	ThinID    uint32  `json:"thinId"`
	Minor     uint32  `json:"minor"`
	SizeBytes uint64  `json:"sizeBytes"`
	UUID      uint64  `json:"uuid"` // DRBD's initial UUID of this incarnation
	Made      bool    `json:"made"` // the leg exists; false while it is being made
	Deleting  bool    `json:"deleting,omitempty"`
	Access    *Access `json:"access,omitempty"` // exported to, nil: to nobody
	Group     int     `json:"group,omitempty"`  // storage group: what moves between the appliances of a pair together
	Draft     bool    `json:"draft,omitempty"`  // made here alone: the partner of a pair has no leg yet (Settle)
}

// Access says who may reach an exported volume, and where.
type Access struct {
	InitiatorIQN string         `json:"initiatorIqn"`
	User         string         `json:"user"`   // CHAP name
	Secret       target.Secret  `json:"secret"` // CHAP secret
	Portal       netip.AddrPort `json:"portal"`
}

// Device is the node of the volume on this appliance.
func (v Volume) Device() string { return mirror.Device(v.Minor) }

func (v Volume) leg() string      { return fmt.Sprintf("bay-vol-%08x", v.ThinID) }
func (v Volume) resource() string { return fmt.Sprintf("v%d", v.Minor) }
func (v Volume) sectors() uint64  { return v.SizeBytes / 512 }

func (g Golden) thin() string { return fmt.Sprintf("bay-gold-%08x", g.ThinID) }

// State is everything Records keep.
type State struct {
	Goldens []Golden
	Volumes []Volume
}

// Records keep what should exist, beyond a restart. A Put has to be durable
// when it returns. Calls come from many goroutines, never two at once for one
// ID. Volumes hold CHAP secrets.
type Records interface {
	Load(ctx context.Context) (State, error)
	PutGolden(ctx context.Context, g Golden) error
	DeleteGolden(ctx context.Context, id string) error
	PutVolume(ctx context.Context, v Volume) error
	DeleteVolume(ctx context.Context, id string) error
}

// Memory keeps Records in memory, for tests.
type Memory struct {
	mu      sync.Mutex
	goldens map[string]Golden
	volumes map[string]Volume
}

// NewMemory returns empty Records.
func NewMemory() *Memory {
	return &Memory{goldens: map[string]Golden{}, volumes: map[string]Volume{}}
}

// Load implements Records.
func (m *Memory) Load(context.Context) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s State
	for _, g := range m.goldens {
		s.Goldens = append(s.Goldens, g)
	}
	for _, v := range m.volumes {
		s.Volumes = append(s.Volumes, v)
	}
	return s, nil
}

// PutGolden implements Records.
func (m *Memory) PutGolden(_ context.Context, g Golden) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.goldens[g.ID] = g
	return nil
}

// DeleteGolden implements Records.
func (m *Memory) DeleteGolden(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.goldens, id)
	return nil
}

// PutVolume implements Records.
func (m *Memory) PutVolume(_ context.Context, v Volume) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.volumes[v.ID] = v
	return nil
}

// DeleteVolume implements Records.
func (m *Memory) DeleteVolume(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.volumes, id)
	return nil
}
