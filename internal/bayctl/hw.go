package bayctl

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/hw/redfish"
)

// inventory is what bayctl shows of the inventory document.
type inventory struct {
	hw.Inventory
	TPM struct {
		Present bool
		Version int
		Log     *struct {
			Bank, Verdict string
			Events        int
		}
		Endorsement []struct{ Key, Issuer, Serial, NotAfter string }
	} `json:"tpm"`
	Controller *struct {
		ipmi.Device
		FRU     ipmi.FRU
		Sensors []ipmi.Sensor
		Log     *ipmi.LogInfo
	}
	Watchdog     *inventoryWatchdog
	FrameManager *struct {
		URL, Since, Fault, Name string
		Connected               bool
		Frames                  []redfish.Frame
	}
	BayMap   []hw.FrameBay
	Problems []string
}

// inventoryWatchdog is what resets the module when it hangs.
type inventoryWatchdog struct {
	Kind, Identity, Device, Problem string
	TimeoutSeconds                  int
	Armed                           bool
}

func (w *inventoryWatchdog) String() string {
	switch {
	case w == nil:
		return "none: a module that hangs stays so until somebody comes"
	case !w.Armed:
		return fmt.Sprintf("%s (%s), NOT FED: %s; it resets the module within %d s", w.Kind, w.Identity, w.Problem, w.TimeoutSeconds)
	}
	return fmt.Sprintf("%s (%s), armed, resets the module when it has not been fed for %d s", w.Kind, w.Identity, w.TimeoutSeconds)
}

func (a *app) hwCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "hw", Short: "Hardware of the module and its frame, as a tree", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			var raw map[string]any
			var v inventory
			uri := "/rest/baystream/hw"
			if a.output == "json" {
				if _, err := c.do(cmd.Context(), http.MethodGet, uri, nil, &raw); err != nil {
					return err
				}
				return a.print(raw, nil)
			}
			if _, err := c.do(cmd.Context(), http.MethodGet, uri, nil, &v); err != nil {
				return err
			}
			inventoryTree(v).write(a.out)
			return nil
		}}
	cmd.AddCommand(a.hwEventsCmd(), a.hwTPMCmd())
	return cmd
}

// node is one line of a tree.
type node struct {
	text  string
	below []*node
}

func (n *node) add(format string, args ...any) *node {
	child := &node{text: strings.TrimRight(fmt.Sprintf(format, args...), " ")}
	n.below = append(n.below, child)
	return child
}

func (n *node) write(w io.Writer) {
	fmt.Fprintln(w, n.text)
	n.writeBelow(w, "")
}

func (n *node) writeBelow(w io.Writer, indent string) {
	for i, c := range n.below {
		branch, next := "├─ ", "│  "
		if i == len(n.below)-1 {
			branch, next = "└─ ", "   "
		}
		fmt.Fprintln(w, indent+branch+c.text)
		c.writeBelow(w, indent+next)
	}
}

// words joins what is not empty.
func words(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func inventoryTree(v inventory) *node {
	root := &node{text: v.Bay.String()}
	m := root.add("module: %s", words(strings.TrimSpace(v.Bay.Manufacturer+" "+v.Bay.Product), prefixed("serial ", v.Bay.Serial), prefixed("UUID ", v.Bay.UUID)))
	m.add("%d CPUs, %s memory, kernel %s", v.CPUs, size(v.MemoryBytes), v.Kernel)
	for _, k := range sortedKeys(v.Settings) {
		m.add("setting %s: %s", k, v.Settings[k])
	}
	disks := root.add("disks: %d", len(v.Disks))
	for _, d := range v.Disks {
		disks.add("%s: %s", d.Name, words(size(d.SizeBytes), d.Bus, d.Model, prefixed("serial ", d.Serial)))
	}
	ports := root.add("ports: %d", len(v.NICs))
	for _, n := range v.NICs {
		link := "down"
		if n.Carrier {
			link = "up"
		}
		if n.Carrier && n.SpeedMbps > 0 {
			link = fmt.Sprintf("up at %d Mbit/s", n.SpeedMbps)
		}
		slot := ""
		if n.Slot > 0 {
			slot = fmt.Sprintf("slot %d", n.Slot)
		}
		ports.add("%s: %s", n.Name, words(slot, n.MAC, n.Driver, link))
	}
	tpmNode(root, v)
	controllerNode(root, v)
	root.add("watchdog: %s", v.Watchdog)
	frameNode(root, v)
	if len(v.Problems) > 0 {
		p := root.add("problems")
		for _, text := range v.Problems {
			p.add("%s", text)
		}
	}
	return root
}

func tpmNode(root *node, v inventory) {
	if !v.TPM.Present {
		root.add("TPM: none")
		return
	}
	t := root.add("TPM: version %d", v.TPM.Version)
	if l := v.TPM.Log; l != nil {
		t.add("firmware's log of %d measurements (%s): %s", l.Events, l.Bank, l.Verdict)
	} else {
		t.add("the firmware left no log of measurements")
	}
	for _, c := range v.TPM.Endorsement {
		t.add("endorsement key %s: certificate %s by %s, until %s", c.Key, c.Serial, c.Issuer, c.NotAfter)
	}
	if len(v.TPM.Endorsement) == 0 {
		t.add("no certificate of an endorsement key")
	}
}

func controllerNode(root *node, v inventory) {
	c := v.Controller
	if c == nil {
		root.add("management controller: none that answers")
		return
	}
	n := root.add("management controller: firmware %s, IPMI %s", c.Firmware, c.IPMI)
	for _, area := range []struct {
		name string
		a    *ipmi.FRUArea
	}{{"chassis", c.FRU.Chassis}, {"board", c.FRU.Board}, {"product", c.FRU.Product}} {
		if area.a != nil {
			n.add("%s: %s", area.name, words(strings.TrimSpace(area.a.Manufacturer+" "+area.a.Name), prefixed("part ", area.a.Part), prefixed("version ", area.a.Version),
				prefixed("serial ", area.a.Serial), prefixed("made ", area.a.Made)))
		}
	}
	if c.Log != nil {
		n.add("event log: %d entries (bayctl hw events)", c.Log.Entries)
	}
	s := n.add("sensors: %d", len(c.Sensors))
	for _, v := range c.Sensors {
		s.add("%s", sensorLine(v))
	}
}

// sensorLine is "Inlet Temp: 24 degrees C, ok (warning from 38, critical from 42)".
func sensorLine(s ipmi.Sensor) string {
	value := ""
	if s.Reading != nil {
		value = strings.TrimSpace(fmt.Sprintf("%g %s", *s.Reading, s.Unit))
	}
	line := s.Name + ": " + words(value, string(s.State), strings.Join(s.Asserted, ", "))
	if s.Thresholds == nil {
		return line
	}
	var limits []string
	limit := func(text string, v *float64) {
		if v != nil {
			limits = append(limits, fmt.Sprintf("%s %g", text, *v))
		}
	}
	limit("warning to", s.Thresholds.LowerNonCritical)
	limit("critical to", s.Thresholds.LowerCritical)
	limit("warning from", s.Thresholds.UpperNonCritical)
	limit("critical from", s.Thresholds.UpperCritical)
	return line + " (" + strings.Join(limits, ", ") + ")"
}

func frameNode(root *node, v inventory) {
	m := v.FrameManager
	if m == nil {
		n := root.add("frame manager: none is known")
		for _, b := range v.BayMap {
			n.add("%s", b.Bay)
		}
		return
	}
	state := "connected since " + m.Since
	if !m.Connected {
		state = "not connected since " + m.Since + ": " + m.Fault
	}
	n := root.add("frame manager: %s, %s", m.URL, state)
	for _, f := range m.Frames {
		fn := n.add("frame %s: %s", f.Serial, words(f.Model, f.Health, f.Fault))
		for _, b := range f.Bays {
			if !b.Present {
				fn.add("%s: empty", b.Location)
				continue
			}
			fn.add("%s: %s", b.Location, words(strings.ToLower(prefixed("power ", string(b.Power))), b.Model, prefixed("serial ", b.Serial), b.Health, b.Fault))
		}
	}
}

func (a *app) hwEventsCmd() *cobra.Command {
	type events struct {
		Log   []ipmi.Record   `json:"log"`
		Fault string          `json:"fault,omitempty"`
		Frame []redfish.Event `json:"frame"`
	}
	return simple(a, "events", "Event log of the module's controller, and the frame manager's last events", "/rest/baystream/hw/events", func(w io.Writer, v events) {
		var lines [][]any
		for _, r := range v.Log {
			at := "unknown"
			if !r.Time.IsZero() {
				at = r.Time.UTC().Format(domain.TimeFormat)
			}
			text := r.Text
			if r.Cleared && r.Source != "baystream" {
				text += " (ended)"
			}
			lines = append(lines, []any{at, r.Source, r.Sensor, text})
		}
		for _, e := range v.Frame {
			lines = append(lines, []any{e.Time, "frame manager", cmp.Or(e.Severity, "OK"), e.Message})
		}
		if v.Fault != "" {
			fmt.Fprintln(w, "event log of the controller:", v.Fault)
		}
		if len(lines) == 0 {
			fmt.Fprintln(w, "none")
			return
		}
		rows(w, []any{"time", "from", "about", "event"}, lines)
	})
}

func (a *app) hwTPMCmd() *cobra.Command {
	type report struct {
		Present bool                `json:"present"`
		Version int                 `json:"version"`
		PCRs    map[string][]string `json:"pcrs"`
		Log     *struct {
			Bank    string `json:"bank"`
			Verdict string `json:"verdict"`
			Events  []struct {
				PCR    int    `json:"pcr"`
				Type   string `json:"type"`
				Digest string `json:"digest"`
				Text   string `json:"text,omitempty"`
			} `json:"events"`
		} `json:"log"`
	}
	return simple(a, "tpm", "The trusted platform module's registers and the firmware's log of measurements", "/rest/baystream/hw/tpm", func(w io.Writer, r report) {
		if !r.Present {
			fmt.Fprintln(w, "none")
			return
		}
		for _, bank := range sortedKeys(r.PCRs) {
			for i, v := range r.PCRs[bank] {
				if strings.Trim(v, "0") != "" && strings.Trim(v, "f") != "" {
					fmt.Fprintf(w, "%s %2d  %s\n", bank, i, v)
				}
			}
		}
		if r.Log == nil {
			return
		}
		fmt.Fprintf(w, "\nlog (%s): %s\n", r.Log.Bank, r.Log.Verdict)
		var lines [][]any
		for _, e := range r.Log.Events {
			digest := e.Digest
			if len(digest) > 16 {
				digest = digest[:16] + "..."
			}
			lines = append(lines, []any{e.PCR, e.Type, digest, e.Text})
		}
		rows(w, []any{"pcr", "type", "digest", "text"}, lines)
	})
}

// powerCmd switches a server's power through the frame manager.
func (a *app) powerCmd() *cobra.Command {
	var now bool
	cmd := &cobra.Command{Use: "power SERVER on|off|restart", Short: "Switch a server's power through the frame manager",
		Long: "Switch a server's power through the frame manager. off asks the server's operating system to shut down;\nwith --now it loses power at once. restart resets it without asking.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			want := map[string][2]string{"on": {"On", "MomentaryPress"}, "off": {"Off", "MomentaryPress"}, "restart": {"On", "Reset"}}[args[1]]
			if want[0] == "" {
				return fmt.Errorf("power %q: want on, off or restart", args[1])
			}
			if now && args[1] == "off" {
				want[1] = "PressAndHold"
			}
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			h, err := find[domain.ServerHardware](cmd.Context(), c, domain.ServerHardwares, "server", args[0])
			if err != nil {
				return err
			}
			var t domain.Task
			if _, err := c.do(cmd.Context(), http.MethodPut, h.URI+"/powerState", map[string]string{"powerState": want[0], "powerControl": want[1]}, &t); err != nil {
				return err
			}
			return a.follow(cmd.Context(), c, t)
		}}
	cmd.Flags().BoolVar(&now, "now", false, "take the power away at once")
	return cmd
}
