// Package pair is a virtual pair at work: two appliances and a witness in three
// frames, and servers whose workload writes and checks what it wrote. Frame
// tests, the demo and the benchmarks tell their stories with it.
//
// Up starts the modules, Form makes a domain of them, Serve deploys the sample OS and
// starts servers. From then on a story breaks what it likes with package qemu
// and asks here what became of it: Status says who is active and which group is
// where, WaitSettled ends when everything is at home and in sync, and a Server
// reports the longest gap of its I/O and every error it saw.
//
// Like qemu it waits for events where there are any; the appliance's state is
// asked for again and again, since nothing outside announces it.
package pair

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"baystream/qemu"
)

// Options say what to start.
type Options struct {
	Frame qemu.Config // Frames is set to 3
	Cache string      // directory of packages, for the sample OS
	// ModuleDir is where the project is, for its programs to be built; "" is
	// the current directory.
	ModuleDir string
	Domain    string       // its name; "pair" if ""
	Tell      func(string) // hears what is done; may be nil
}

// A Site is a pair and its servers.
type Site struct {
	*qemu.Frame
	A, B, Witness *qemu.Bay
	// REST is management at the service address, whoever is active.
	REST    *qemu.Client
	Servers []*Server

	options Options
}

// Time limits, with KVM; qemu.Deadline stretches them.
const (
	bootTime = time.Minute
	formTime = time.Minute
)

// Up starts three frames and sets the first appliance up. The caller closes the
// frame of the site, which it gets beside an error too unless nothing started.
func Up(ctx context.Context, o Options) (*Site, error) {
	o.Frame.Frames = 3
	f, err := qemu.Up(ctx, o.Frame)
	if err != nil {
		return nil, err
	}
	return On(ctx, f, o)
}

// On is Up on three frames that were started already.
func On(ctx context.Context, f *qemu.Frame, o Options) (*Site, error) {
	m := f.Modules()
	if o.Domain == "" {
		o.Domain = "pair"
	}
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	s := &Site{Frame: f, A: m[0], B: m[1], Witness: m[2], options: o}
	ctx, done := context.WithTimeout(ctx, qemu.Deadline(bootTime))
	defer done()
	return s, s.Setup(ctx)
}

// Form makes a domain of the three modules, and returns when each has its vote.
func (s *Site) Form(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, qemu.Deadline(formTime))
	defer done()
	if err := s.FormDomain(ctx, s.options.Domain, s.options.Tell); err != nil {
		return err
	}
	var err error
	if s.REST, err = s.Service(); err != nil {
		return err
	}
	_, err = s.waitStatus(ctx, "three votes", func(st Status) bool { return st.Healthy == 3 && st.Active != "" })
	return err
}

// Status is what management says of the pair.
type Status struct {
	Verdict string   `json:"verdict"`
	Active  string   `json:"active"` // title
	Healthy int      `json:"healthy"`
	Members []Member `json:"members"`
	Groups  []Group  `json:"groups"`
}

// Member is a module with a vote.
type Member struct {
	Name    string `json:"name"` // serial number
	Title   string `json:"title"`
	Role    string `json:"role"`
	Healthy bool   `json:"healthy"`
	Active  bool   `json:"active"`
}

// Group is where a storage group is.
type Group struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
	Home  string `json:"home"`
	Epoch uint64 `json:"epoch"`
	State string `json:"state"`
}

// inSync is the state of a group that both appliances could serve; one without
// volumes is empty.
var inSync = regexp.MustCompile(`(?i)^(in sync|empty)`)

// Settled tells that everything is as it should be: three votes, somebody
// active, both groups at home and in sync.
func (s Status) Settled() bool {
	if s.Healthy != 3 || s.Active == "" || len(s.Groups) != 2 {
		return false
	}
	for _, g := range s.Groups {
		if g.Owner == "" || g.Owner != g.Home || !inSync.MatchString(g.State) {
			return false
		}
	}
	return true
}

func (s Status) String() string {
	var groups []string
	for _, g := range s.Groups {
		groups = append(groups, fmt.Sprintf("%s at %s (home %s, epoch %d, %s)", g.Name, g.Owner, g.Home, g.Epoch, g.State))
	}
	return fmt.Sprintf("%d votes, active %q, %s", s.Healthy, s.Active, strings.Join(groups, "; "))
}

// Patience is how long a fault lasts at the least, for everything to come that
// it may bring: longer than any takeover of the planner's (daemon/pair).
const Patience = 10 * time.Second

// Intervals of looking again.
const (
	lookAgain = 200 * time.Millisecond
	oneTry    = time.Second // for one request, while modules die
)

// Status asks the service address.
func (s *Site) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, qemu.Deadline(oneTry))
	defer cancel()
	var st Status
	err := s.REST.Get(ctx, "/rest/baystream/votes", &st)
	return st, err
}

// WaitSettled waits until everything is at home and in sync again.
func (s *Site) WaitSettled(ctx context.Context) (Status, error) {
	return s.waitStatus(ctx, "all at home and in sync", Status.Settled)
}

// WaitActive waits until that module is active.
func (s *Site) WaitActive(ctx context.Context, b *qemu.Bay) error {
	_, err := s.waitStatus(ctx, b.Name()+" active", func(st Status) bool { return st.active() == b.Identity.Serial })
	return err
}

// WaitVotes waits until so many votes answer.
func (s *Site) WaitVotes(ctx context.Context, n int) error {
	_, err := s.waitStatus(ctx, fmt.Sprint(n, " votes"), func(st Status) bool { return st.Healthy == n })
	return err
}

// WaitOwner waits until that module serves all groups.
func (s *Site) WaitOwner(ctx context.Context, b *qemu.Bay) error {
	_, err := s.waitStatus(ctx, "all groups at "+b.Name(), func(st Status) bool {
		for _, g := range st.Groups {
			if !is(b, g.Owner) {
				return false
			}
		}
		return len(st.Groups) > 0
	})
	return err
}

func (s *Site) waitStatus(ctx context.Context, what string, ok func(Status) bool) (Status, error) {
	var last Status
	for {
		st, err := s.Status(ctx)
		if err == nil {
			if last = st; ok(st) {
				return st, nil
			}
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("wait for %s: %w; the last status: %v (%v)", what, ctx.Err(), last, err)
		case <-time.After(lookAgain):
		}
	}
}

// active is the serial number of the active module.
func (s Status) active() string {
	for _, m := range s.Members {
		if m.Active {
			return m.Name
		}
	}
	return ""
}

// Active returns the active appliance and the other one.
func (s *Site) Active(ctx context.Context) (active, standby *qemu.Bay, err error) {
	st, err := s.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	switch st.active() {
	case s.A.Identity.Serial:
		return s.A, s.B, nil
	case s.B.Identity.Serial:
		return s.B, s.A, nil
	}
	return nil, nil, errors.New("nobody is active")
}

// is tells whether a name in a status means that module: its serial number, or
// its title ("VF0001, appliance bay 1").
func is(b *qemu.Bay, name string) bool {
	return name == b.Identity.Serial || name == b.Frame+", "+b.Identity.Location
}

// Return gives a module its power back and waits until everything is at home
// and in sync.
func (s *Site) Return(ctx context.Context, bays ...*qemu.Bay) (Status, error) {
	for _, b := range bays {
		if err := b.PowerOn(ctx); err != nil {
			return Status{}, err
		}
	}
	return s.WaitSettled(ctx)
}

// Home as the target of MoveGroup is where the group belongs.
const Home = "home"

// MoveGroup moves a storage group to a module, by its serial number, or Home,
// as a planned step.
func (s *Site) MoveGroup(ctx context.Context, group, to string) error {
	return again(ctx, moveTime, func(ctx context.Context) error {
		return s.REST.Do(ctx, "POST", "/rest/baystream/storage/groups/"+group+"/owner", map[string]string{"to": to}, nil)
	})
}

// moveTime is how long one request to move a group may take.
const moveTime = 10 * time.Second

// SwitchOver hands management over to a module, as a planned step.
func (s *Site) SwitchOver(ctx context.Context, to *qemu.Bay) error {
	return s.REST.Do(ctx, "POST", "/rest/baystream/active", map[string]string{"to": to.Identity.Serial}, nil)
}
