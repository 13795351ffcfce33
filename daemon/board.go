package daemon

import (
	"sync"

	"baystream/daemon/domain"
)

// board is where the parts of the appliance say how they are. It keeps the
// order in which they first spoke, which is the order they came up in.
type board struct {
	changed chan struct{} // buffered by one

	mu    sync.Mutex
	parts []domain.HealthPart
}

func newBoard() *board { return &board{changed: make(chan struct{}, 1)} }

func (b *board) set(name, status, detail, remedy string) {
	defer wake(b.changed)
	b.mu.Lock()
	defer b.mu.Unlock()
	p := domain.HealthPart{Name: name, Status: status, Detail: detail, Remedy: remedy}
	for i := range b.parts {
		if b.parts[i].Name == name {
			b.parts[i] = p
			return
		}
	}
	b.parts = append(b.parts, p)
}

// all returns the parts and the worst status among them.
func (b *board) all() ([]domain.HealthPart, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]domain.HealthPart(nil), b.parts...), worst(b.parts)
}

func worst(parts []domain.HealthPart) string {
	rank := map[string]int{domain.StatusOK: 0, domain.StatusWarning: 1, domain.StatusCritical: 2}
	out := domain.StatusOK
	for _, p := range parts {
		if rank[p.Status] > rank[out] {
			out = p.Status
		}
	}
	return out
}
