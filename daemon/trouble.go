package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"baystream/daemon/domain"
	"baystream/daemon/pki"
	"baystream/daemon/rest"
)

// troubleTime is how long a daemon that cannot do its work says so before it
// ends; PID 1 then starts it again.
const troubleTime = time.Minute

// trouble answers for a module whose daemon cannot come up: health says which
// part failed and what to do, everything else is refused. It returns cause.
func (d *Daemon) trouble(ctx context.Context, part string, cause error) error {
	d.board.set(part, domain.StatusCritical, cause.Error(), "The daemon tries again by itself; the serial console has the log and a support dump.")
	d.log.Error("not able to serve", "part", part, "err", cause)
	d.cfg.Console("%s: %v", part, cause)
	if !d.onModule() || ctx.Err() != nil {
		return cause
	}
	ctx, cancel := context.WithTimeout(ctx, troubleTime)
	defer cancel()
	// The domain's authority may be what is in trouble: this certificate is for now.
	dir, err := os.MkdirTemp("", "trouble")
	if err != nil {
		return errors.Join(cause, err)
	}
	defer os.RemoveAll(dir)
	authority, err := pki.Open(dir, d.name())
	if err != nil {
		return errors.Join(cause, err)
	}
	ln, _, err := d.listen(ctx, authority)
	if err != nil {
		if ctx.Err() == nil {
			return errors.Join(cause, err)
		}
		return cause
	}
	serveTrouble(ctx, ln, authority, d.log, func() domain.Health { return report{d}.Health(ctx) })
	return cause
}

func serveTrouble(ctx context.Context, ln net.Listener, authority *pki.Authority, log *slog.Logger, health func() domain.Health) {
	srv := &http.Server{Handler: rest.Trouble(health), TLSConfig: authority.TLS(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.ServeTLS(ln, "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
		log.Warn("health endpoint", "err", err)
	}
}
