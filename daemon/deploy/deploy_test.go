package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// fakeStorage keeps volumes as byte slices and remembers who may use them.
type fakeStorage struct {
	mu       sync.Mutex
	volumes  map[string][]byte
	exported map[string]Access
	sessions map[string][]string
	made     int
}

func (f *fakeStorage) Ready() error    { return nil }
func (f *fakeStorage) MayClone() error { return nil }

func (f *fakeStorage) Create(_ context.Context, s VolumeSpec) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v, ok := f.volumes[s.ID]; ok {
		return int64(len(v)), nil
	}
	n := s.Size
	if n == 0 {
		n = 64
	}
	f.volumes[s.ID] = make([]byte, n)
	f.made++
	return n, nil
}

func (f *fakeStorage) Join(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.volumes[id] == nil {
		return errors.New("no such volume")
	}
	return nil
}

func (f *fakeStorage) Export(_ context.Context, id string, a Access) (netip.AddrPort, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.volumes[id] == nil {
		return netip.AddrPort{}, errors.New("no such volume")
	}
	f.exported[id] = a
	return netip.MustParseAddrPort("198.51.100.2:3260"), nil
}

func (f *fakeStorage) Unexport(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.exported, id)
	return nil
}

func (f *fakeStorage) Sessions(_ context.Context, id string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions[id], nil
}

func (f *fakeStorage) Delete(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.volumes, id)
	return nil
}

func (f *fakeStorage) Used(context.Context, string) (int64, error) { return 0, nil }
func (f *fakeStorage) Detail(context.Context, string) (any, error) { return nil, nil }

// fakePlans writes the substituted scripts to the volume.
type fakePlans struct {
	st    *fakeStorage
	runs  []string
	crash func() // called in the middle of a run
	pause func() // called at its end
}

func (f *fakePlans) Attributes(content string) ([]domain.ScriptAttribute, error) {
	var out []domain.ScriptAttribute
	for i, w := range strings.Split(content, "@") {
		if i%2 == 1 {
			out = append(out, domain.ScriptAttribute{Name: w})
		}
	}
	return out, nil
}

func (f *fakePlans) Run(ctx context.Context, id string, scripts []Script, values map[string]string, _ map[string]bool, log io.Writer) error {
	for _, s := range scripts {
		text := s.Content
		for k, v := range values {
			text = strings.ReplaceAll(text, "@"+k+"@", v)
		}
		fmt.Fprintf(log, "ImageStreamerLog: %s\n", s.Name)
		if strings.Contains(text, "fail") {
			return domain.Errorf(domain.Invalid, "plan script "+s.Name, "line 1: unknown word fail")
		}
		f.st.mu.Lock()
		copy(f.st.volumes[id], text)
		f.st.mu.Unlock()
		f.runs = append(f.runs, text)
		if f.crash != nil {
			f.crash()
			<-ctx.Done()
			return ctx.Err()
		}
	}
	if f.pause != nil {
		f.pause()
	}
	return nil
}

func (f *fakePlans) Disk(_ context.Context, id string) (io.ReadCloser, int64, error) {
	f.st.mu.Lock()
	defer f.st.mu.Unlock()
	b := f.st.volumes[id]
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

func (f *fakePlans) Copy(_ context.Context, from, to string) error {
	f.st.mu.Lock()
	defer f.st.mu.Unlock()
	copy(f.st.volumes[to], f.st.volumes[from])
	return nil
}

// bench is a Deployer over a real domain state.
type bench struct {
	*Deployer
	t       *testing.T
	dir     string
	storage *fakeStorage
	plans   *fakePlans
	node    *cluster.Node
	stop    func()
	server  string // uri
	plan    string // uri
}

func newBench(t *testing.T, script string) *bench {
	t.Helper()
	st := &fakeStorage{volumes: map[string][]byte{}, exported: map[string]Access{}, sessions: map[string][]string{}}
	b := &bench{t: t, dir: t.TempDir(), storage: st, plans: &fakePlans{st: st}}
	node, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Name: "a", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.node = node
	t.Cleanup(func() {
		b.stop()
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	b.run()
	ctx := t.Context()
	ps, err := b.state.PlanScripts.Create(ctx, domain.PlanScript{Resource: domain.Resource{Name: "s"}, PlanType: "deploy", Content: script})
	fatal(t, err)
	bp, err := b.state.BuildPlans.Create(ctx, domain.BuildPlan{Resource: domain.Resource{Name: "b"}, OEBuildPlanType: "deploy",
		BuildStep:        []domain.BuildStep{{SerialNumber: "1", PlanScriptName: "s", PlanScriptURI: ps.URI}},
		CustomAttributes: []domain.Attribute{{Name: "HostName", Type: "hostname", Constraints: "{}"}}})
	fatal(t, err)
	g, err := b.state.GoldenImages.Create(ctx, domain.GoldenImage{Resource: domain.Resource{Name: "g"}, SizeBytes: 64})
	fatal(t, err)
	yes := true
	dp, err := b.state.DeploymentPlans.Create(ctx, domain.DeploymentPlan{Resource: domain.Resource{Name: "d"}, GoldenImageURI: g.URI, OEBuildPlanURI: bp.URI,
		CustomAttributes: []domain.Attribute{{Name: "HostName", Type: "hostname", Constraints: "{}", Editable: &yes, Visible: &yes}}})
	fatal(t, err)
	h, err := b.state.ServerHardware.Create(ctx, domain.ServerHardware{Resource: domain.Resource{Name: "bay 1"}, UUID: domain.NewID(), SerialNumber: "S1", MACs: []string{"02:00:00:00:00:01"}})
	fatal(t, err)
	b.server, b.plan = h.URI, domain.OSDeploymentPlans+"/"+dp.ID
	return b
}

// run starts a Deployer and its engine, as a new process would.
func (b *bench) run() {
	b.t.Helper()
	log := slog.New(slog.DiscardHandler)
	state := cluster.NewStore(b.node.Client())
	engine := task.New(state.Tasks, log)
	d, err := New(Config{State: state, Storage: b.storage, Plans: b.plans, Tasks: engine, Logs: b.dir, Netmask: func() string { return "255.255.255.0" }, Log: log})
	fatal(b.t, err)
	b.Deployer = d
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				b.t.Error(err)
			}
		})
	}
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait returns the task when it has ended.
func (b *bench) wait(task domain.Task, err error) domain.Task {
	b.t.Helper()
	fatal(b.t, err)
	for !task.Ended() {
		time.Sleep(5 * time.Millisecond) // the engine works in real time; the test's deadline bounds this
		task, err = b.state.Tasks.Get(b.t.Context(), task.ID)
		fatal(b.t, err)
	}
	return task
}

func (b *bench) settings(host string) *domain.OSDeploymentSettings {
	return &domain.OSDeploymentSettings{OSDeploymentPlanURI: b.plan, OSCustomAttributes: []domain.Attribute{{Name: "HostName", Value: host}}}
}

// deploy makes a profile and returns it as stored after its task.
func (b *bench) deploy(host string) domain.ServerProfile {
	b.t.Helper()
	t := b.wait(b.CreateProfile(b.t.Context(), "admin", domain.ServerProfile{Resource: domain.Resource{Name: "p"}, ServerHardwareURI: b.server, OSDeploymentSettings: b.settings(host)}))
	if t.TaskState != domain.TaskCompleted {
		b.t.Fatalf("task = %s: %v", t.TaskState, t.TaskErrors)
	}
	p, err := b.state.ServerProfiles.ByName(b.t.Context(), "p")
	fatal(b.t, err)
	return p
}

func TestProfileGetsAPersonalisedVolumeServedToItsServer(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	id := volumeOf(p)
	v, err := b.state.OSVolumes.Get(t.Context(), id)
	fatal(t, err)
	if v.State != domain.VolumeExported || v.ServerHardwareURI != b.server || p.State != "Normal" {
		t.Errorf("volume %s on %s, profile %s; want Exported on %s, Normal", v.State, v.ServerHardwareURI, p.State, b.server)
	}
	if got := string(b.storage.volumes[id][:10]); got != "hello web1" {
		t.Errorf("volume holds %q", got)
	}
	a := b.storage.exported[id]
	if a.Initiator != p.ISCSIInitiatorName || len(a.Secret) < 12 {
		t.Errorf("exported to %q with a secret of %d bytes", a.Initiator, len(a.Secret))
	}
	rc, err := b.VolumeLog(t.Context(), id)
	fatal(t, err)
	defer rc.Close()
	text, err := io.ReadAll(rc)
	fatal(t, err)
	if !strings.Contains(string(text), "=== 4. exported") || strings.Contains(string(text), a.Secret) {
		t.Errorf("log lacks the export or shows the secret:\n%s", text)
	}
}

func TestFailingScriptLeavesNoCloneAndItsLogSaysWhy(t *testing.T) {
	b := newBench(t, "fail @HostName@")
	task := b.wait(b.CreateProfile(t.Context(), "admin", domain.ServerProfile{Resource: domain.Resource{Name: "p"}, ServerHardwareURI: b.server, OSDeploymentSettings: b.settings("web1")}))
	if task.TaskState != domain.TaskFailed || !strings.Contains(task.TaskErrors[0].Message, "plan script s: line 1") {
		t.Errorf("task = %s %v, want Error naming script and line", task.TaskState, task.TaskErrors)
	}
	if len(b.storage.volumes) != 0 {
		t.Errorf("%d volumes are left", len(b.storage.volumes))
	}
	rows, err := b.state.OSVolumes.List(t.Context())
	fatal(t, err)
	p, err := b.state.ServerProfiles.ByName(t.Context(), "p")
	fatal(t, err)
	if len(rows) != 0 || p.State != "Failed" {
		t.Errorf("%d volume rows, profile %s; want none, Failed", len(rows), p.State)
	}
	for _, key := range []string{task.Data[keyVolume], "P"} { // the profile's name
		rc, err := b.VolumeLog(t.Context(), key)
		fatal(t, err)
		defer rc.Close()
		if text, _ := io.ReadAll(rc); !strings.Contains(string(text), "line 1: unknown word") {
			t.Errorf("log of %s = %s", key, text)
		}
	}
	if _, err := b.VolumeLog(t.Context(), "nobody"); domain.KindOf(err) != domain.NotFound {
		t.Errorf("VolumeLog(nobody) = %v, want NotFound", err)
	}
	// The same profile with other attributes gets another try.
	p.OSDeploymentSettings = b.settings("web2")
	if task := b.wait(b.UpdateProfile(t.Context(), "admin", p)); task.TaskState != domain.TaskFailed {
		t.Errorf("second try = %s, want Error again", task.TaskState)
	}
}

func TestInterruptedPersonalisingBeginsWithAFreshClone(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	half := make(chan struct{})
	b.plans.crash = func() { close(half) }
	task, err := b.CreateProfile(t.Context(), "admin", domain.ServerProfile{Resource: domain.Resource{Name: "p"}, ServerHardwareURI: b.server, OSDeploymentSettings: b.settings("web1")})
	fatal(t, err)
	<-half
	b.stop() // the daemon dies
	b.plans.crash = nil
	b.run()
	if got := b.wait(task, nil); got.TaskState != domain.TaskCompleted {
		t.Fatalf("task = %s %v", got.TaskState, got.TaskErrors)
	}
	if b.storage.made != 2 || len(b.storage.volumes) != 1 {
		t.Errorf("%d clones made, %d left; want 2, 1", b.storage.made, len(b.storage.volumes))
	}
}

func TestChangeThatMakesTheVolumeAnewNeedsConsent(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	first := volumeOf(p)
	p.OSDeploymentSettings = b.settings("web2")
	if _, err := b.UpdateProfile(t.Context(), "admin", p); domain.KindOf(err) != domain.Conflict {
		t.Fatalf("update without consent = %v, want Conflict", err)
	}
	p.OSDeploymentSettings.ForceOSDeployment = true
	if task := b.wait(b.UpdateProfile(t.Context(), "admin", p)); task.TaskState != domain.TaskCompleted {
		t.Fatalf("task = %s %v", task.TaskState, task.TaskErrors)
	}
	p, err := b.state.ServerProfiles.Get(t.Context(), p.ID)
	fatal(t, err)
	second := volumeOf(p)
	old, err := b.state.OSVolumes.Get(t.Context(), first)
	fatal(t, err)
	if second == first || second == "" || old.State != domain.VolumeTrash || p.OSDeploymentSettings.ForceOSDeployment {
		t.Errorf("volume %s after %s, old one %s, consent %v; want another, Trash, false", second, first, old.State, p.OSDeploymentSettings.ForceOSDeployment)
	}
	if _, served := b.storage.exported[first]; served || b.storage.volumes[first] == nil {
		t.Errorf("the old volume: served %v, kept %v; want false, true", served, b.storage.volumes[first] != nil)
	}
	fatal(t, b.EmptyTrash(t.Context(), 0))
	fatal(t, b.EmptyTrash(t.Context(), 10*365*24*time.Hour))
	if b.storage.volumes[first] == nil {
		t.Error("the trash was emptied before its time")
	}
	for range TrashTime / trashStep {
		fatal(t, b.EmptyTrash(t.Context(), trashStep))
	}
	if b.storage.volumes[first] != nil || b.storage.volumes[second] == nil {
		t.Error("the end of the trash's time destroyed the wrong volume")
	}
}

func TestNothingIsTakenFromARunningServer(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	b.storage.sessions[volumeOf(p)] = []string{"iqn.x"}
	if _, err := b.DeleteProfile(t.Context(), "admin", p.ID); domain.KindOf(err) != domain.Conflict {
		t.Errorf("delete = %v, want Conflict", err)
	}
	p.ServerHardwareURI = ""
	if _, err := b.UpdateProfile(t.Context(), "admin", p); domain.KindOf(err) != domain.Conflict {
		t.Errorf("unassign = %v, want Conflict", err)
	}
}

func TestUnassignedProfileKeepsItsVolume(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	id, server := volumeOf(p), p.ServerHardwareURI
	secret := b.storage.exported[id].Secret
	p.ServerHardwareURI = ""
	if task := b.wait(b.UpdateProfile(t.Context(), "admin", p)); task.TaskState != domain.TaskCompleted {
		t.Fatalf("unassign = %s %v", task.TaskState, task.TaskErrors)
	}
	if _, served := b.storage.exported[id]; served || b.storage.volumes[id] == nil {
		t.Errorf("unassigned volume: served %v, kept %v", served, b.storage.volumes[id] != nil)
	}
	p, err := b.state.ServerProfiles.Get(t.Context(), p.ID)
	fatal(t, err)
	p.ServerHardwareURI = server
	if task := b.wait(b.UpdateProfile(t.Context(), "admin", p)); task.TaskState != domain.TaskCompleted {
		t.Fatalf("assign again = %s %v", task.TaskState, task.TaskErrors)
	}
	if got := b.storage.exported[id].Secret; got != secret || got == "" {
		t.Error("the volume's CHAP secret changed on the way")
	}
}

func TestDeletedProfileFreesItsServerAndVolumesNeedTwoDeletes(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	id := volumeOf(p)
	if _, err := b.DeleteVolume(t.Context(), "admin", id); domain.KindOf(err) != domain.Conflict {
		t.Errorf("delete of a used volume = %v, want Conflict", err)
	}
	if task := b.wait(b.DeleteProfile(t.Context(), "admin", p.ID)); task.TaskState != domain.TaskCompleted {
		t.Fatalf("delete = %s %v", task.TaskState, task.TaskErrors)
	}
	h, err := b.state.ServerHardware.Get(t.Context(), strings.TrimPrefix(b.server, domain.ServerHardwares+"/"))
	fatal(t, err)
	if h.ServerProfile != "" || b.storage.volumes[id] == nil {
		t.Errorf("server has profile %q, volume kept %v; want none, true", h.ServerProfile, b.storage.volumes[id] != nil)
	}
	if task := b.wait(b.DeleteVolume(t.Context(), "admin", id)); task.TaskState != domain.TaskCompleted || b.storage.volumes[id] != nil ||
		task.Name != "Delete" || task.Title() != "Delete os volume" { // by its name HPE's Python client knows that there is nothing to get
		t.Errorf("second delete: task %s, volume kept %v", task.TaskState, b.storage.volumes[id] != nil)
	}
	if _, ok, err := b.state.Credentials.Get(t.Context(), id); ok || err != nil {
		t.Errorf("credentials of a destroyed volume: %v, %v", ok, err)
	}
}

func TestTwoProfilesCannotHaveOneServer(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	b.deploy("web1")
	_, err := b.CreateProfile(t.Context(), "admin", domain.ServerProfile{Resource: domain.Resource{Name: "q"}, ServerHardwareURI: b.server, OSDeploymentSettings: b.settings("web2")})
	if domain.KindOf(err) != domain.Conflict {
		t.Errorf("second profile = %v, want Conflict", err)
	}
	if _, err := b.state.ServerProfiles.ByName(t.Context(), "q"); domain.KindOf(err) != domain.NotFound {
		t.Errorf("a refused profile is stored: %v", err)
	}
}

func TestCaptureGeneralisesACopy(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	id := volumeOf(p)
	ctx := t.Context()
	ps, err := b.state.PlanScripts.Create(ctx, domain.PlanScript{Resource: domain.Resource{Name: "c"}, PlanType: "capture", Content: "plain..."})
	fatal(t, err)
	bp, err := b.state.BuildPlans.Create(ctx, domain.BuildPlan{Resource: domain.Resource{Name: "cb"}, OEBuildPlanType: "capture",
		BuildStep: []domain.BuildStep{{SerialNumber: "1", PlanScriptURI: ps.URI}}})
	fatal(t, err)
	var got string
	b.tasks = task.New(b.state.Tasks, slog.New(slog.DiscardHandler))
	b.tasks.Register(task.Kind{Name: "capture", Steps: []task.Step{{Name: "s", Do: func(ctx context.Context, r *task.Run) error {
		return b.Capture(ctx, r, id, bp.BuildPlanID, func(disk io.Reader, size int64) error {
			all, err := io.ReadAll(disk)
			got = string(all)
			return err
		})
	}}}})
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	captured, err := b.tasks.Submit(ctx, task.Request{Kind: "capture", Name: "Capture"})
	fatal(t, err)
	go func() { done <- b.tasks.Run(run) }()
	if end := b.wait(captured, nil); end.TaskState != domain.TaskCompleted {
		t.Fatalf("capture = %s %v", end.TaskState, end.TaskErrors)
	}
	stop()
	fatal(t, <-done)
	if !strings.HasPrefix(got, "plain...") || !strings.HasPrefix(string(b.storage.volumes[id]), "hello web1") || len(b.storage.volumes) != 1 {
		t.Errorf("captured %q, the volume holds %q, %d volumes", got[:8], b.storage.volumes[id][:10], len(b.storage.volumes))
	}
}
