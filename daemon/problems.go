package daemon

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"

	"baystream/daemon/domain"
)

// problem is a part that does not do its work, as the first process takes it from
// a service (init/notify.go) and its health port shows it to anybody.
type problem struct {
	What   string `json:"what"`
	Reason string `json:"reason"`
	Remedy string `json:"remedy"`
}

// problems are the critical parts, with what anybody may read of them.
func problems(parts []domain.HealthPart) []problem {
	out := []problem{}
	for _, p := range (domain.Health{Parts: parts}).Summary().Parts {
		if p.Status == domain.StatusCritical {
			out = append(out, problem{p.Name, p.Detail, p.Remedy})
		}
	}
	return out
}

// maxProblems is what a notification has room for (maxNotify in init/notify.go).
const maxProblems = 3500

// tellProblems tells the service manager of each change of the critical parts,
// until ctx ends.
func (b *board) tellProblems(ctx context.Context, log *slog.Logger, notify func(state string) error) error {
	told := "" // a daemon before this one may have told something
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.changed:
		}
		parts, _ := b.all()
		ps := problems(parts)
		text, err := json.Marshal(ps)
		for err == nil && len(text) > maxProblems {
			ps = ps[:len(ps)-1]
			text, err = json.Marshal(ps)
		}
		if err != nil || string(text) == told {
			continue
		}
		if err := notify("X_PROBLEMS=" + string(text)); err != nil {
			log.Warn("tell the service manager", "err", err)
			continue
		}
		told = string(text)
	}
}

func notifyManager(state string) error {
	_, err := daemon.SdNotify(false, state)
	return err
}
