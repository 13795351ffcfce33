// Package daemon wires the parts of an appliance together and keeps them
// going: it knows the order in which they come up, and nothing of what they do.
//
//	hardware ─ network ─ data disk ─ authority ─ domain state ─ REST      (management role)
//	                                     └── kernel modules ─ storage ─ tasks ─ boot service  (storage role)
//
// Management comes up first and answers; the storage role follows beside it, also
// when there is no management network to answer on.
// What cannot come up is a part with a status and a remedy on the health board
// (board.go), tried again where that can help; it does not take the others
// down. When Run returns, volumes serve on: they live in the kernel.
//
// The adapters (storage.go, plans.go, directory.go) fit the parts to each
// other's interfaces; report.go is what the appliance says of itself.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"baystream/daemon/artifact"
	"baystream/daemon/cluster"
	"baystream/daemon/deploy"
	"baystream/daemon/domain"
	"baystream/daemon/journal"
	"baystream/daemon/library"
	"baystream/daemon/member"
	"baystream/daemon/pki"
	"baystream/daemon/plan"
	"baystream/daemon/replica"
	"baystream/daemon/rest"
	"baystream/daemon/storage"
	"baystream/daemon/task"
	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/netcfg"
)

// Config is what the command line says.
type Config struct {
	State   string // directory of everything that lasts
	Root    string // where /sys and /proc are; "/" but in tests
	Listen  string // address of REST; empty: port 443 of the management address
	Version string
	Log     *slog.Logger
	Console func(format string, args ...any) // lines for whoever stands at the console
}

// Daemon is a running appliance.
type Daemon struct {
	cfg           Config
	log           *slog.Logger
	board         *board
	started       time.Time
	inv           hw.Inventory
	mgmt          netcfg.Management // as set by the frame; zero: DHCP
	depl          netcfg.Deployment // zero: no deployment network
	net           *network
	hw            *hardware
	disk          storage.Disk
	mem           *membership
	node          *cluster.Node // nil on an unclaimed witness
	state         *cluster.Store
	role          *storageRole
	address       atomic.Pointer[netip.Addr] // management address in use
	also          alsoServed                 // addresses of IPv6
	answering     chan struct{}              // closed once REST answers
	journal       *journal.Journal
	syslogChanged chan struct{} // buffered by one
}

// localReserve is what artifacts leave free on the local partition for the
// domain state and the logs, in bytes.
const localReserve = 160 << 20

// Run runs the appliance until ctx ends. An error means that it cannot even
// answer; PID 1 then starts it again. A module that is claimed begins anew.
func Run(ctx context.Context, cfg Config) error {
	for {
		d := &Daemon{cfg: cfg, log: cfg.Log, board: newBoard(), started: time.Now(), syslogChanged: make(chan struct{}, 1), answering: make(chan struct{})}
		if err := d.run(ctx); !d.mem.taken() || ctx.Err() != nil {
			return err
		}
	}
}

func (d *Daemon) run(ctx context.Context) (err error) {
	cfg := d.cfg
	d.probe()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.board.tellProblems(ctx, d.log, notifyManager) })

	d.hw = newHardware(d)
	if d.onModule() {
		d.net = newNetwork(d)
		g.Go(func() error { return d.net.run(ctx) })
	}
	if err := d.prepareDisk(ctx); err != nil {
		return err
	}
	if d.net != nil {
		d.net.load(cfg.State)
	}
	d.openJournal()
	g.Go(func() error { return d.journal.Run(ctx) })
	if d.mem, err = openMembership(d); err != nil {
		return d.trouble(ctx, "membership", err)
	}
	defer d.mem.port.close()
	if d.witness() {
		return d.runWitness(ctx, g)
	}
	store, err := artifact.OpenStore(filepath.Join(cfg.State, "artifacts"), localReserve)
	if err != nil {
		return err
	}
	d.mem.Handle("GET "+replica.Path, replica.Source(store))
	authority, err := d.startState(ctx)
	if err != nil {
		return d.trouble(ctx, "domain state", err)
	}
	defer d.closeNode()

	engine := task.New(d.state.Tasks, d.log.With("part", "tasks"))
	d.hw.register(engine)
	d.role = newStorageRole(d)
	deployer, err := deploy.New(deploy.Config{
		State: d.state, Storage: d.role, Plans: d.role, Tasks: engine, Logs: filepath.Join(cfg.State, "log", "volumes"),
		Netmask: d.netmask, Log: d.log.With("part", "deploy"),
	})
	if err != nil {
		return err
	}
	lib := library.New(library.Config{
		State: d.state, Store: store, Pool: d.role, Capture: deployer, Tasks: engine,
		Attributes: attributesJSON, Appliance: d.name(), Log: d.log.With("part", "library"),
	})

	defer func() { // when it fails half-way; the domain state ends last
		cancel()
		_ = g.Wait()
	}()
	ready := sync.OnceFunc(d.ready)
	behindREST := func(run func(context.Context) error) func() error {
		return func() error {
			behind(ctx, d.answering, restFirst)
			if ctx.Err() != nil {
				return nil
			}
			return run(ctx)
		}
	}
	g.Go(behindREST(d.hw.Run))
	g.Go(behindREST(d.behindNetwork(d.hw.inPlace(d.role.run))))
	g.Go(behindREST(func(ctx context.Context) error { return d.replicate(ctx, store) }))
	g.Go(behindREST(func(ctx context.Context) error {
		ready()
		return d.beat(ctx)
	}))

	d.mem.Groups, d.mem.Epochs = d.role.voteGroups, d.role.epochs
	elector := cluster.NewElector(d.node.Client(), d.mem.ID(), cluster.DefaultTTL, d.log.With("part", "election"))
	office := d.mem.newOffice(ctx, authority, elector)
	if d.mem.alone() {
		if err := deployer.Recover(ctx); err != nil {
			return err
		}
	}
	code, err := d.firstContact(ctx, authority)
	if err != nil {
		return err
	}
	users := make(chan struct{}, 1)
	server := rest.New(rest.Config{
		Store: d.state, Library: lib, Deployer: deployer, Appliance: report{d}, Info: d.info, Attributes: scriptAttributes,
		CA: authority.PEM(), SetupCode: code, Log: d.log.With("part", "rest"), UsersChanged: func() { wake(users) },
		Network: d.networkControl(), Hardware: d.hw, Metrics: d.hw.metrics(), Membership: office, Lead: d.mem.leadership,
	})
	active := duty(func(ctx context.Context, epoch uint64) error {
		if epoch > 0 {
			if err := deployer.Recover(ctx); err != nil {
				return err
			}
		}
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error {
			select {
			case <-d.role.settled:
				return engine.RunAs(ctx, epoch) // tasks wait for storage, so that none fails for want of it
			case <-ctx.Done():
				return nil
			}
		})
		g.Go(func() error { return d.hw.inPlace(d.boot)(ctx) })
		g.Go(func() error { return deployer.KeepTrash(ctx) })
		g.Go(func() error { return d.mem.advance(ctx, office.Claims) })
		g.Go(func() error { return d.formPair(ctx) })
		if epoch > 0 {
			g.Go(func() error { return d.holdService(ctx, server, authority) })
		}
		return g.Wait()
	})
	g.Go(behindREST(func(ctx context.Context) error { return d.mem.manage(ctx, elector, active) }))
	d.join(ctx, g, elector, users)
	d.serveConsole(ctx, g, server, users)
	g.Go(func() error { return d.forward(ctx) })

	listener, followAddress, err := d.listen(ctx, authority)
	if err != nil {
		return err
	}
	g.Go(func() error { return server.Serve(ctx, listener, authority.TLS()) })
	g.Go(func() error {
		return d.serveIPv6(ctx, authority, func(ctx context.Context, ln net.Listener) error { return server.Serve(ctx, ln, authority.TLS()) })
	})
	if followAddress != nil {
		g.Go(followAddress)
	}
	close(d.answering)
	d.cfg.Console("REST ready https://%s", listener.Addr())
	ready()
	d.hw.started()
	d.log.Info("appliance ready", "address", listener.Addr().String(), "version", cfg.Version)
	return g.Wait()
}

// restFirst is how long the storage role, and the network that it serves on, leave the machine to REST. Without a
// management address it comes up all the same: servers wait for their volumes.
const restFirst = 10 * time.Second

// behind waits until answering is closed, for limit at the most, or until ctx
// ends.
func behind(ctx context.Context, answering <-chan struct{}, limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-answering:
	case <-t.C:
	}
}

// ready tells the service manager that the appliance does its work.
func (d *Daemon) ready() {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		d.log.Warn("notify readiness", "err", err)
	}
}

// probe reads what this module is. What cannot be read is a warning: a module
// with a damaged table still serves.
func (d *Daemon) probe() {
	inv, err := hw.Probe(d.cfg.Root)
	d.inv = inv
	d.board.set("hardware", domain.StatusOK, inv.Bay.String(), "")
	if err != nil {
		d.log.Warn("hardware", "err", err)
		d.board.set("hardware", domain.StatusWarning, err.Error(), "Compare with bayctl hw; a module that is read wrongly should be replaced.")
	}
	if d.mgmt, err = netcfg.ParseManagement(inv.Settings["management"]); err != nil {
		d.log.Error("frame settings", "err", err)
		d.board.set("frame settings", domain.StatusCritical, err.Error(), "Correct the setting in the frame; until then the management port asks DHCP.")
	}
	if d.depl, err = netcfg.ParseDeployment(inv.Settings["deployment"]); err != nil {
		d.log.Error("frame settings", "err", err)
		d.board.set("frame settings", domain.StatusCritical, err.Error(), "Correct the setting in the frame; until then there is no deployment network.")
	}
}

// onModule says whether this is an appliance module: only there are links
// configured and disks initialised. On an ordinary host the daemon serves
// management alone.
func (d *Daemon) onModule() bool { return d.inv.Bay.Kind == hw.Appliance }

// name is the appliance as the interface spells it (spec section 3).
func (d *Daemon) name() string {
	if d.inv.Bay.Frame == "" {
		host, _ := os.Hostname()
		return host
	}
	return fmt.Sprintf("%s, appliance %d", d.inv.Bay.Frame, d.inv.Bay.Number)
}

func (d *Daemon) netmask() string {
	depl := d.deployment()
	if !depl.Address.IsValid() {
		return ""
	}
	return net.IP(net.CIDRMask(depl.Address.Bits(), 32)).String()
}

// prepareDisk finds the data disk and mounts its local partition on the state
// directory. Without one, the state lives in memory and the board says so.
func (d *Daemon) prepareDisk(ctx context.Context) error {
	if !d.onModule() {
		return os.MkdirAll(d.cfg.State, 0o700)
	}
	if err := loadModules(diskModules); err != nil {
		d.log.Warn("kernel modules of the data disk", "err", err)
	}
	options := storage.DiskOptions{StateDir: d.cfg.State, Log: d.log.With("part", "disk")}
	disk, err := storage.PrepareDisk(ctx, options)
	if err == nil && d.resetAsked() {
		disk, err = d.reset(ctx, options)
	}
	if err == nil {
		d.disk = disk
		d.board.set("data disk", domain.StatusOK, disk.Path, "")
		d.hw.maintenanceOver(ipmi.ReasonDisk)
		return nil
	}
	d.log.Error("data disk", "err", err)
	remedy := "Insert a blank disk, or wipe this one if its contents are not needed; then restart the module."
	if errors.Is(err, storage.ErrDamaged) {
		remedy = "Restart the module once. If that does not help, take a support dump; then replace the disk, or erase it: on the serial console, maintenance, factory reset, which loses its OS volumes too."
	}
	d.board.set("data disk", domain.StatusCritical, err.Error(), remedy)
	d.hw.maintenance(ipmi.ReasonDisk)
	d.cfg.Console("data disk: %v", err)
	d.cfg.Console("what to do: %s", remedy)
	return os.MkdirAll(d.cfg.State, 0o700)
}

// listen opens the port of REST: an inherited socket, the address on the
// command line, or port 443 of the management address, which it waits for. Only
// the last one moves: follow is nil else.
func (d *Daemon) listen(ctx context.Context, authority *pki.Authority) (ln net.Listener, follow func() error, err error) {
	if inherited, err := inheritedListener(); inherited != nil || err != nil {
		return inherited, nil, errors.Join(err, authority.Serve())
	}
	if d.cfg.Listen == "" {
		ip, err := d.managementAddress(ctx)
		if err != nil {
			return nil, nil, err
		}
		ln, err := d.openAt(ctx, authority, ip)
		if err != nil {
			return nil, nil, err
		}
		m := newMovable(ln)
		return m, func() error { return d.followAddress(ctx, authority, m) }, nil
	}
	ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", d.cfg.Listen)
	if err != nil {
		return nil, nil, fmt.Errorf("rest: listen on %s: %w", d.cfg.Listen, err)
	}
	at, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	ip := at.Addr()
	d.address.Store(&ip)
	return ln, nil, authority.Serve(ip)
}

// managementAddress is the frame's setting, or what DHCP lends, or loopback on
// an ordinary host.
func (d *Daemon) managementAddress(ctx context.Context) (netip.Addr, error) {
	if d.net == nil {
		return netip.MustParseAddr("127.0.0.1"), nil
	}
	return d.net.waitAddress(ctx)
}

// info is what REST tells of the appliance in the interface's own resources.
func (d *Daemon) info() rest.Info {
	i := rest.Info{Name: d.name(), Frame: d.inv.Bay.Frame, Bay: d.inv.Bay.Number, Serial: d.inv.Bay.Serial, UUID: d.inv.Bay.UUID, Version: d.cfg.Version}
	if a := d.address.Load(); a != nil {
		i.Management = a.String()
	}
	if p := d.portal(); p.IsValid() {
		i.Portal = p.String()
	}
	return i
}

// portal is the address that volumes are served at; invalid without a
// deployment network.
func (d *Daemon) portal() netip.Addr {
	depl := d.deployment()
	if portals, err := d.groupPortals(); err == nil && portals != nil && depl.Address.IsValid() {
		return portals[firstGroup]
	}
	if depl.Portal.IsValid() {
		return depl.Portal
	}
	return depl.Address.Addr()
}

// startState starts the domain state of an appliance and opens the authority of
// its domain.
func (d *Daemon) startState(ctx context.Context) (authority *pki.Authority, err error) {
	if d.mem.state.Domain == "" {
		authority, err = d.mem.startAlone(ctx)
	} else if err = d.mem.startMember(ctx); err == nil {
		authority, err = d.mem.domainAuthority(ctx)
	}
	if err == nil {
		err = d.mem.stand(ctx)
	}
	if err != nil {
		d.closeNode()
		return nil, err
	}
	d.mem.authority.Store(authority)
	d.mem.Records = member.NewRecords(d.node.Client())
	d.state = cluster.NewStore(d.node.Client())
	d.judgeVotes(ctx)
	return authority, nil
}

func (d *Daemon) closeNode() {
	if d.node == nil {
		return
	}
	if err := d.node.Close(); err != nil {
		d.log.Warn("domain state", "err", err)
	}
	d.node = nil
}

// join starts what this module has to do with others: one that belongs to a
// domain follows it, one that does not can be claimed until it is set up.
func (d *Daemon) join(ctx context.Context, g *errgroup.Group, e *cluster.Elector, users <-chan struct{}) {
	g.Go(func() error { return d.mem.keep(ctx) })
	if !d.onModule() {
		return
	}
	g.Go(func() error { return d.mem.find(ctx) })
	g.Go(func() error { return d.watchVotes(ctx) })
	g.Go(func() error { return d.mem.favour(ctx) })
	g.Go(func() error { return d.mem.bury(ctx, e) })
	g.Go(func() error {
		if err := d.mem.awaitClaim(ctx, d.mem.free, users); err != nil || ctx.Err() != nil {
			return err
		}
		return d.mem.announce(ctx)
	})
}

// beat feeds the watchdog of the service manager while the domain state
// answers: a daemon that cannot read it is of no use and better started anew.
// That others do not answer is no reason.
func (d *Daemon) beat(ctx context.Context) error {
	return feed(ctx, func(ctx context.Context) error { return d.node.Alive(ctx) }, d.log)
}

// feed feeds the watchdog while alive says nothing else.
func feed(ctx context.Context, alive func(context.Context) error, log *slog.Logger) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return err
	}
	if interval == 0 {
		<-ctx.Done()
		return nil
	}
	for {
		probe, cancel := context.WithTimeout(ctx, interval/3)
		err := alive(probe)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.Error("domain state does not answer", "err", err)
		default:
			if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
				log.Warn("feed watchdog", "err", err)
			}
		}
		if !pause(ctx, interval/3) {
			return nil
		}
	}
}

// scriptAttributes are the attributes that a plan script asks for.
func scriptAttributes(content string) ([]domain.ScriptAttribute, error) {
	var out []domain.ScriptAttribute
	for _, a := range plan.Attributes(content) {
		if a.Reserved {
			continue
		}
		out = append(out, domain.ScriptAttribute{Name: a.Name, Value: a.Default, HasDefault: a.HasDefault})
	}
	return out, nil
}
