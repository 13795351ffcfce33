package daemon

import (
	"encoding/json"
	"fmt"

	"baystream/daemon/domain"
	"baystream/daemon/inventory"
	"baystream/internal/local"
)

// crashNews is how long, in seconds after the start, health tells of a crash of
// the kernel before it; the log tells for longer.
const crashNews = 24 * 3600

// initStatus is what health takes of the first process's status (package
// comment of init/).
type initStatus struct {
	Uptime   float64 `json:"uptime_sec"`
	Crashes  int     `json:"crashes"`
	Crash    string  `json:"last_crash"`
	Watchdog *struct {
		Identity string `json:"identity"`
		Device   string `json:"device"`
		Timeout  int    `json:"timeout_sec"`
		Starving string `json:"starving"`
	} `json:"watchdog"`
	Steps []struct {
		Name     string `json:"name"`
		Optional bool   `json:"optional"`
		Error    string `json:"error"`
		Remedy   string `json:"remedy"`
	} `json:"steps"`
	Services []struct {
		Name   string `json:"name"`
		State  string `json:"state"`
		Reason string `json:"reason"`
		Remedy string `json:"remedy"`
	} `json:"services"`
}

// askFirstProcess asks the first process how the module is; there is false where it
// is not ours and nobody answers.
func askFirstProcess() (s initStatus, there bool, err error) {
	b, err := local.AskInit(local.Control, "status")
	if err != nil {
		return s, false, nil
	}
	return s, true, json.Unmarshal(b, &s)
}

// initHealth is what the first process says, as parts of the health board.
func initHealth() []domain.HealthPart {
	s, there, err := askFirstProcess()
	switch {
	case !there:
		return nil
	case err != nil:
		return []domain.HealthPart{{Name: "first process", Status: domain.StatusWarning, Detail: err.Error()}}
	}
	return s.parts()
}

// machineWatchdog is the machine's watchdog for the inventory.
func machineWatchdog() *inventory.Watchdog {
	s, _, err := askFirstProcess()
	if err != nil {
		return nil
	}
	return s.watchdog()
}

func (s initStatus) watchdog() *inventory.Watchdog {
	w := s.Watchdog
	if w == nil {
		return nil
	}
	return &inventory.Watchdog{
		Kind: inventory.WatchdogKind(w.Identity), Identity: w.Identity, Device: w.Device,
		TimeoutSeconds: w.Timeout, Armed: w.Starving == "", Problem: w.Starving,
	}
}

func (s initStatus) parts() []domain.HealthPart {
	var out []domain.HealthPart
	add := func(name, status, detail, remedy string) {
		out = append(out, domain.HealthPart{Name: name, Status: status, Detail: detail, Remedy: remedy})
	}
	switch w := s.Watchdog; {
	case w == nil:
		add("watchdog", domain.StatusWarning, "none", "A module that hangs stays so until somebody resets it; its controller or chip set has a watchdog as a rule.")
	case w.Starving != "":
		add("watchdog", domain.StatusCritical, w.Identity+" is not fed: "+w.Starving, "The module is reset soon; take a support dump.")
	default:
		add("watchdog", domain.StatusOK, fmt.Sprintf("%s, %d s", w.Identity, w.Timeout), "")
	}
	if s.Crashes > 0 && s.Uptime < crashNews {
		add("kernel", domain.StatusWarning, fmt.Sprintf("crashed before this start (%d in a row): %s", s.Crashes, s.Crash), "Its text is in bayctl logs and in the support dump.")
	}
	for _, st := range s.Steps {
		if st.Error != "" && !st.Optional {
			add("boot step "+st.Name, domain.StatusCritical, st.Error, st.Remedy)
		}
	}
	for _, v := range s.Services {
		if v.State == "maintenance" {
			add("service "+v.Name, domain.StatusWarning, v.Reason, v.Remedy)
		}
	}
	return out
}
