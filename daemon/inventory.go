package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/prometheus/client_golang/prometheus"

	"baystream/daemon/domain"
	"baystream/daemon/inventory"
	"baystream/daemon/rest"
	"baystream/daemon/task"
	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/hw/kmsg"
	"baystream/hw/redfish"
)

// controllerModules are the drivers of a management controller, its device for
// programs included. PID 1 loads the first where it finds one.
var controllerModules = []string{"ipmi_si", "ipmi_devintf"}

// hardware fits the inventory to the other parts (rest.Hardware).
type hardware struct {
	*inventory.Keeper
	d     *Daemon
	tasks *task.Engine
}

func newHardware(d *Daemon) *hardware {
	h := &hardware{d: d}
	open := d.openController
	var messages func(context.Context, func(string)) error
	if d.onModule() {
		messages = func(ctx context.Context, each func(string)) error { return kmsg.Follow(ctx, d.cfg.Root, each) }
	} else { // an ordinary host's event log is not ours to write
		open = func() (*ipmi.Client, error) { return nil, fs.ErrNotExist }
	}
	h.Keeper = inventory.New(inventory.Config{
		Open: open, Messages: messages,
		Root: d.cfg.Root, Log: d.log.With("part", "hardware"), Watchdog: machineWatchdog,
		Health: func(part string, s inventory.Status, detail, remedy string) {
			d.board.set(part, string(s), detail, remedy)
		},
		Frame: func(doc hw.FrameDocument) {
			if d.net != nil {
				d.net.SetFrameLink(doc.Address)
			}
		},
		Plugged: func(inv hw.Inventory) {
			if d.net != nil {
				d.net.Plugged(inv)
			}
		},
	}, d.inv)
	return h
}

// openController opens the module's controller, when its driver has found it.
func (d *Daemon) openController() (*ipmi.Client, error) {
	if err := loadModules(controllerModules); err != nil {
		d.log.Debug("kernel modules of the management controller", "err", err) // a kernel for virtual machines has none
	}
	return ipmi.Open(filepath.Join(d.cfg.Root, "dev/ipmi0"))
}

// inPlace runs a role when it is sure where the module sits. When the sources of
// that disagree, the module is in maintenance: the role does not run, so that no
// server gets another module's volumes.
func (h *hardware) inPlace(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := h.Placed(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			h.d.cfg.Console("maintenance: %v", err)
			<-ctx.Done()
			return nil
		}
		h.maintenanceOver(ipmi.ReasonBay)
		return run(ctx)
	}
}

// started writes to the controller's log that the appliance answers, and whether
// it is another version than last time.
func (h *hardware) started() {
	file := filepath.Join(h.d.cfg.State, "version")
	last, err := os.ReadFile(file)
	if err == nil && len(last) > 0 && string(last) != h.d.cfg.Version {
		h.Note(ipmi.Event{Kind: ipmi.Updated})
	}
	if string(last) != h.d.cfg.Version {
		if err := renameio.WriteFile(file, []byte(h.d.cfg.Version), 0o600); err != nil { // whole, also after a reset
			h.d.log.Warn("version of the last start", "err", err)
		}
	}
	h.Note(ipmi.Event{Kind: ipmi.Started})
	h.maintenanceOver(ipmi.ReasonCrashLoop)
}

// maintenance writes to the controller's log that the module stopped its roles,
// for one of ipmi's reasons.
func (h *hardware) maintenance(reason byte) { h.Note(ipmi.Event{Kind: ipmi.Maintenance, Code: reason}) }

// maintenanceOver writes that a reason is gone, if the log tells of it.
func (h *hardware) maintenanceOver(reason byte) {
	h.Note(ipmi.Event{Kind: ipmi.MaintenanceEnded, Code: reason})
}

// driverLimit is how long the controller's driver may take to find it.
const driverLimit = 40 * time.Second

// awaitController opens the controller where no daemon ever did: its drivers may
// be missing, or still be searching.
func awaitController(ctx context.Context, root string) (*ipmi.Client, error) {
	err := loadModules(controllerModules)
	for end := time.Now().Add(driverLimit); ; {
		c, openErr := ipmi.Open(filepath.Join(root, "dev/ipmi0"))
		if openErr == nil {
			return c, nil
		}
		if !ipmi.Searching(root) || time.Now().After(end) || !pause(ctx, 100*time.Millisecond) {
			return nil, errors.Join(openErr, err)
		}
	}
}

// NoteMaintenance writes to the event log of this module's controller that it is in
// maintenance, for whoever has to do so without a daemon: "asked", "bay", "crash-loop"
// or "disk". Root is where /dev is.
func NoteMaintenance(ctx context.Context, root, reason string) error {
	code, ok := map[string]byte{"asked": ipmi.ReasonOperator, "bay": ipmi.ReasonBay, "crash-loop": ipmi.ReasonCrashLoop, "disk": ipmi.ReasonDisk}[reason]
	if !ok {
		return fmt.Errorf("reason %q: want asked, bay, crash-loop or disk", reason)
	}
	c, err := awaitController(ctx, root)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(ctx, ipmi.Event{Kind: ipmi.Maintenance, Code: code})
	return err
}

// metrics are those of the inventory, of this program and of the domain state.
func (h *hardware) metrics() prometheus.Gatherer {
	own := prometheus.NewRegistry()
	own.MustRegister(h.Metrics())
	return prometheus.Gatherers{own, prometheus.DefaultGatherer}
}

// Schema implements rest.Hardware.
func (h *hardware) Schema() []byte { return inventory.Schema }

// TPM implements rest.Hardware.
func (h *hardware) TPM() any { return h.Keeper.TPM() }

// hardwareEvents is what happened to the module and its frame.
type hardwareEvents struct {
	Log   []ipmi.Record   `json:"log"` // of the module's controller, oldest first
	Fault string          `json:"fault,omitempty"`
	Frame []redfish.Event `json:"frame"` // the last ones that the frame manager told
}

// Events implements rest.Hardware.
func (h *hardware) Events(ctx context.Context) (any, error) {
	e := hardwareEvents{Log: []ipmi.Record{}, Frame: []redfish.Event{}}
	log, err := h.Log(ctx)
	if log != nil {
		e.Log = log
	}
	if err != nil {
		e.Fault = err.Error()
	}
	if m := h.Document().FrameManager; m != nil {
		e.Frame = m.Events
	}
	return e, nil
}

// PowerState implements rest.Hardware.
func (h *hardware) PowerState(uuid, serial string) (string, bool) {
	p, err := h.Power(uuid, serial)
	return string(p), err == nil
}

const (
	powerKind = "server.power"
	powerHow  = "how"
	powerSent = "sent"
)

// register adds the work of switching power to an engine.
func (h *hardware) register(e *task.Engine) {
	h.tasks = e
	e.Register(task.Kind{Name: powerKind, Steps: []task.Step{{Name: "Switch power", Do: h.switchPower}}})
}

// SwitchPower implements rest.Hardware.
func (h *hardware) SwitchPower(ctx context.Context, owner string, s domain.ServerHardware, how rest.PowerChange) (domain.Task, error) {
	if _, err := h.Power(strings.ToLower(s.UUID), s.SerialNumber); err != nil {
		return domain.Task{}, explainPower(s.Name, err)
	}
	return h.tasks.Submit(ctx, task.Request{
		Kind: powerKind, Name: "Power " + string(how), Owner: owner, Lock: "power " + s.UUID,
		Associated: domain.AssociatedResource{ResourceCategory: "server-hardware", ResourceName: s.Name, ResourceURI: s.URI},
		Data:       map[string]string{"uuid": strings.ToLower(s.UUID), "serial": s.SerialNumber, "name": s.Name, powerHow: string(how)},
	})
}

// switchPower is the task's only step. A restart is not repeated when the daemon
// died over it: whether it happened is not known, and twice is worse than never.
func (h *hardware) switchPower(ctx context.Context, r *task.Run) error {
	how := redfish.ResetType(r.Data(powerHow))
	if how == redfish.ForceRestart {
		if r.Data(powerSent) != "" {
			r.Logf("the restart was asked for before; it is not repeated")
			return nil
		}
		if err := r.Set(ctx, powerSent, "yes"); err != nil {
			return err
		}
	}
	return explainPower(r.Data("name"), h.Reset(ctx, r.Data("uuid"), r.Data("serial"), how))
}

// explainPower says what to do about a power state that cannot be changed.
func explainPower(name string, err error) error {
	var refused *redfish.Error
	object := "server hardware " + name
	switch {
	case err == nil:
		return nil
	case errors.Is(err, inventory.ErrNoManager):
		return domain.Errorf(domain.Unavailable, object, "cannot be switched: %v", err).Fix("See bayctl status for the frame manager.")
	case errors.Is(err, inventory.ErrNoBay):
		return domain.Errorf(domain.NotFound, object, "cannot be switched: %v", err).Fix("Compare its UUID and serial number with bayctl hw.")
	case errors.As(err, &refused):
		return domain.Errorf(domain.Conflict, object, "was not switched: %s", refused.Message).Fix("See bayctl hw for the power of the bays.")
	}
	return domain.Errorf(domain.Unavailable, object, "was not switched: %v", err).Fix("See bayctl status for the frame manager, then try again.")
}
