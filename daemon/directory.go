package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"baystream/daemon/boot"
	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/netcfg"
)

// bootFiles is where the image keeps the boot programs for servers.
const bootFiles = "/usr/lib/ipxe"

// boot runs the boot service on the deployment network, anew when the link
// under it changes or the network is another.
func (d *Daemon) boot(ctx context.Context) error {
	if d.net == nil {
		return nil // the board says so under network
	}
	for ctx.Err() == nil {
		depl, other := d.net.deployment()
		serving, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-other:
			case <-serving.Done():
			}
			stop()
		}()
		d.serveBoot(serving, depl)
		<-serving.Done() // the network is another, or nothing can be served on this one
		stop()
	}
	return nil
}

// serveBoot serves on one deployment network until ctx ends.
func (d *Daemon) serveBoot(ctx context.Context, depl netcfg.Deployment) {
	if depl.VLAN == 0 {
		return
	}
	service, err := boot.New(boot.Config{
		Interface: netcfg.DeploymentLink(depl), Address: depl.Address, MTU: depl.MTU,
		Files: bootPrograms(), Directory: newDirectory(d), Log: d.log.With("part", "boot"),
	})
	if err != nil {
		d.board.set("boot service", domain.StatusCritical, err.Error(), "Correct the deployment setting (bayctl net set deployment, or in the frame).")
		return
	}
	for {
		d.board.set("boot service", domain.StatusOK, "serves "+depl.Pool.String(), "")
		err := service.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		d.log.Warn("boot service", "err", err)
		d.board.set("boot service", domain.StatusWarning, fmt.Sprint(err), "It starts again by itself once the deployment link is back; see bayctl net.")
		if !pause(ctx, 2*time.Second) {
			return
		}
	}
}

func bootPrograms() fs.FS { return os.DirFS(bootFiles) }

// directory tells the boot service who the servers are, from the domain state.
type directory struct {
	d      *Daemon
	leases *cluster.KV[lease] // by MAC, of ports whose server is not known

	complaints *rate.Limiter // strangers must not fill the log

	mu sync.Mutex // one address is given out at a time
}

func newDirectory(d *Daemon) *directory {
	return &directory{d: d, leases: cluster.NewKV[lease](d.state.Client, "strangers"), complaints: rate.NewLimiter(boot.ComplainEvery, 5)}
}

// ByMAC implements boot.Directory.
func (dir *directory) ByMAC(ctx context.Context, mac net.HardwareAddr) (boot.Server, error) {
	servers, err := dir.d.state.ServerHardware.List(ctx)
	if err != nil {
		return boot.Server{}, err
	}
	h, known := owner(servers, mac)
	addr, err := dir.address(ctx, h, known, mac)
	if err != nil {
		return boot.Server{}, err
	}
	if !known {
		return boot.Server{Addr: addr, Lease: strangerLease, Reason: "no server with port " + mac.String() + " is known: register it as server hardware"}, nil
	}
	s := boot.Server{ID: h.UUID, Name: h.Name, Addr: addr}
	s.Ready, s.Reason, s.Target, err = dir.target(ctx, h)
	return s, err
}

// owner is the server with the port.
func owner(servers []domain.ServerHardware, mac net.HardwareAddr) (domain.ServerHardware, bool) {
	for _, h := range servers {
		for _, m := range h.MACs {
			if strings.EqualFold(m, mac.String()) {
				return h, true
			}
		}
	}
	return domain.ServerHardware{}, false
}

// target is what the server boots from, or why it cannot.
func (dir *directory) target(ctx context.Context, h domain.ServerHardware) (bool, string, boot.Target, error) {
	if h.ServerProfile == "" {
		return false, "server " + h.Name + " has no server profile: assign one", boot.Target{}, nil
	}
	id, err := domain.IDFromURI(domain.ServerProfiles, h.ServerProfile)
	if err != nil {
		return false, "", boot.Target{}, err
	}
	p, err := dir.d.state.ServerProfiles.Get(ctx, id)
	if domain.KindOf(err) == domain.NotFound {
		return false, "the server profile of " + h.Name + " is gone", boot.Target{}, nil
	}
	if err != nil {
		return false, "", boot.Target{}, err
	}
	if p.OSDeploymentSettings == nil || p.OSDeploymentSettings.OSVolumeURI == "" {
		reason := "the OS volume of server profile " + p.Name + " is not ready yet (" + p.State + ")"
		if p.State == domain.ProfileFailed {
			reason = "the deployment of server profile " + p.Name + " failed: see its task"
		}
		return false, reason, boot.Target{}, nil
	}
	vid, err := domain.IDFromURI(domain.OSVolumes, p.OSDeploymentSettings.OSVolumeURI)
	if err != nil {
		return false, "", boot.Target{}, err
	}
	v, err := dir.d.state.OSVolumes.Get(ctx, vid)
	if err != nil && domain.KindOf(err) != domain.NotFound {
		return false, "", boot.Target{}, err
	}
	portal, perr := netip.ParseAddr(v.OEVolumeIP)
	if err != nil || v.State != domain.VolumeExported || v.ServerHardwareURI != h.URI || perr != nil {
		return false, "the OS volume of server profile " + p.Name + " is not served", boot.Target{}, nil
	}
	if err := dir.d.role.Ready(); err != nil {
		return false, "the appliance's storage is not up yet", boot.Target{}, nil
	}
	c, _, err := dir.d.state.Credentials.Get(ctx, vid)
	if err != nil {
		return false, "", boot.Target{}, err
	}
	return true, "", boot.Target{IQN: v.OEVolumeIQN, Portal: netip.AddrPortFrom(portal, portalPort), InitiatorIQN: v.InitiatorIQN, User: c.User, Secret: c.Secret}, nil
}

// address is the server's address, given once and kept in its row; that of an
// unknown port is kept by MAC for a while.
func (dir *directory) address(ctx context.Context, h domain.ServerHardware, known bool, mac net.HardwareAddr) (netip.Addr, error) {
	depl := dir.d.deployment()
	pool := depl.Pool
	if a, err := netip.ParseAddr(h.Address); known && err == nil && pool.Contains(a) {
		return a, nil
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	leases, err := dir.leases.List(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	servers, err := dir.d.state.ServerHardware.List(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	taken := map[netip.Addr]string{depl.Address.Addr(): "appliance", depl.Portal: "portal"}
	for _, s := range servers {
		if a, err := netip.ParseAddr(s.Address); err == nil {
			if known && s.UUID == h.UUID && pool.Contains(a) {
				return a, nil // somebody else just gave it
			}
			taken[a] = s.UUID
		}
	}
	if !known {
		a, forget, err := strangerAddress(pool, taken, leases, mac.String(), time.Now())
		if old := leases[mac.String()]; err == nil && (old.Address != a || time.Since(old.Seen).Abs() > seenEvery) {
			err = dir.leases.Put(ctx, mac.String(), lease{a, time.Now()})
		}
		return a, errors.Join(err, dir.forget(ctx, leases, forget))
	}
	a, forget, err := serverAddress(pool, taken, leases, h.UUID, mac.String())
	if err != nil {
		return a, err
	}
	if _, err = dir.d.state.ServerHardware.Update(ctx, h.UUID, func(row *domain.ServerHardware) error { row.Address = a.String(); return nil }); err != nil {
		return a, err
	}
	return a, dir.forget(ctx, leases, forget)
}

// forget deletes leases of strangers.
func (dir *directory) forget(ctx context.Context, leases map[string]lease, macs []string) error {
	for _, m := range macs {
		if _, ok := leases[m]; !ok {
			continue
		}
		if err := dir.leases.Delete(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// seenEvery bounds how often a sighting is written, so that a server that
// retries for hours does not fill the domain state.
const seenEvery = time.Minute

// Seen implements boot.Directory: it notes when a server showed up, and enters
// one that nobody registered.
func (dir *directory) Seen(ctx context.Context, s boot.Sighting) {
	if err := dir.seen(ctx, s); err != nil && ctx.Err() == nil && dir.complaints.Allow() {
		dir.d.log.Warn("note server", "mac", s.MAC.String(), "err", err)
	}
}

func (dir *directory) seen(ctx context.Context, s boot.Sighting) error {
	servers, err := dir.d.state.ServerHardware.List(ctx)
	if err != nil {
		return err
	}
	h, known := owner(servers, s.MAC)
	if !known && domain.ValidUUID(s.UUID) {
		// A registered server that shows a port nobody had entered, or a new one.
		if h, err = dir.d.state.ServerHardware.Get(ctx, s.UUID); domain.KindOf(err) == domain.NotFound {
			return dir.enter(ctx, s)
		} else if err != nil {
			return err
		}
		known = true
	}
	if !known {
		return nil
	}
	last, err := time.Parse(domain.TimeFormat, h.LastSeen)
	if err == nil && time.Since(last) < seenEvery && (hasPort(h, s.MAC) || len(h.MACs) >= maxPorts) && (s.Serial == "" || h.SerialNumber != "") {
		return nil
	}
	_, err = dir.d.state.ServerHardware.Update(ctx, h.UUID, func(row *domain.ServerHardware) error {
		row.LastSeen, row.LastSeenAs = domain.Stamp(time.Now()), s.Arch.String()
		if !hasPort(*row, s.MAC) && len(row.MACs) < maxPorts {
			row.MACs = append(row.MACs, s.MAC.String())
		}
		if row.Discovered {
			describe(row, s)
		}
		return nil
	})
	return err
}

func hasPort(h domain.ServerHardware, mac net.HardwareAddr) bool {
	_, ok := owner([]domain.ServerHardware{h}, mac)
	return ok
}

func (dir *directory) enter(ctx context.Context, s boot.Sighting) error {
	h := domain.ServerHardware{
		Resource: domain.Resource{Status: domain.StatusOK, Description: "Seen on the deployment network"},
		MACs:     []string{s.MAC.String()}, Discovered: true, LastSeen: domain.Stamp(time.Now()), LastSeenAs: s.Arch.String(),
	}
	h.SetID(s.UUID)
	describe(&h, s)
	if err := dir.makeRoom(ctx); err != nil {
		return err
	}
	_, err := dir.d.state.ServerHardware.Create(ctx, h)
	if domain.KindOf(err) == domain.Conflict {
		return nil // another request of the same server was first
	}
	dir.d.log.Info("server discovered", "uuid", h.UUID, "mac", s.MAC.String(), "serial", s.Serial)
	return err
}

// makeRoom bounds how many servers are listed that nobody registered.
func (dir *directory) makeRoom(ctx context.Context) error {
	servers, err := dir.d.state.ServerHardware.List(ctx)
	if err != nil {
		return err
	}
	id, err := forgettable(servers, quota(dir.d.deployment().Pool.Size()), time.Now())
	if err != nil || id == "" {
		return err
	}
	dir.d.log.Info("discovered server forgotten", "uuid", id)
	return dir.d.state.ServerHardware.Delete(ctx, id)
}

// describe fills what the firmware says into a discovered row.
func describe(h *domain.ServerHardware, s boot.Sighting) {
	if s.Serial != "" {
		h.SerialNumber = s.Serial
	}
	if s.Product != "" {
		h.Model = s.Product
	}
	h.Name = "server " + s.UUID
	if h.SerialNumber != "" {
		h.Name = "server " + h.SerialNumber
	}
}
