package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/journal"
	"baystream/daemon/rest"
	"baystream/internal/local"
)

// openJournal keeps the module's log on the local partition, if there is one.
func (d *Daemon) openJournal() {
	cfg := journal.Config{Ring: local.Ring, Log: d.log.With("part", "journal")}
	if d.disk.Path != "" {
		cfg.Dir = filepath.Join(d.cfg.State, "log", "system")
	}
	d.journal = journal.New(cfg)
}

// syslogSettings are the domain's: all its appliances send to the same place.
func (d *Daemon) syslogSettings() *cluster.Value[journal.Settings] {
	return cluster.NewValue[journal.Settings](d.state.Client, "settings/syslog")
}

// forward sends the log as the settings say, anew when they change.
func (d *Daemon) forward(ctx context.Context) error {
	f := &journal.Forwarder{Host: d.name(), Log: d.log.With("part", "syslog")}
	for ctx.Err() == nil {
		set, _, err := d.syslogSettings().Get(ctx)
		if err != nil && ctx.Err() == nil {
			d.log.Warn("syslog settings", "err", err)
		}
		session, end := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if set.Server != "" {
				_ = f.Run(session, d.journal, set) // returns nil at its end
			}
		}()
		select {
		case <-ctx.Done():
		case <-d.syslogChanged:
		}
		end()
		<-done
	}
	return nil
}

// Syslog implements rest.Appliance.
func (r report) Syslog(ctx context.Context) (journal.Settings, error) {
	set, _, err := r.d.syslogSettings().Get(ctx)
	return set, err
}

// SetSyslog implements rest.Appliance.
func (r report) SetSyslog(ctx context.Context, set journal.Settings) error {
	if err := r.d.syslogSettings().Put(ctx, set); err != nil {
		return err
	}
	wake(r.d.syslogChanged)
	return nil
}

// Logs implements rest.Appliance.
func (r report) Logs(ctx context.Context, q rest.LogQuery) (io.ReadCloser, error) {
	if _, err := os.Stat(local.Ring); err != nil {
		return nil, domain.Errorf(domain.NotFound, "log", "is not kept by this host's PID 1").Fix("Read it with journalctl -u baystreamd.")
	}
	if q.Follow {
		pr, pw := io.Pipe()
		go func() {
			pw.CloseWithError(r.d.journal.Follow(ctx, q.Lines, func(e journal.Entry) error { return writeEntry(pw, e, q.JSON) }))
		}()
		return pr, nil
	}
	last, err := r.d.journal.Last(q.Lines)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, e := range last {
		if err := writeEntry(&b, e, q.JSON); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(&b), nil
}

func writeEntry(w io.Writer, e journal.Entry, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(e)
	}
	_, err := io.WriteString(w, e.String()+"\n")
	return err
}
