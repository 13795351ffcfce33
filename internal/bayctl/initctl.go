package bayctl

import (
	"encoding/json"
	"errors"

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
}

type initStep struct {
	Name     string  `json:"name"`
	Optional bool    `json:"optional"`
	Seconds  float64 `json:"seconds"`
	Error    string  `json:"error"`
}

type initService struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	PID      int    `json:"pid"`
	Restarts int    `json:"restarts"`
	Error    string `json:"last_exit"`
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
