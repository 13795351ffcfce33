package bayctl

import (
	"encoding/json"
	"errors"
	"fmt"

	"baystream/internal/local"
)

// initReply is an answer of the first process on its control socket (package
// comment of init/).
type initReply struct {
	OK       bool          `json:"ok"`
	Error    string        `json:"error"`
	Uptime   float64       `json:"uptime_sec"`
	Steps    []initStep    `json:"steps"`
	Services []initService `json:"services"`
	Lines    []string      `json:"lines"`
	Watchdog *initWatchdog `json:"watchdog"`
	Crashes  int           `json:"crashes"` // of the kernel in a row, before this start
	Crash    string        `json:"last_crash"`
}

// initWatchdog is the machine's watchdog.
type initWatchdog struct {
	Identity string  `json:"identity"`
	Timeout  int     `json:"timeout_sec"`
	Fed      float64 `json:"fed_sec"`
	Starving string  `json:"starving"`
}

func (w *initWatchdog) String() string {
	switch {
	case w == nil:
		return "none: a module that hangs stays so until somebody comes"
	case w.Starving != "":
		return fmt.Sprintf("%s IS NOT FED: %s", w.Identity, w.Starving)
	}
	return fmt.Sprintf("%s resets the module after %d s, fed %.0f s ago", w.Identity, w.Timeout, w.Fed)
}

type initStep struct {
	Name     string  `json:"name"`
	Optional bool    `json:"optional"`
	Seconds  float64 `json:"seconds"`
	Error    string  `json:"error"`
	Remedy   string  `json:"remedy"`
}

type initService struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	PID      int       `json:"pid"`
	Restarts int       `json:"restarts"`
	Error    string    `json:"last_exit"`
	Reason   string    `json:"reason"` // why it is in maintenance
	Remedy   string    `json:"remedy"`
	Lines    []string  `json:"lines"` // its last words, in maintenance
	Usage    initUsage `json:"usage"`
}

// initMaintenance is the state of a service that was given up or is held back.
const initMaintenance = "maintenance"

// initUsage is what a service takes of its limits.
type initUsage struct {
	Memory      int64 `json:"memory"`
	MemoryMax   int64 `json:"memory_max"`
	OOMKills    int   `json:"oom_kills"`
	Pids        int   `json:"pids"`
	PidsMax     int   `json:"pids_max"`
	PidsRefused int   `json:"pids_refused"`
}

func (u initUsage) String() string {
	of := func(max string, limited bool) string {
		if limited {
			return " of " + max
		}
		return ""
	}
	out := fmt.Sprintf("memory %s%s, %d%s threads", size(u.Memory), of(size(u.MemoryMax), u.MemoryMax > 0), u.Pids, of(fmt.Sprint(u.PidsMax), u.PidsMax > 0))
	if u.OOMKills > 0 {
		out += fmt.Sprintf(", out of memory %d times", u.OOMKills)
	}
	if u.PidsRefused > 0 {
		out += fmt.Sprintf(", %d threads refused", u.PidsRefused)
	}
	return out
}

// askInit sends one command to the first process.
func askInit(socket, command string) (initReply, error) {
	var r initReply
	line, err := local.AskInit(socket, command)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, err
	}
	if !r.OK {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// askInitJSON is the first process's status as it is.
func askInitJSON(socket string) ([]byte, error) { return local.AskInit(socket, "status") }

func jsonOf(v any) ([]byte, error) { return json.MarshalIndent(v, "", "  ") }
