package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/journal"
	"baystream/internal/password"
)

// rig is a server over a real store, with a Library and a Deployer that note
// what they are asked and do it at once.
type rig struct {
	t     *testing.T
	srv   *Server
	store *cluster.Store
	fake  *fake
	token string
	now   time.Time
	mu    sync.Mutex
	log   bytes.Buffer
}

const (
	rigUser     = "Administrator"
	rigPassword = "correct horse battery"
	rigCode     = "ABCD-EFGH-2345"
)

func (g *rig) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.Write(p)
}

func (g *rig) logged() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.String()
}

func (g *rig) clock() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

func (g *rig) advance(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = g.now.Add(d)
}

// newRig makes a rig before its first contact.
func newRig(t *testing.T) *rig {
	t.Helper()
	g := &rig{t: t, now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
	log := slog.New(slog.NewTextHandler(g, nil))
	node, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	g.store = cluster.NewStore(node.Client())
	g.fake = &fake{store: g.store}
	g.srv = New(Config{
		Store: g.store, Library: g.fake, Deployer: g.fake, Appliance: g.fake,
		Info: func() Info {
			return Info{Name: "CZ1, appliance 1", Frame: "CZ1", Bay: 1, Serial: "A1", UUID: "11111111-2222-3333-4444-555555555555",
				Version: "0.1", Management: "192.0.2.10", Portal: "198.51.100.3", IPv6: "fe80::1"}
		},
		Attributes: attributes, CA: []byte("-----BEGIN CERTIFICATE-----\n"), SetupCode: rigCode, Log: log, Now: g.clock,
	})
	g.srv.hasher.cost = password.Cost{Time: 1, Memory: 64} // cheap, for tests have many log-ins
	return g
}

// readyRig is a rig with an administrator who is logged in.
func readyRig(t *testing.T) *rig {
	t.Helper()
	g := newRig(t)
	g.want(201, "POST", "/rest/baystream/setup", map[string]string{"setupCode": rigCode, "userName": rigUser, "password": rigPassword})
	g.token = g.login(rigUser, rigPassword)
	return g
}

func (g *rig) login(user, password string) string {
	g.t.Helper()
	a := g.want(200, "POST", "/rest/login-sessions", map[string]string{"userName": user, "password": password, "authLoginDomain": "LOCAL"})
	return a.str("sessionID")
}

// attributes is a small stand-in for plan.Attributes.
func attributes(content string) ([]domain.ScriptAttribute, error) {
	var out []domain.ScriptAttribute
	for _, m := range regexp.MustCompile(`@([A-Za-z_][A-Za-z0-9_.]*)(:[^@]*)?@`).FindAllStringSubmatch(content, -1) {
		out = append(out, domain.ScriptAttribute{Name: m[1], Value: strings.TrimPrefix(m[2], ":"), HasDefault: m[2] != ""})
	}
	return out, nil
}

// answer is what came back.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	raw    string
	body   any
}

func (a answer) at(path string) any {
	v := a.body
	for _, step := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

func (a answer) str(path string) string {
	a.t.Helper()
	s, ok := a.at(path).(string)
	if !ok {
		a.t.Fatalf("answer has no text at %s: %s", path, a.raw)
	}
	return s
}

func (a answer) names() string {
	a.t.Helper()
	list, ok := a.at("members").([]any)
	if !ok {
		a.t.Fatalf("answer has no members: %s", a.raw)
	}
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprint(m.(map[string]any)["name"]))
	}
	return strings.Join(out, " ")
}

// do sends a request; body is nil, a string, a reader, or encoded as JSON.
func (g *rig) do(method, target string, body any, headers ...string) answer {
	g.t.Helper()
	var r io.Reader = http.NoBody
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case io.Reader:
		r = b
	default:
		j, err := json.Marshal(b)
		if err != nil {
			g.t.Fatal(err)
		}
		r = bytes.NewReader(j)
	}
	req := httptest.NewRequest(method, target, r)
	if g.token != "" {
		req.Header.Set("auth", g.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	g.srv.Handler().ServeHTTP(w, req)
	a := answer{t: g.t, status: w.Code, header: w.Header(), raw: w.Body.String()}
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(w.Body.Bytes(), &a.body); err != nil {
			g.t.Errorf("%s %s: body is not JSON: %v: %s", method, target, err, a.raw)
		}
	}
	return a
}

// want sends a request and checks the status; errors must have the form of
// the interface.
func (g *rig) want(status int, method, target string, body any, headers ...string) answer {
	g.t.Helper()
	a := g.do(method, target, body, headers...)
	if a.status != status {
		g.t.Errorf("%s %s = %d %s, want %d", method, target, a.status, a.raw, status)
	}
	if a.status >= 400 {
		for _, member := range []string{"errorCode", "message", "details", "errorSource"} {
			if s, _ := a.at(member).(string); s == "" {
				g.t.Errorf("%s %s: error lacks %s: %s", method, target, member, a.raw)
			}
		}
		for _, member := range []string{"recommendedActions", "nestedErrors"} {
			if _, ok := a.at(member).([]any); !ok {
				g.t.Errorf("%s %s: error lacks the list %s: %s", method, target, member, a.raw)
			}
		}
	}
	return a
}

// refused is want for errors whose message must hold the texts.
func (g *rig) refused(status int, method, target string, body any, texts ...string) {
	g.t.Helper()
	a := g.want(status, method, target, body)
	for _, text := range texts {
		if !strings.Contains(a.raw, text) {
			g.t.Errorf("%s %s: error does not say %q: %s", method, target, text, a.raw)
		}
	}
}

// fake is Library, Deployer and Appliance. Its tasks are complete at once.
type fake struct {
	logTo journal.Settings
	store *cluster.Store
	calls []string
	got   []byte // of the last upload
	fail  error
}

func (f *fake) task(ctx context.Context, name, uri string, format string, args ...any) (domain.Task, error) {
	f.calls = append(f.calls, name+" "+fmt.Sprintf(format, args...))
	if f.fail != nil {
		return domain.Task{}, f.fail
	}
	return f.store.Tasks.Create(ctx, domain.Task{
		Resource: domain.Resource{Name: name, Status: domain.StatusOK}, TaskState: domain.TaskCompleted, PercentComplete: 100,
		AssociatedResource: domain.AssociatedResource{ResourceURI: uri}, Data: map[string]string{"baystream.kind": "x", "shown": "yes"},
	})
}

func (f *fake) last() string {
	if len(f.calls) == 0 {
		return ""
	}
	return f.calls[len(f.calls)-1]
}

func (f *fake) take(r io.Reader) error {
	var err error
	f.got, err = io.ReadAll(r)
	return err
}

func (f *fake) UploadBundle(ctx context.Context, owner, filename string, r io.Reader) (domain.Task, error) {
	if err := f.take(r); err != nil {
		return domain.Task{}, err
	}
	b, err := f.store.ArtifactBundles.Create(ctx, domain.ArtifactBundle{Resource: domain.Resource{Name: filename, Status: "OK"}})
	if err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Upload", b.URI, "%s %s %d", owner, filename, len(f.got))
}

func (f *fake) CreateBundle(ctx context.Context, owner string, req CreateBundleRequest) (domain.Task, error) {
	b, err := f.store.ArtifactBundles.Create(ctx, domain.ArtifactBundle{Resource: domain.Resource{Name: req.Name, Status: "OK"}})
	if err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Create", b.URI, "%s %d", req.Name, len(req.PlanScripts))
}

func (f *fake) ExtractBundle(ctx context.Context, owner, id string, force bool) (domain.Task, error) {
	return f.task(ctx, "Extract", domain.ArtifactBundles+"/"+id, "%v", force)
}

func (f *fake) RenameBundle(ctx context.Context, owner, id, name, description string) (domain.Task, error) {
	if _, err := f.store.ArtifactBundles.Update(ctx, id, func(b *domain.ArtifactBundle) error { b.Name = name; return nil }); err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Rename", domain.ArtifactBundles+"/"+id, "%s %s", name, description)
}

func (f *fake) DeleteBundle(ctx context.Context, owner, id string) (domain.Task, error) {
	if err := f.store.ArtifactBundles.Delete(ctx, id); err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Delete", domain.ArtifactBundles+"/"+id, "bundle")
}

func (f *fake) CreateBackup(ctx context.Context, owner string) (domain.Task, error) {
	return f.backup(ctx, "Create backup", owner)
}

func (f *fake) UploadBackup(ctx context.Context, owner, filename string, r io.Reader) (domain.Task, error) {
	if err := f.take(r); err != nil {
		return domain.Task{}, err
	}
	return f.backup(ctx, "Add backup", owner+" "+filename)
}

func (f *fake) backup(ctx context.Context, name, note string) (domain.Task, error) {
	b := domain.ArtifactBundle{Resource: domain.Resource{Name: name}, BackupService: true}
	b.SetID(domain.NewID())
	if _, err := f.store.ArtifactBundles.Create(ctx, b); err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, name, backupsURI+"/"+b.ArtifactsBundleID, "%s", note)
}

func (f *fake) RestoreBackup(ctx context.Context, owner, id string) (domain.Task, error) {
	return f.task(ctx, "Restore backup", backupsURI+"/"+id, "restore %s", id)
}

type file struct{ *strings.Reader }

func (file) Close() error { return nil }

func (f *fake) OpenBundle(ctx context.Context, id string) (io.ReadSeekCloser, string, error) {
	b, err := f.store.ArtifactBundles.Get(ctx, id)
	return file{strings.NewReader("PK zip")}, b.Name + ".zip", err
}

func (f *fake) UploadGoldenImage(ctx context.Context, owner, name, description, filename string, r io.Reader) (domain.Task, error) {
	if err := f.take(r); err != nil {
		return domain.Task{}, err
	}
	g, err := f.store.GoldenImages.Create(ctx, domain.GoldenImage{Resource: domain.Resource{Name: name, Description: description, Status: "OK"}})
	if err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Upload", g.URI, "%s|%s|%s|%d", name, description, filename, len(f.got))
}

func (f *fake) CaptureGoldenImage(ctx context.Context, owner string, req CaptureRequest) (domain.Task, error) {
	return f.task(ctx, "Capture", req.OSVolumeURI, "%s", req.Name)
}

func (f *fake) UpdateGoldenImage(ctx context.Context, owner string, g domain.GoldenImage) (domain.Task, error) {
	return f.task(ctx, "Update", g.URI, "%s", g.Name)
}

func (f *fake) DeleteGoldenImage(ctx context.Context, owner, id string) (domain.Task, error) {
	if err := f.store.GoldenImages.Delete(ctx, id); err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Delete", domain.GoldenImages+"/"+id, "image")
}

func (f *fake) OpenGoldenImage(ctx context.Context, id string) (io.ReadCloser, string, error) {
	_, err := f.store.GoldenImages.Get(ctx, id)
	return io.NopCloser(strings.NewReader("PK image")), "image ü.zip", err
}

func (f *fake) CreateProfile(ctx context.Context, owner string, p domain.ServerProfile) (domain.Task, error) {
	p, err := f.store.ServerProfiles.Create(ctx, p)
	if err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Create", p.URI, "profile %s by %s", p.Name, owner)
}

func (f *fake) UpdateProfile(ctx context.Context, owner string, p domain.ServerProfile) (domain.Task, error) {
	if _, err := f.store.ServerProfiles.Replace(ctx, p, ""); err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Update", p.URI, "profile %s", p.Name)
}

func (f *fake) DeleteProfile(ctx context.Context, owner, id string) (domain.Task, error) {
	if err := f.store.ServerProfiles.Delete(ctx, id); err != nil {
		return domain.Task{}, err
	}
	return f.task(ctx, "Delete", domain.ServerProfiles+"/"+id, "profile")
}

func (f *fake) VolumeLog(ctx context.Context, id string) (io.ReadCloser, error) {
	if !domain.ValidUUID(id) {
		all, err := f.store.OSVolumes.List(ctx)
		i := slices.IndexFunc(all, func(v domain.OSVolume) bool { return strings.EqualFold(v.Name, id) })
		if i < 0 {
			return nil, errors.Join(err, domain.Errorf(domain.NotFound, "OS volume "+id, "has no log"))
		}
		id = all[i].OEVolumeID
	}
	return io.NopCloser(strings.NewReader("part 1 of " + id)), nil
}

func (f *fake) VolumeStorage(ctx context.Context, id string) (any, error) {
	return map[string]any{"provisionedBytes": 1}, nil
}

func (f *fake) DeleteVolume(ctx context.Context, owner, id string) (domain.Task, error) {
	return f.task(ctx, "Delete", domain.OSVolumes+"/"+id, "volume")
}

func (f *fake) RestoreVolume(ctx context.Context, owner, id, profileURI string, force bool) (domain.Task, error) {
	return f.task(ctx, "Restore", domain.OSVolumes+"/"+id, "for %s %v", profileURI, force)
}

func (f *fake) Health(context.Context) domain.Health {
	return domain.Health{Status: "Warning", Appliance: domain.Identity{Name: "CZ1, appliance 1"}, Parts: []domain.HealthPart{
		{Name: "network", Status: "OK", Detail: "portal 198.51.100.3"},
		{Name: "data disk", Status: "Warning", Detail: "no disk", Remedy: "Insert a blank disk."},
		{Name: "storage", Status: "Warning", Detail: "OS volume of Alice: stuck", Remedy: "See bayctl storage."},
	}}
}
func (f *fake) Inventory(context.Context) any { return map[string]string{"part": "hw"} }
func (f *fake) Network(context.Context) any   { return map[string]string{"part": "net"} }
func (f *fake) Storage(context.Context) any   { return map[string]string{"part": "storage"} }
func (f *fake) Cluster(context.Context) any   { return map[string]string{"part": "cluster"} }

func (f *fake) SupportDump(_ context.Context, w io.Writer, limit int64) error {
	_, err := fmt.Fprintf(w, "PK dump of %d", limit)
	return err
}

func (f *fake) Logs(_ context.Context, q LogQuery) (io.ReadCloser, error) {
	if q.JSON {
		return file{strings.NewReader(fmt.Sprintf(`{"lines":%d,"follow":%v}`, q.Lines, q.Follow))}, nil
	}
	return file{strings.NewReader(fmt.Sprintf("%d lines\n", q.Lines))}, nil
}

func (f *fake) Syslog(context.Context) (journal.Settings, error) { return f.logTo, nil }

func (f *fake) SetSyslog(_ context.Context, s journal.Settings) error {
	f.logTo = s
	return nil
}
