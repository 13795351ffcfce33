package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"baystream/image"
	"baystream/qemu"
	"baystream/qemu/sampleos"
)

const moduleRoot = "../.."

// cacheDir keeps packages and images between runs.
func cacheDir() string {
	if dir := os.Getenv("BAYSTREAM_CACHE"); dir != "" {
		return dir
	}
	return filepath.Join(moduleRoot, "build", "cache")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// withAgent boots the product's image with one more archive behind it, as the
// kernel unpacks them one after the other: the agent, and a list of services
// that has it. /bin is a link in the product, so the agent is not put there.
func withAgent(t testing.TB) qemu.Option {
	t.Helper()
	dir := qemu.Need(t)
	built, err := image.Load(dir)
	must(t, err)
	tmp := t.TempDir()
	program := filepath.Join(tmp, "agent")
	must(t, image.GoBuild(t.Context(), moduleRoot, "./qemu/scenario/agent", program))
	code, err := os.ReadFile(program)
	must(t, err)
	services, err := json.Marshal(image.InitConfig{Modules: image.BootModules, Services: []image.Service{
		image.Daemon, {Name: "agent", Exec: []string{"/agent"}, StartTimeoutSec: 30, StopTimeoutSec: 10},
	}})
	must(t, err)
	var archive bytes.Buffer
	must(t, image.Pack(&archive, []image.File{image.Program("agent", code), image.Text("etc/init.json", string(services))}))
	more, err := image.Compress(archive.Bytes())
	must(t, err)
	product, err := os.ReadFile(built.Initramfs)
	must(t, err)
	initramfs := filepath.Join(tmp, "initramfs")
	must(t, os.WriteFile(initramfs, append(product, more...), 0o600))
	return func(c *qemu.Config) { c.Initramfs = initramfs }
}

// site is a frame and what a scenario does with it.
type site struct {
	*qemu.Frame
	plan string // uri of the deployment plan of the sample OS
}

type attribute struct {
	Name        string `json:"name"`
	Type        string `json:"type,omitempty"`
	Value       string `json:"value"`
	Constraints string `json:"constraints,omitempty"`
	Editable    bool   `json:"editable,omitempty"`
	Visible     bool   `json:"visible,omitempty"`
}

// attributes makes name, value, name, value... a list.
func attributes(words ...string) []attribute {
	var out []attribute
	for i := 0; i+1 < len(words); i += 2 {
		out = append(out, attribute{Name: words[i], Value: words[i+1]})
	}
	return out
}

type resource struct {
	Name     string `json:"name"`
	URI      string `json:"uri"`
	State    string `json:"state"`
	TaskURI  string `json:"taskUri,omitempty"`
	Settings *struct {
		Volume string `json:"osVolumeUri"`
	} `json:"osDeploymentSettings,omitempty"`
}

// create posts a resource that is there at once, and returns its uri.
func (s *site) create(t testing.TB, path string, in map[string]any) string {
	t.Helper()
	var out resource
	must(t, s.REST().Do(t.Context(), "POST", path, in, &out))
	return out.URI
}

// list returns the members of a collection.
func (s *site) list(t testing.TB, path string) []resource {
	t.Helper()
	var page struct {
		Members []resource `json:"members"`
	}
	must(t, s.REST().Get(t.Context(), path, &page))
	return page.Members
}

// named is the member of a collection with that name, if there is one.
func (s *site) named(t testing.TB, path, name string) (resource, bool) {
	t.Helper()
	for _, r := range s.list(t, path) {
		if r.Name == name {
			return r, true
		}
	}
	return resource{}, false
}

// upload posts a file and waits for the end of the task.
func (s *site) upload(t testing.TB, path, name, file string) (qemu.Task, error) {
	t.Helper()
	var task qemu.Task
	if err := s.REST().Upload(t.Context(), path+"?"+url.Values{"name": {name}}.Encode(), nil, file, nil, &task); err != nil {
		return task, err
	}
	return s.REST().WaitTask(qemu.Context(t, time.Minute), task, nil)
}

// scriptPlan makes a deployment plan of one plan script. Golden may be empty.
func (s *site) scriptPlan(t testing.TB, name, content, golden string, attrs ...attribute) string {
	t.Helper()
	script := s.create(t, "/rest/plan-scripts", map[string]any{"type": "PlanScript", "name": name, "planType": "deploy", "content": content})
	build := s.create(t, "/rest/build-plans", map[string]any{"type": "OeBuildPlanV5", "name": name, "oeBuildPlanType": "deploy",
		"buildStep":        []map[string]any{{"serialNumber": "1", "planScriptName": name, "planScriptUri": script}},
		"customAttributes": attrs})
	return s.create(t, "/rest/deployment-plans", map[string]any{"type": "OEDeploymentPlanV5", "name": name,
		"goldenImageURI": golden, "oeBuildPlanURI": build, "customAttributes": attrs})
}

// uploadSampleOS makes the sample OS a golden image with a plan.
func (s *site) uploadSampleOS(t testing.TB) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sampleos.raw")
	err := sampleos.Build(t.Context(), file, sampleos.Options{CacheDir: cacheDir(), ModuleDir: moduleRoot})
	if errors.Is(err, image.ErrNoPackages) {
		t.Skipf("needs Debian's packages for the sample OS: %v", err)
	}
	must(t, err)
	task, err := s.upload(t, "/rest/golden-images", "Sample OS", file)
	must(t, err)
	s.plan = s.scriptPlan(t, "Sample OS", sampleos.PlanScript, task.Resource.URI,
		attribute{Name: "HostName", Type: "hostname", Constraints: "{}", Editable: true, Visible: true},
		attribute{Name: "Address", Type: "string", Constraints: "{}", Editable: true, Visible: true},
		attribute{Name: "Message", Type: "string", Constraints: `{"regex":"[a-z ]+"}`, Editable: true, Visible: true})
}

// register enters a module as server hardware.
func (s *site) register(t testing.TB, name, uuid, serial string, macs []string) string {
	t.Helper()
	return s.create(t, "/rest/server-hardware", map[string]any{"name": name, "uuid": uuid, "serialNumber": serial, "macs": macs})
}

func (s *site) registerBay(t testing.TB, n int) string {
	t.Helper()
	b := s.Compute(n)
	return s.register(t, b.Identity.Location, b.Identity.UUID, b.Identity.Serial, b.MACs)
}

// registerAbsent enters a server that is never powered on.
func (s *site) registerAbsent(t testing.TB, n int) string {
	t.Helper()
	return s.register(t, fmt.Sprintf("absent server %d", n), fmt.Sprintf("00000000-0000-4000-8000-%012d", n), fmt.Sprintf("ABSENT%d", n), []string{fmt.Sprintf("02:61:ff:00:00:%02x", n)})
}

func profile(name, hardware, plan string, attrs []attribute) map[string]any {
	return map[string]any{"name": name, "serverHardwareUri": hardware,
		"osDeploymentSettings": map[string]any{"osDeploymentPlanUri": plan, "osCustomAttributes": attrs}}
}

// deploy assigns a profile and waits until its volume is served.
func (s *site) deploy(t testing.TB, name, hardware, plan string, attrs []attribute) {
	t.Helper()
	_, err := s.REST().Run(qemu.Context(t, time.Minute), "POST", "/rest/server-profiles", profile(name, hardware, plan, attrs), nil)
	must(t, err)
}

// running is compute module n with the sample OS as web-N; it is deployed and
// powered on where that has not been done.
func (s *site) running(t testing.TB, n int) *qemu.Bay {
	t.Helper()
	b, name := s.Compute(n), fmt.Sprintf("web-%d", n)
	address := fmt.Sprintf("203.0.113.%d/24", n)
	if _, there := s.named(t, "/rest/server-profiles", name); !there {
		s.deploy(t, name, s.registerBay(t, n), s.plan, attributes("HostName", name, "Address", address, "Message", "well met"))
	}
	must(t, b.PowerOn(qemu.Context(t, 10*time.Second)))
	waitUp(t, b, name, address)
	return b
}

var up = regexp.MustCompile(`SAMPLE-OS UP hostname=(\S+) address=(\S+) boots=(\d+) root=(\S+) seq=(\d+) t=\S+\s`)

// waitUp waits until the sample OS of a server runs with that personality.
func waitUp(t testing.TB, b *qemu.Bay, host, address string) {
	t.Helper()
	m, err := b.WaitConsole(qemu.Context(t, time.Minute), up)
	must(t, err)
	if m[1] != host || m[2] != address {
		t.Errorf("%s is up as %s with address %s, want %s with %s", b.Name(), m[1], m[2], host, address)
	}
	if !strings.HasPrefix(m[4], "/dev/sd") {
		t.Errorf("%s has its root on %s, want an iSCSI disk", b.Name(), m[4])
	}
}

// counters are a line of the sample OS's workload.
type counters struct{ writes, errors, mismatches int }

var ioLine = regexp.MustCompile(`SAMPLE-OS IO writes=(\d+) errors=(\d+) mismatches=(\d+) maxgap=\d+ms seq=\d+ synced=\d+\s`)

// waitIO waits for the next report of the workload after mark that pred likes.
func waitIO(t testing.TB, b *qemu.Bay, mark int64, pred func(counters) bool) counters {
	t.Helper()
	ctx := qemu.Context(t, time.Minute)
	for {
		if _, err := b.Console().WaitFrom(ctx, mark, ioLine); err != nil {
			t.Fatal(err)
		}
		all := ioLine.FindAllStringSubmatch(b.Console().Since(mark), -1)
		m := all[len(all)-1]
		c := counters{number(m[1]), number(m[2]), number(m[3])}
		if pred(c) {
			return c
		}
		mark = b.Console().Mark()
	}
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // the pattern has digits only
	return n
}

// waitWrites waits until the workload has gone on for n writes.
func waitWrites(t testing.TB, b *qemu.Bay, n int) {
	t.Helper()
	began := waitIO(t, b, b.Console().Mark(), func(counters) bool { return true })
	waitIO(t, b, b.Console().Mark(), func(c counters) bool { return c.writes >= began.writes+n })
}

var gapLine = regexp.MustCompile(`SAMPLE-OS GAP ([0-9.]+) s\s`)

// checkIO looks at all the workload said after mark: no error, no mismatch, no
// silence longer than gap. The last word is the volume's, read again whole.
func checkIO(t testing.TB, b *qemu.Bay, mark int64, gap time.Duration) {
	t.Helper()
	text := b.Console().Since(mark)
	for _, bad := range []string{"SAMPLE-OS IOERROR", "SAMPLE-OS MISMATCH", "SAMPLE-OS FAILED"} {
		if i := strings.Index(text, bad); i >= 0 {
			line, _, _ := strings.Cut(text[i:], "\n")
			t.Errorf("%s: %s", b.Name(), line)
		}
	}
	for _, m := range gapLine.FindAllStringSubmatch(text, -1) {
		seconds, err := strconv.ParseFloat(m[1], 64)
		if err != nil || time.Duration(seconds*float64(time.Second)) > gap {
			t.Errorf("%s: a gap of %s s, want at most %v", b.Name(), m[1], gap)
		}
	}
	if c := waitIO(t, b, b.Console().Mark(), func(counters) bool { return true }); c.errors+c.mismatches > 0 {
		t.Errorf("%s: the workload counts %+v, want no error and no mismatch", b.Name(), c)
	}
	said := ask(t, b, "verify")
	if !strings.Contains(said, "torn=0 lost=0 alien=0") {
		t.Errorf("%s: verify: %s", b.Name(), said)
	}
}

// ask types a line at the sample OS and returns its answer.
func ask(t testing.TB, b *qemu.Bay, line string) string {
	t.Helper()
	mark := b.Console().Mark()
	_, err := fmt.Fprintln(b.Console(), line)
	must(t, err)
	word, _, _ := strings.Cut(line, " ")
	m, err := b.Console().WaitFrom(qemu.Context(t, 30*time.Second), mark, regexp.MustCompile(`SAMPLE-OS (OK|ERROR) `+word+`[^\n]*\n`))
	must(t, err)
	return strings.TrimSpace(m[0])
}

// kill ends the appliance's daemon with SIGKILL, at once.
func (s *site) kill(t testing.TB) {
	t.Helper()
	tty := s.Appliance().Diagnostics()
	mark := tty.Mark()
	_, err := fmt.Fprintln(tty, "kill baystreamd")
	must(t, err)
	m, err := tty.WaitFrom(qemu.Context(t, 20*time.Second), mark, regexp.MustCompile(`agent: (ok|error) [^\n]*\n`))
	must(t, err)
	if m[1] != "ok" {
		t.Fatal(strings.TrimSpace(m[0]))
	}
}

var restReady = regexp.MustCompile(`baystream: REST ready \S+\s`)

// waitServed waits until REST is back after mark on the console and storage is
// well.
func (s *site) waitServed(t testing.TB, mark int64) {
	t.Helper()
	ctx := qemu.Context(t, 40*time.Second)
	_, err := s.Appliance().Console().WaitFrom(ctx, mark, restReady)
	must(t, err)
	s.waitHealth(t, ctx)
}

type health struct {
	Status string       `json:"status"`
	Parts  []healthPart `json:"parts"`
}

type healthPart struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy"`
}

// ok tells whether all parts are well, and these among them: one that has not
// begun yet is not on the board.
func (h health) ok(names ...string) bool {
	for _, name := range names {
		i := slices.IndexFunc(h.Parts, func(p healthPart) bool { return p.Name == name })
		if i < 0 || h.Parts[i].Status != "OK" {
			return false
		}
	}
	return h.Status == "OK"
}

// waitHealth asks until every part of the appliance is well. There is no event
// for it that one could wait for from outside.
func (s *site) waitHealth(t testing.TB, ctx context.Context) {
	t.Helper()
	for {
		var h health
		err := s.REST().Get(ctx, "/rest/baystream/health", &h)
		if err == nil && h.ok("network", "storage", "boot service") {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the appliance is not well: %+v, %v", h, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// sessions are the initiators at each volume, by the volume's name.
func (s *site) sessions(t testing.TB) map[string][]string {
	t.Helper()
	var report struct {
		Volumes []struct {
			Name     string   `json:"name"`
			Sessions []string `json:"sessions"`
		} `json:"volumes"`
	}
	must(t, s.REST().Get(t.Context(), "/rest/baystream/storage", &report))
	out := map[string][]string{}
	for _, v := range report.Volumes {
		out[v.Name] = v.Sessions
	}
	return out
}

// snapshot is what must be the same after a crash.
func (s *site) snapshot(t testing.TB) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, c := range []string{"os-volumes", "server-profiles", "server-hardware", "golden-images", "deployment-plans", "build-plans", "plan-scripts", "artifact-bundles", "tasks"} {
		for _, r := range s.list(t, "/rest/"+c+"?sort=name:asc") {
			out[c] = append(out[c], r.Name+" "+r.URI+" "+r.State)
		}
	}
	for name, users := range s.sessions(t) {
		out["sessions of "+name] = users
	}
	return out
}
