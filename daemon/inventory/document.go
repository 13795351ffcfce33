package inventory

import (
	_ "embed"
	"slices"
	"time"

	"baystream/daemon/domain"
	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/hw/redfish"
	"baystream/hw/tpm"
)

// Schema is the JSON schema of a Document (draft 2020-12).
//
//go:embed schema.json
var Schema []byte

// Document is everything known about the module and its frame. A member that
// is null or missing is not there, or not known yet; what could not be read is
// named under problems.
type Document struct {
	Type string `json:"type"` // "InventoryV1"
	URI  string `json:"uri"`
	// Revision counts what was plugged or unplugged since the daemon started.
	Revision int    `json:"revision"`
	Updated  string `json:"updated"` // when something in the document last changed by that

	hw.Inventory
	TPM TPM `json:"tpm"`

	Controller   *Controller   `json:"controller"`
	Watchdog     *Watchdog     `json:"watchdog"`
	FrameManager *FrameManager `json:"frameManager"`
	BayMap       []hw.FrameBay `json:"bayMap"`
	Problems     []string      `json:"problems"`
}

// TPM is a trusted platform module without its long list of measurements.
type TPM struct {
	Present     bool                `json:"present"`
	Version     int                 `json:"version"`
	PCRs        map[string][]string `json:"pcrs,omitempty"`
	Log         *TPMLog             `json:"log,omitempty"`
	Endorsement []tpm.Certificate   `json:"endorsement,omitempty"`
}

// TPMLog says whether the firmware's log explains the registers.
type TPMLog struct {
	Bank    string `json:"bank"`
	Verdict string `json:"verdict"`
	Events  int    `json:"events"`
}

// Controller is the module's management controller.
type Controller struct {
	ipmi.Device
	Chassis *ipmi.Chassis `json:"chassis,omitempty"`
	FRU     ipmi.FRU      `json:"fru"`
	Sensors []ipmi.Sensor `json:"sensors"`
	Log     *ipmi.LogInfo `json:"log,omitempty"`
	Read    string        `json:"read"` // when the sensors were read
}

// Watchdog is what resets the module when it hangs, as the first process, which
// feeds it, tells.
type Watchdog struct {
	Kind           string `json:"kind"`     // controller, chip set, or kernel
	Identity       string `json:"identity"` // as its driver calls it
	Device         string `json:"device"`
	TimeoutSeconds int    `json:"timeoutSeconds"`
	Armed          bool   `json:"armed"`             // it runs, and is being fed
	Problem        string `json:"problem,omitempty"` // why it is not fed any more
}

// WatchdogKind tells what a watchdog sits in, by what its driver calls it.
func WatchdogKind(identity string) string {
	switch identity {
	case "IPMI": // drivers/char/ipmi/ipmi_watchdog.c
		return "controller"
	case "Software Watchdog": // drivers/watchdog/softdog.c
		return "kernel"
	}
	return "chip set"
}

// FrameManager is the frame's manager as this module sees it.
type FrameManager struct {
	URL               string          `json:"url"`
	CertificateSHA256 string          `json:"certificateSha256"`
	Connected         bool            `json:"connected"` // events are being followed
	Since             string          `json:"since"`     // of that state
	Fault             string          `json:"fault,omitempty"`
	Name              string          `json:"name,omitempty"`
	Product           string          `json:"product,omitempty"`
	Frames            []redfish.Frame `json:"frames"`
	// Events are the last ones that the manager told, oldest first.
	Events []redfish.Event `json:"events"`
}

const uri = "/rest/baystream/hw"

// Document returns the inventory as it is known now.
func (k *Keeper) Document() Document {
	watchdog := k.cfg.Watchdog()
	k.mu.Lock()
	defer k.mu.Unlock()
	d := Document{
		Type: "InventoryV1", URI: uri, Revision: k.revision, Updated: stamp(k.changed), Inventory: k.inv,
		TPM: summary(k.tpm), Watchdog: watchdog, BayMap: slices.Clone(k.document.Bays), Problems: k.problems(),
	}
	if d.BayMap == nil {
		d.BayMap = []hw.FrameBay{}
	}
	if k.controller != nil {
		c := *k.controller
		d.Controller = &c
	}
	if k.manager != nil {
		m := *k.manager
		m.Frames, m.Events = slices.Clone(m.Frames), slices.Clone(m.Events)
		for i, f := range m.Frames {
			m.Frames[i].Bays = slices.Clone(f.Bays)
		}
		d.FrameManager = &m
	}
	return d
}

// TPM returns the trusted platform module with all its measurements.
func (k *Keeper) TPM() tpm.Report {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tpm
}

func summary(r tpm.Report) TPM {
	t := TPM{Present: r.Present, Version: r.Version, PCRs: r.PCRs, Endorsement: r.Endorsement}
	if r.Log != nil {
		t.Log = &TPMLog{Bank: r.Log.Bank, Verdict: r.Log.Verdict, Events: len(r.Log.Events)}
	}
	return t
}

// problems are the faults of all sources, under k.mu.
func (k *Keeper) problems() []string {
	out := []string{}
	for _, source := range []string{"hardware", "controller", "frame document", "bay", "tpm"} {
		if err := k.faults[source]; err != nil {
			out = append(out, err.Error())
		}
	}
	if text := k.failingText(); text != "" {
		out = append(out, text)
	}
	return out
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return domain.Stamp(t)
}
