package pair

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"baystream/qemu"
	"baystream/qemu/sampleos"
)

const deployTime = time.Minute

// A Server is a compute module that runs the sample OS from its OS volume.
type Server struct {
	*qemu.Bay
	Profile string // name of its server profile and of its volume
	Group   string // storage group of the volume: "1", "2", or "" as long as nothing says
	mark    int64  // on the console; Report looks at what was said since
}

// Serve deploys the sample OS to the first n compute modules of the first frame
// and returns when their workloads write.
func (s *Site) Serve(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, qemu.Deadline(time.Duration(n)*deployTime))
	defer cancel()
	plan, err := s.plan(ctx)
	if err != nil {
		return err
	}
	s.options.Tell("golden image and deployment plan")
	for i := 1; i <= n; i++ {
		b := s.Compute(i)
		if b == nil {
			return fmt.Errorf("serve: frame %s has no compute module %d", s.Serial, i)
		}
		v := &Server{Bay: b, Profile: fmt.Sprintf("web-%d", i)}
		if err := s.deploy(ctx, v, plan, i); err != nil {
			return fmt.Errorf("serve %s: %w", b.Name(), err)
		}
		if err := b.PowerOn(ctx); err != nil {
			return err
		}
		s.Servers = append(s.Servers, v)
		s.options.Tell(b.Name() + " has its volume and its power")
	}
	for _, v := range s.Servers {
		if _, err := v.WaitConsole(ctx, serverUp); err != nil {
			return err
		}
		if err := v.WaitWrites(ctx, 1); err != nil {
			return err
		}
		s.options.Tell(v.Name() + " writes")
	}
	return s.findGroups(ctx)
}

// findGroups looks at which group's address each volume is served.
func (s *Site) findGroups(ctx context.Context) error {
	var page struct {
		Members []struct {
			Name   string `json:"name"`
			Portal string `json:"oeVolumeIp"`
		} `json:"members"`
	}
	if err := s.REST.Get(ctx, "/rest/os-volumes", &page); err != nil {
		return err
	}
	portals := s.State().Pair.Portals
	for _, m := range page.Members {
		for _, v := range s.Servers {
			if i := slices.Index(portals, m.Portal); v.Profile == m.Name && i >= 0 {
				v.Group = fmt.Sprint(i + 1)
			}
		}
	}
	return nil
}

var serverUp = regexp.MustCompile(`SAMPLE-OS UP hostname=(\S+) `)

// plan makes the sample OS a golden image with a deployment plan, and returns
// the plan's uri.
func (s *Site) plan(ctx context.Context) (string, error) {
	file := filepath.Join(s.Dir(), "sampleos.raw")
	if err := sampleos.Build(ctx, file, sampleos.Options{CacheDir: s.options.Cache, ModuleDir: s.options.ModuleDir}); err != nil {
		return "", err
	}
	packed := file + ".zip" // as the published ones are; modules without KVM take long for each byte
	if err := pack(file, packed); err != nil {
		return "", err
	}
	var task qemu.Task
	if err := s.REST.Upload(ctx, "/rest/golden-images?"+url.Values{"name": {"Sample OS"}}.Encode(), nil, packed, nil, &task); err != nil {
		return "", err
	}
	task, err := s.REST.WaitTask(ctx, task, nil)
	if err != nil {
		return "", err
	}
	var attributes []map[string]any
	for _, a := range []string{"HostName", "Address", "Message"} {
		attributes = append(attributes, map[string]any{"name": a, "type": "string", "value": "", "constraints": "{}", "editable": true, "visible": true})
	}
	script, err := s.post(ctx, "/rest/plan-scripts", map[string]any{"type": "PlanScript", "name": "Sample OS", "planType": "deploy", "content": sampleos.PlanScript})
	if err != nil {
		return "", err
	}
	build, err := s.post(ctx, "/rest/build-plans", map[string]any{"type": "OeBuildPlanV5", "name": "Sample OS", "oeBuildPlanType": "deploy",
		"buildStep": []map[string]any{{"serialNumber": "1", "planScriptName": "Sample OS", "planScriptUri": script}}, "customAttributes": attributes})
	if err != nil {
		return "", err
	}
	return s.post(ctx, "/rest/deployment-plans", map[string]any{"type": "OEDeploymentPlanV5", "name": "Sample OS",
		"goldenImageURI": task.Resource.URI, "oeBuildPlanURI": build, "customAttributes": attributes})
}

// pack writes a file into a zip of its own.
func pack(file, into string) (err error) {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(into)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z := zip.NewWriter(out)
	w, err := z.Create(filepath.Base(file))
	if err == nil {
		_, err = io.Copy(w, in)
	}
	return errors.Join(err, z.Close())
}

// post creates a resource that is there at once, and returns its uri.
func (s *Site) post(ctx context.Context, path string, in map[string]any) (string, error) {
	var out struct {
		URI string `json:"uri"`
	}
	err := s.REST.Do(ctx, "POST", path, in, &out)
	return out.URI, err
}

func (s *Site) deploy(ctx context.Context, v *Server, plan string, n int) error {
	hardware, err := s.post(ctx, "/rest/server-hardware", map[string]any{"name": v.Identity.Location, "uuid": v.Identity.UUID,
		"serialNumber": v.Identity.Serial, "macs": v.MACs})
	if err != nil {
		return err
	}
	attributes := []map[string]string{{"name": "HostName", "value": v.Profile}, {"name": "Address", "value": fmt.Sprintf("203.0.113.%d/24", n)}, {"name": "Message", "value": "well met"}}
	_, err = s.REST.Run(ctx, "POST", "/rest/server-profiles", map[string]any{"name": v.Profile, "serverHardwareUri": hardware,
		"osDeploymentSettings": map[string]any{"osDeploymentPlanUri": plan, "osCustomAttributes": attributes}}, nil)
	return err
}

// Mark begins a new report: what was said before does not count.
func (v *Server) Mark() { v.mark = v.Console().Mark() }

// Report is what the server felt since Mark.
func (v *Server) Report() sampleos.Report { return sampleos.Read(v.Console().Since(v.mark)) }

var ioLine = regexp.MustCompile(`SAMPLE-OS IO writes=\d+ [^\n]*\n`)

// WaitWrites waits until the workload has gone on for n writes.
func (v *Server) WaitWrites(ctx context.Context, n int) error {
	first := -1
	for mark := v.Console().Mark(); ; {
		if _, err := v.Console().WaitFrom(ctx, mark, ioLine); err != nil {
			return fmt.Errorf("%s: wait for %d writes: %w", v.Name(), n, err)
		}
		said := v.Console().Since(mark)
		end := strings.LastIndex(said, "\n") + 1 // what follows is not whole
		if r := sampleos.Read(said[:end]); first < 0 {
			first = r.Writes
		} else if r.Writes >= first+n {
			return nil
		}
		mark += int64(end)
	}
}

// Ask types a line at the server's console and returns the answer.
func (v *Server) Ask(ctx context.Context, line string) (string, error) {
	mark := v.Console().Mark()
	if _, err := fmt.Fprintln(v.Console(), line); err != nil {
		return "", err
	}
	word, _, _ := strings.Cut(line, " ")
	m, err := v.Console().WaitFrom(ctx, mark, regexp.MustCompile(`SAMPLE-OS (OK|ERROR) `+word+`[^\n]*\n`))
	if err != nil {
		return "", err
	}
	if m[1] == "ERROR" {
		return "", errors.New(strings.TrimSpace(m[0]))
	}
	return strings.TrimSpace(m[0]), nil
}

// Check says what is wrong with what the server saw since Mark: an I/O error, a
// mismatch, or a block of the volume, all of which is read again.
func (v *Server) Check(ctx context.Context) error {
	if r := v.Report(); !r.Clean() {
		return fmt.Errorf("%s: %d errors, %d mismatches: %s", v.Name(), r.Errors, r.Mismatches, strings.Join(r.Bad, "; "))
	}
	said, err := v.Ask(ctx, "verify")
	if err == nil && !strings.Contains(said, "torn=0 lost=0 alien=0") {
		err = errors.New(said)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", v.Name(), err)
	}
	return nil
}

// LongestGap is the longest gap that a server felt since Mark, and whose.
func (s *Site) LongestGap() (gap time.Duration, who string) {
	for _, v := range s.Servers {
		if r := v.Report(); r.Gap >= gap {
			gap, who = r.Gap, v.Name()
		}
	}
	return gap, who
}

// Mark begins a new report of every server.
func (s *Site) Mark() {
	for _, v := range s.Servers {
		v.Mark()
	}
}

// Check checks every server, see Server.Check.
func (s *Site) Check(ctx context.Context) error {
	var errs []error
	for _, v := range s.Servers {
		errs = append(errs, v.Check(ctx))
	}
	return errors.Join(errs...)
}

// WaitWrites waits until every server has gone on for n writes.
func (s *Site) WaitWrites(ctx context.Context, n int) error {
	for _, v := range s.Servers {
		if err := v.WaitWrites(ctx, n); err != nil {
			return err
		}
	}
	return nil
}
