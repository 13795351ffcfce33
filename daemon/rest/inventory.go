package rest

import (
	"context"
	"net/http"
	"strings"

	"baystream/daemon/domain"
)

// Hardware is what an appliance in a frame offers beyond its inventory. The
// inventory document itself is the Appliance's.
type Hardware interface {
	Schema() []byte // JSON schema of the inventory document
	TPM() any       // with all measurements
	// Events are the module's event log and the last events of the frame.
	Events(ctx context.Context) (any, error)
	// PowerState is OneView's word for the power of a compute module, by its
	// UUID or serial number; false if no frame manager knows it.
	PowerState(uuid, serial string) (string, bool)
	// SwitchPower begins to switch the power of a compute module.
	SwitchPower(ctx context.Context, owner string, h domain.ServerHardware, how PowerChange) (domain.Task, error)
}

// PowerChange is what happens to a compute module's power.
type PowerChange string

// The changes that can be asked for.
const (
	SwitchOn   PowerChange = "On"
	ShutDown   PowerChange = "GracefulShutdown" // its operating system is asked
	SwitchOff  PowerChange = "ForceOff"
	PowerReset PowerChange = "ForceRestart"
)

// errNoFrame is the answer where no Hardware is there, as on an ordinary host.
func errNoFrame(r *http.Request) error {
	return domain.Errorf(domain.Unavailable, r.URL.Path, "is not known here: this appliance sits in no frame").
		Fix("Ask an appliance module; on an ordinary host there is nothing to tell.")
}

func (s *Server) hwSchema(w http.ResponseWriter, r *http.Request) error {
	if s.Hardware == nil {
		return errNoFrame(r)
	}
	w.Header().Set("Content-Type", "application/schema+json")
	_, err := w.Write(s.Hardware.Schema())
	return err
}

func (s *Server) hwTPM(w http.ResponseWriter, r *http.Request) error {
	if s.Hardware == nil {
		return errNoFrame(r)
	}
	return s.ok(w, s.Hardware.TPM())
}

func (s *Server) hwEvents(w http.ResponseWriter, r *http.Request) error {
	if s.Hardware == nil {
		return errNoFrame(r)
	}
	events, err := s.Hardware.Events(r.Context())
	if err != nil {
		return err
	}
	return s.ok(w, events)
}

// withPower adds the power state that the frame manager tells.
func (s *Server) withPower(h domain.ServerHardware) domain.ServerHardware {
	if s.Hardware != nil {
		h.PowerState, _ = s.Hardware.PowerState(strings.ToLower(h.UUID), h.SerialNumber)
	}
	return h
}

// switchPower is OneView's PUT {id}/powerState. Its clients send the state that
// they want and how to get there.
func (s *Server) switchPower(w http.ResponseWriter, r *http.Request) error {
	var sent struct {
		PowerState   string `json:"powerState"`
		PowerControl string `json:"powerControl"`
	}
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	h, err := s.Store.ServerHardware.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	how, err := powerChange(sent.PowerState, sent.PowerControl)
	if err != nil {
		return err
	}
	if s.Hardware == nil {
		return errNoFrame(r)
	}
	s.Log.Info("audit: power", "server", h.Name, "change", string(how), "by", owner(r))
	t, err := s.Hardware.SwitchPower(r.Context(), owner(r), h, how)
	return s.accepted(w, t, err)
}

// powerChange maps OneView's words: state On or Off, control MomentaryPress (the
// power button), PressAndHold (at once), Reset and ColdBoot.
func powerChange(state, control string) (PowerChange, error) {
	type wish struct{ state, control string }
	how, ok := map[wish]PowerChange{
		{"on", ""}: SwitchOn, {"on", "momentarypress"}: SwitchOn,
		{"on", "reset"}: PowerReset, {"on", "coldboot"}: PowerReset,
		{"off", ""}: ShutDown, {"off", "momentarypress"}: ShutDown, {"off", "pressandhold"}: SwitchOff,
	}[wish{strings.ToLower(state), strings.ToLower(control)}]
	if !ok {
		return "", domain.Errorf(domain.Invalid, "powerState", "%q with powerControl %q is not possible", state, control).
			Fix("Send On with MomentaryPress, Reset or ColdBoot, or Off with MomentaryPress or PressAndHold.")
	}
	return how, nil
}
