package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/daemon/domain"
	"baystream/daemon/member"
	"baystream/daemon/rest"
)

// runWitness is the life of a module that has a vote and nothing else: it holds
// the domain state, answers other modules, and tells its health. Unclaimed, it
// has no state at all.
func (d *Daemon) runWitness(ctx context.Context, g *errgroup.Group) error {
	close(d.answering) // no REST to wait for
	d.board.set("role", domain.StatusOK, "witness: a vote, no volumes", "")
	g.Go(func() error { return d.hw.Run(ctx) })
	if !d.mem.claimed() {
		d.board.set("domain state", domain.StatusWarning, "this module belongs to no domain", "Claim it from the domain's active appliance: bayctl appliance claim "+d.mem.ID()+" --role witness.")
		g.Go(func() error { return d.mem.awaitClaim(ctx, d.mem.free, nil) })
		g.Go(func() error { return d.serveHealth(ctx, nil) })
		g.Go(func() error { return d.pulse(ctx) })
		d.ready()
		return g.Wait()
	}
	defer d.closeNode()
	if err := d.mem.startMember(ctx); err != nil {
		return d.trouble(ctx, "domain state", err)
	}
	d.mem.Records = member.NewRecords(d.node.Client())
	d.board.set("domain state", domain.StatusOK, "a vote of domain "+d.mem.state.Name, "")
	g.Go(func() error { return d.mem.keep(ctx) })
	g.Go(func() error { return d.mem.announce(ctx) })
	g.Go(func() error { return d.watchVotes(ctx) })
	g.Go(func() error { return d.serveHealth(ctx, d.mem.key.ServerTLS()) })
	d.ready()
	d.hw.started()
	d.cfg.Console("witness of domain %s", d.mem.state.Name)
	g.Go(func() error { return d.beat(ctx) })
	return g.Wait()
}

// serveHealth tells the module's health at its management address until ctx
// ends, under the certificate of config, or one of its own.
func (d *Daemon) serveHealth(ctx context.Context, config *tls.Config) error {
	if config == nil {
		own, err := d.mem.key.UnclaimedTLS()
		if err != nil {
			return err
		}
		config = own
	} else { // others than modules ask, without a certificate
		config = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: config.GetCertificate}
	}
	for ctx.Err() == nil {
		ip, err := d.managementAddress(ctx)
		if err != nil {
			return nil // ctx has ended, or the address was lost again
		}
		ln, err := listenAt(ctx, ip)
		if err != nil {
			d.log.Debug("health endpoint", "err", err)
			pause(ctx, followRetry)
			continue
		}
		d.address.Store(&ip)
		d.cfg.Console("health at https://%s", ln.Addr())
		srv := &http.Server{Handler: rest.Trouble(func() domain.Health { return report{d}.Health(ctx) }), TLSConfig: config, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
			ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug)}
		stop := context.AfterFunc(ctx, func() { srv.Close() })
		if err := srv.ServeTLS(ln, "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
			d.log.Warn("health endpoint", "err", err)
		}
		stop()
	}
	return nil
}

// pulse feeds the watchdog of a module that has no state to ask.
func (d *Daemon) pulse(ctx context.Context) error {
	return feed(ctx, func(context.Context) error { return nil }, d.log)
}

// watchVotes keeps on the board how the votes are.
func (d *Daemon) watchVotes(ctx context.Context) error {
	for {
		d.judgeVotes(ctx)
		if !pause(ctx, votesEvery) {
			return nil
		}
	}
}

const votesEvery = 10 * time.Second

func (d *Daemon) judgeVotes(ctx context.Context) {
	v, err := d.mem.Votes(ctx)
	if err != nil || ctx.Err() != nil {
		return
	}
	remedy := ""
	if v.Status != domain.StatusOK {
		remedy = "See bayctl votes for who is missing."
	}
	d.board.set("domain state", v.Status, v.Verdict, remedy)
}
