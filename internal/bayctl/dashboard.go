package bayctl

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"baystream/daemon/domain"
	"baystream/hw"
)

// facts are what the dashboard shows. Those of the daemon are missing while it
// does not answer; the others come from the first process and the kernel.
type facts struct {
	Now      time.Time
	Version  string
	User     string
	Daemon   error // why the daemon does not answer, nil if it does
	Bay      hw.Bay
	Kernel   string
	Health   domain.Health
	Services []initService
	Steps    []initStep // that failed
	Watchdog *initWatchdog
	Crash    string // of the kernel, before this start
	Uptime   time.Duration
	Links    []domain.NetLink
	Disks    []hw.Disk
	Storage  *domain.StorageReport
	Log      []string
}

// gather asks everybody who may know; it takes a few seconds at the most.
func (c *console) gather(ctx context.Context) facts {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	f := facts{Now: c.now(), User: c.user, Bay: c.hardware.Bay, Kernel: c.hardware.Kernel, Disks: c.hardware.Disks}
	if r, err := askInit(c.paths.control, "status"); err == nil {
		f.Services, f.Uptime, f.Watchdog = r.Services, time.Duration(r.Uptime*float64(time.Second)), r.Watchdog
		if r.Crashes > 0 {
			f.Crash = fmt.Sprintf("the kernel crashed before this start (%d in a row): %s; logs and the support dump have its text", r.Crashes, r.Crash)
		}
		for _, s := range r.Steps {
			if s.Error != "" {
				f.Steps = append(f.Steps, s)
			}
		}
	}
	if r, err := askInit(c.paths.control, "log 200"); err == nil {
		f.Log = r.Lines
	}
	if c.client == nil {
		f.Daemon = errDaemon
		f.Links = kernelLinks()
		return f
	}
	read := func(uri string, v any) error {
		_, err := c.client.do(ctx, http.MethodGet, uri, nil, v)
		return err
	}
	if f.Daemon = read("/rest/baystream/health", &f.Health); f.Daemon != nil {
		f.Links = kernelLinks()
		return f
	}
	var n domain.NetReport
	if read("/rest/baystream/net", &n) == nil {
		f.Links = n.Links
	} else {
		f.Links = kernelLinks()
	}
	var s domain.StorageReport
	if read("/rest/baystream/storage", &s) == nil {
		f.Storage = &s
	}
	return f
}

// kernelLinks are the links without what only the daemon knows of them.
func kernelLinks() []domain.NetLink {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []domain.NetLink
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		l := domain.NetLink{Name: i.Name, MAC: i.HardwareAddr.String(), MTU: i.MTU, Up: i.Flags&net.FlagUp != 0, Carrier: i.Flags&net.FlagRunning != 0}
		if addrs, err := i.Addrs(); err == nil {
			for _, a := range addrs {
				l.Addresses = append(l.Addresses, a.String())
			}
		}
		out = append(out, l)
	}
	return out
}

// render draws the dashboard: height lines at most, the log in what is left
// over, none longer than width.
func render(f facts, width, height int) []string {
	var out []string
	add := func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); strings.TrimSpace(line) != "" {
			out = append(out, line)
		}
	}
	name := f.Health.Appliance.Name
	if name == "" {
		name = fmt.Sprintf("%s, appliance %d", f.Bay.Frame, f.Bay.Number)
	}
	title := "Baystream  " + name
	clock := f.Now.UTC().Format("2006-01-02 15:04:05") + " UTC"
	add("%s%s%s", title, strings.Repeat(" ", max(2, width-utf8.RuneCountInString(title)-len(clock))), clock)
	role := f.Health.Appliance.Role
	if role == "" {
		role = "not known without the daemon"
	}
	add("identity  %s, serial %s, kernel %s", f.Bay.Location, f.Bay.Serial, f.Kernel)
	add("role      %s; version %s; up %s; you are %s", role, or(f.Health.Appliance.Version, "?"), f.Uptime.Round(time.Second), f.User)
	switch {
	case f.Daemon != nil:
		add("STATUS    the daemon does not answer; what follows is from the first process and the kernel")
	default:
		add("status    %s", f.Health.Status)
	}
	for _, s := range f.Services {
		if s.State != "running" {
			add("service   %-12s %s, %d restarts  %s", s.Name, s.State, s.Restarts, or(s.Reason, s.Error))
			for _, l := range s.Lines {
				add("          | %s", l)
			}
			if s.Remedy != "" {
				add("%9s what to do: %s", "", s.Remedy)
			}
		}
	}
	for _, s := range f.Steps {
		add("boot step %-12s failed: %s", s.Name, s.Error)
		if s.Remedy != "" {
			add("%9s what to do: %s", "", s.Remedy)
		}
	}
	if f.Crash != "" {
		add("CRASH     %s", f.Crash)
	}
	if f.Watchdog != nil {
		add("watchdog  %s", f.Watchdog)
	}
	var well []string // in a line: the log is worth more room
	for _, p := range f.Health.Parts {
		if p.Status == domain.StatusOK {
			well = append(well, p.Name)
			continue
		}
		add("%-9s %s: %s", strings.ToUpper(p.Status), p.Name, p.Detail)
		if p.Remedy != "" {
			add("%9s what to do: %s", "", p.Remedy)
		}
	}
	if len(well) > 0 {
		add("well      %s", strings.Join(well, ", "))
	}
	for _, l := range f.Links {
		add("link      %-10s %-12s %-10s %s", l.Name, l.Purpose, linkState(l), strings.Join(l.Addresses, " "))
	}
	if s := f.Storage; s != nil && s.DataBytes > 0 {
		add("pool      %s of %s used (%.0f %%); %d volumes, %d served; %d golden images", size(s.DataUsed), size(s.DataBytes),
			100*float64(s.DataUsed)/float64(s.DataBytes), len(s.Volumes), served(*s), len(s.Goldens))
	} else if f.Storage == nil {
		for _, d := range f.Disks {
			add("disk      %-10s %s", d.Name, size(d.SizeBytes))
		}
	}
	add("%s", "log "+strings.Repeat("-", max(0, width-4)))
	room := max(0, height-len(out)-1)
	out = append(out, f.Log[max(0, len(f.Log)-room):]...)
	if len(out) > height-1 {
		out = out[:height-1]
	}
	for i, l := range out {
		out[i] = cut(l, width)
	}
	return out
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func linkState(l domain.NetLink) string {
	switch {
	case !l.Up:
		return "down"
	case !l.Carrier:
		return "no carrier"
	}
	return "up"
}

// cut shortens a line to width characters that do nothing to a terminal.
func cut(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ', r >= 0x7f && r < 0xa0:
			return '?'
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(0, width-1)]) + ">"
}

const dashboardKeys = " c commands   m maintenance   q log out"

// dashboard shows the facts again and again, until a key says where to go on.
func (c *console) dashboard() (byte, error) {
	t := c.tty
	fmt.Fprint(t.out, "\x1b[2J")
	defer fmt.Fprint(t.out, "\x1b[2J\x1b[H")
	last := time.Now()
	for {
		var b strings.Builder
		b.WriteString("\x1b[?25l\x1b[H")
		lines := render(c.gather(t.ctx), t.width-1, t.height)
		for _, l := range lines {
			b.WriteString(l + "\x1b[K\r\n")
		}
		b.WriteString("\x1b[J")
		fmt.Fprintf(&b, "\x1b[%d;1H\x1b[7m%s\x1b[K\x1b[0m\x1b[?25h", t.height, dashboardKeys)
		fmt.Fprint(t.out, b.String())
		key, err := t.key(refreshEvery)
		switch {
		case err == errIdle && t.idle > 0 && time.Since(last) > t.idle:
			return 0, err
		case err == errIdle:
			continue
		case err != nil:
			return 0, err
		}
		last = time.Now()
		if strings.IndexByte("cmq", key|0x20) >= 0 {
			return key | 0x20, nil
		}
	}
}

const refreshEvery = 2 * time.Second
