// Package demo is the main job as a story that a person can watch: a virtual
// frame with one appliance and one compute module, a golden image, a plan, a
// profile, and a server that boots from its OS volume with the personality
// asked for and keeps what it wrote.
//
// Of a pair it tells what two servers feel when the appliances below them die and move.
//
// With a bundle, the story is that of a published Image Streamer bundle: it is
// imported, and its first deployment plan with a golden image is deployed.
//
// The demo uses the appliance as any outside program would: REST, the serial
// consoles, and ssh over the deployment network.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"baystream/internal/progress"
	"baystream/qemu"
)

// Options say what to show.
type Options struct {
	Image  string // directory of the appliance image
	Cache  string // directory for what later runs use again
	Dir    string // directory of the frame; its former contents are removed
	Bundle string // artifact bundle to deploy; empty: a Debian made here
	Pair   bool   // tell of a pair instead: two appliances, a witness, two servers
	Out    io.Writer
	Log    *slog.Logger
	// Hold, if not nil, keeps the frame up after the end until it returns.
	Hold func(ctx context.Context, f *qemu.Frame) error
}

// story is a demo being told.
type story struct {
	Options
	frame *qemu.Frame
	rest  *qemu.Client
	times []timing
	began time.Time
}

type timing struct {
	what string
	took time.Duration
}

// Run tells the story. It returns an error at the first thing that is not as
// it should be, with the tail of the console that shows it.
func Run(ctx context.Context, o Options) (err error) {
	s := &story{Options: o, began: time.Now()}
	if err := os.RemoveAll(o.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.consoles()
		}
		if s.frame != nil {
			err = errors.Join(err, s.frame.Close())
		}
	}()
	name := "demo"
	switch {
	case o.Pair:
		name, err = "demo-pair", s.pair(ctx)
	case o.Bundle != "":
		err = s.bundle(ctx)
	default:
		err = s.debian(ctx)
	}
	if err != nil {
		return err
	}
	s.table()
	if !o.Pair {
		s.printf("\n%s", s.around())
	}
	s.printf("%s: ok", name)
	if o.Hold != nil {
		return o.Hold(ctx, s.frame)
	}
	return nil
}

func (s *story) printf(format string, args ...any) { fmt.Fprintf(s.Out, format+"\n", args...) }

// step does one thing, says so before, and how long it took after.
func (s *story) step(what string, do func(tell func(text string, done, total int64)) error) error {
	s.printf("[%5.1fs] %s", time.Since(s.began).Seconds(), what)
	bar := progress.New(s.Out)
	last := int64(-1)
	began := time.Now()
	err := do(func(text string, done, total int64) {
		pct := done * 100 / max(1, total)
		if bar.Terminal() || pct >= last+25 || pct < last {
			last = pct
			bar.Show(fmt.Sprintf("         %s %d %%", text, pct), done, total)
		}
	})
	bar.Done()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	s.times = append(s.times, timing{what, time.Since(began)})
	return nil
}

// simple is a step without progress.
func (s *story) simple(what string, do func() error) error {
	return s.step(what, func(func(string, int64, int64)) error { return do() })
}

// up starts the frame and makes first contact.
func (s *story) up(ctx context.Context, module qemu.ModuleConfig) error {
	err := s.simple("Power on the appliance; wait for REST and make first contact", func() error {
		f, err := qemu.Up(ctx, qemu.Config{Dir: s.Dir, Image: s.Image, Compute: 1, Module: module, Log: s.Log})
		if err != nil {
			return err
		}
		s.frame = f
		ctx, cancel := context.WithTimeout(ctx, qemu.Deadline(60*time.Second))
		defer cancel()
		if err := f.Setup(ctx); err != nil {
			return err
		}
		s.rest = f.REST()
		return nil
	})
	if err != nil {
		return err
	}
	s.printf("         %s, REST at %s", s.frame.Appliance().Identity.Location, s.frame.Access().RESTURL)
	return nil
}

// work runs a request that is answered by a task, showing its progress.
func (s *story) work(ctx context.Context, method, path string, in any, tell func(string, int64, int64)) (qemu.Task, error) {
	return s.rest.Run(ctx, method, path, in, func(t qemu.Task) { tell(t.Name, int64(t.Percent), 100) })
}

// register enters the compute module as server hardware and returns its uri.
func (s *story) register(ctx context.Context) (server, error) {
	bay := s.frame.Compute(1)
	var hw server
	err := s.rest.Do(ctx, "POST", "/rest/server-hardware", map[string]any{
		"name": bay.Frame + ", bay 1", "uuid": bay.Identity.UUID, "serialNumber": bay.Identity.Serial,
		"frame": bay.Frame, "position": bay.Number, "macs": bay.MACs,
	}, &hw)
	return hw, err
}

type server struct {
	URI     string `json:"uri"`
	Name    string `json:"name"`
	Address string `json:"deploymentAddress"`
}

type attribute struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Type        string `json:"type,omitempty"`
	Value       string `json:"value"`
	Constraints string `json:"constraints,omitempty"`
	Editable    bool   `json:"editable,omitempty"`
	Visible     bool   `json:"visible,omitempty"`
}

// assign makes the server profile and waits until its volume is served.
func (s *story) assign(ctx context.Context, hw server, plan string, attrs []attribute, tell func(string, int64, int64)) error {
	_, err := s.work(ctx, "POST", "/rest/server-profiles", map[string]any{
		"name": "demo-1", "serverHardwareUri": hw.URI,
		"osDeploymentSettings": map[string]any{"osDeploymentPlanUri": plan, "osCustomAttributes": attrs},
	}, tell)
	return err
}

// consoles shows the ends of both consoles after a failure.
func (s *story) consoles() {
	if s.frame == nil {
		return
	}
	for _, f := range s.frame.Linked() {
		s.consolesOf(f)
	}
}

func (s *story) consolesOf(f *qemu.Frame) {
	for _, b := range f.Bays {
		if b.VM == nil || b.Console().Tail(1) == "" {
			continue
		}
		s.printf("\n--- console of %s, last lines (all of it: %s)\n%s", b.Name(), b.ConsoleLog(), b.Console().Tail(30))
	}
}

func (s *story) table() {
	s.printf("\n%-64s %8s", "what", "seconds")
	for _, t := range s.times {
		s.printf("%-64s %8.1f", t.what, t.took.Seconds())
	}
	s.printf("%-64s %8.1f", "all", time.Since(s.began).Seconds())
}

// around says how to look around while the frame is up.
func (s *story) around() string {
	exe, err := os.Executable()
	if err != nil {
		exe = "vframe"
	}
	bin := filepath.Dir(exe)
	return fmt.Sprintf(`Look around while the frame is up (vframe up -detach keeps one up for as long as you like):
  %s --frame %s status        what the appliance says of itself
  %s --frame %s storage       pool, golden images, volumes
  %s --frame %s volumes log demo-1
  %s console -dir %s compute1      the server's serial console; Ctrl-] leaves
`, rel(filepath.Join(bin, "bayctl")), rel(s.Dir), rel(filepath.Join(bin, "bayctl")), rel(s.Dir), rel(filepath.Join(bin, "bayctl")), rel(s.Dir), rel(exe), rel(s.Dir))
}

// rel is a path as a person in this directory would type it.
func rel(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	r, err := filepath.Rel(wd, path)
	if err != nil || len(r) > len(path) {
		return path
	}
	return r
}
