package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// StateFile is the name of the file in Config.Dir that describes a frame to
// other programs, as JSON of State.
const StateFile = "frame.json"

// lockFile is locked (flock(2)) by the process that holds the frame.
const lockFile = "lock"

// UserName is the administrator that Setup makes.
const UserName = "Administrator"

// State is what other programs need to use a running frame.
type State struct {
	PID int `json:"pid"` // of the process that holds the frame; 0: it is down
	Access
	Manager       ManagerState `json:"manager"` // of the first frame
	Pair          *PairState   `json:"pair,omitempty"`
	Frames        []FrameState `json:"frames"`
	Bays          []BayState   `json:"bays"`
	Networks      []NetState   `json:"networks"`
	ControlSocket string       `json:"control_socket,omitempty"`
}

// PairState is what the modules of three frames have in common once they form
// a domain. CA, user and password are the first appliance's.
type PairState struct {
	Service string   `json:"service_url"` // management, whoever is active, on this machine
	Address string   `json:"service_address"`
	Portals []string `json:"portals"` // of the storage groups, on the deployment network
	Formed  bool     `json:"formed"`  // by FormDomain
}

// Access is how to reach an appliance. Its certificate is for "baystream".
type Access struct {
	RESTURL      string `json:"rest_url"`
	CAFile       string `json:"ca_file"`
	User         string `json:"user"`
	PasswordFile string `json:"password_file"`
	Ready        bool   `json:"ready"` // the administrator exists, the files too
}

// FrameState describes one frame.
type FrameState struct {
	Number int    `json:"number"`
	Serial string `json:"serial"`
	Access
	Manager ManagerState `json:"manager"`
}

// ManagerState is how to reach a frame's manager (Redfish) from outside. Its
// certificate, in PEM, vouches for itself.
type ManagerState struct {
	URL          string `json:"url"`
	CertFile     string `json:"cert"`
	User         string `json:"user"`
	PasswordFile string `json:"password_file"`
}

// BayState describes one bay and its module.
type BayState struct {
	Bay            string   `json:"bay"`
	Kind           Kind     `json:"kind"`
	Frame          string   `json:"frame"`
	Role           string   `json:"role"` // appliance, witness, compute
	Location       string   `json:"location"`
	Address        string   `json:"address,omitempty"`    // of an appliance or witness, management
	Deployment     string   `json:"deployment,omitempty"` // of an appliance
	DataDisk       string   `json:"data_disk,omitempty"`  // file
	Serial         string   `json:"serial"`
	UUID           string   `json:"uuid"`
	MACs           []string `json:"macs"`
	ConsoleLog     string   `json:"console_log"`
	ConsoleSocket  string   `json:"console_socket"`
	OperatorLog    string   `json:"operator_log"`    // of the second serial line
	OperatorSocket string   `json:"operator_socket"` // the second serial line: an appliance's console
	QMPSocket      string   `json:"qmp_socket"`
	Power          string   `json:"power"` // on, off
}

// NetState describes one network.
type NetState struct {
	Name  string               `json:"name"`
	Ports map[string]PortStats `json:"ports"`
}

func (f *Frame) file(name string) string {
	if f.Number > 1 {
		name = fmt.Sprintf("frame%d-%s", f.Number, name)
	}
	return filepath.Join(f.rig.cfg.Dir, name)
}

func (f *Frame) passwordFile() string { return f.file("password") }
func (f *Frame) caFile() string       { return f.file("ca.pem") }

// ControlSocket is where the process that holds a frame may take commands.
func (f *Frame) ControlSocket() string { return filepath.Join(f.rig.runDir, "control") }

// Access returns how to reach the frame's appliance.
func (f *Frame) Access() Access {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Access{RESTURL: f.restURL, CAFile: f.caFile(), User: UserName, PasswordFile: f.passwordFile(), Ready: f.client != nil}
}

// State returns the present state of the linked frames.
func (f *Frame) State() State {
	r := f.rig
	s := State{PID: os.Getpid(), Access: r.frames[0].Access(), Manager: r.frames[0].ManagerAccess(), ControlSocket: f.ControlSocket()}
	s.Pair = r.pairState()
	if s.Pair != nil && s.Pair.Formed {
		s.RESTURL = s.Pair.Service // whoever is active
	}
	for _, g := range r.frames {
		s.Frames = append(s.Frames, FrameState{g.Number, g.Serial, g.Access(), g.ManagerAccess()})
		for _, b := range g.Bays {
			power := "off"
			if b.On() {
				power = "on"
			}
			s.Bays = append(s.Bays, BayState{
				Bay: b.Name(), Kind: b.Kind, Role: b.Role(), Frame: b.Frame, Location: b.Identity.Location,
				Address: b.address, Deployment: b.deployment, DataDisk: b.dataDisk(),
				Serial: b.Identity.Serial, UUID: b.Identity.UUID, MACs: b.MACs,
				ConsoleLog: b.ConsoleLog(), ConsoleSocket: b.ConsoleSocket(),
				OperatorLog: b.logFile(1), OperatorSocket: b.OperatorSocket(), QMPSocket: b.QMPSocket(), Power: power,
			})
		}
	}
	for _, n := range r.networks {
		s.Networks = append(s.Networks, n.state())
	}
	return s
}

func (s *Switch) state() NetState {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := NetState{Name: s.name, Ports: map[string]PortStats{}}
	for name, p := range s.ports {
		n.Ports[name] = p.stats
	}
	return n
}

// WriteState writes the state file, whole or not at all. A frame does so by
// itself at each change of power and after Setup.
func (f *Frame) WriteState() error {
	f.rig.writing.Lock()
	defer f.rig.writing.Unlock()
	s := f.State()
	if _, err := os.Stat(f.rig.runDir); err != nil { // closed
		s.PID, s.ControlSocket = 0, ""
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("frame state: %w", err)
	}
	path := filepath.Join(f.rig.cfg.Dir, StateFile)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("frame state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("frame state: %w", err)
	}
	return nil
}

// ErrNoFrame means that a directory has no frame.
var ErrNoFrame = errors.New("no frame here; start one with: vframe up -detach")

// ReadState reads the state file of a directory.
func ReadState(dir string) (State, error) {
	b, err := os.ReadFile(filepath.Join(dir, StateFile))
	if errors.Is(err, os.ErrNotExist) {
		return State{}, fmt.Errorf("%s: %w", dir, ErrNoFrame)
	}
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("%s: %w", filepath.Join(dir, StateFile), err)
	}
	return s, nil
}

// Held tells whether a process holds a frame in a directory: the truth, where
// the state file may be of one that was killed.
func Held(dir string) bool {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
