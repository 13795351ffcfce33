package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"baystream/daemon/cluster"
	"baystream/daemon/deploy"
	"baystream/daemon/domain"
	"baystream/daemon/pool"
	"baystream/daemon/rest"
	"baystream/daemon/task"
)

// filling is the storage role over a pool of which only the figures are there.
type filling struct {
	*storageRole
	pool pool.Status
}

func (f *filling) Ready() error    { return nil }
func (f *filling) MayClone() error { return kinds(f.pool.Guard(0), "OS volume") }
func (f *filling) Create(_ context.Context, s deploy.VolumeSpec) (int64, error) {
	return s.Size, kinds(f.pool.Guard(0), "OS volume "+s.Name)
}
func (f *filling) Join(context.Context, string) error                 { return nil }
func (f *filling) Unexport(context.Context, string) error             { return nil }
func (f *filling) Delete(context.Context, string) error               { return nil }
func (f *filling) Sessions(context.Context, string) ([]string, error) { return nil, nil }

// client asks a server as an administrator does.
type client struct {
	t     *testing.T
	h     http.Handler
	token string
}

func (c *client) do(status int, method, path string, body any, out any) {
	c.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	r := httptest.NewRequest(method, path, bytes.NewReader(b))
	r.Header.Set("auth", c.token)
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, r)
	if w.Code != status {
		c.t.Fatalf("%s %s = %d %s, want %d", method, path, w.Code, w.Body, status)
	}
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			c.t.Fatal(err)
		}
	}
}

func TestPoolOver85PercentTakesNoServerButServesOn(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	node, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	state := cluster.NewStore(node.Client())
	engine := task.New(state.Tasks, log)
	role := &filling{storageRole: newStorageRole(&Daemon{}), pool: pool.Status{DataTotal: 100 << 30, DataUsed: 85 << 30, MetaTotal: 1 << 30}}
	deployer, err := deploy.New(deploy.Config{State: state, Storage: role, Plans: role, Tasks: engine, Logs: t.TempDir(), Netmask: func() string { return "" }, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	defer func() { cancel(); <-done }()
	c := &client{t: t, h: rest.New(rest.Config{Store: state, Deployer: deployer, Info: func() rest.Info { return rest.Info{} },
		Attributes: scriptAttributes, SetupCode: "ABCD-EFGH-2345", Log: log}).Handler()}
	who := map[string]string{"userName": "Administrator", "password": "correct horse battery", "setupCode": "ABCD-EFGH-2345"}
	c.do(201, "POST", "/rest/baystream/setup", who, nil)
	var session struct{ SessionID string }
	c.do(200, "POST", "/rest/login-sessions", who, &session)
	c.token = session.SessionID

	plan, err := state.DeploymentPlans.Create(ctx, domain.DeploymentPlan{Resource: domain.Resource{Name: "empty"},
		CustomAttributes: []domain.Attribute{{Name: "VolumeSize", Type: "number", Value: "64", Constraints: "{}"}}})
	if err != nil {
		t.Fatal(err)
	}
	profile := func(name string) map[string]any {
		return map[string]any{"name": name, "osDeploymentSettings": map[string]any{"osDeploymentPlanUri": domain.OSDeploymentPlans + "/" + plan.ID}}
	}
	var accepted, ended domain.Task
	c.do(202, "POST", "/rest/server-profiles", profile("at the limit"), &accepted)
	for !ended.Ended() {
		c.do(200, "GET", accepted.URI, nil, &ended)
	}
	if ended.TaskState != domain.TaskCompleted {
		t.Errorf("at 85 %%: task %s %v, want Completed", ended.TaskState, ended.TaskErrors)
	}

	role.pool.DataUsed++
	var refused domain.TaskError
	c.do(507, "POST", "/rest/server-profiles", profile("beyond"), &refused)
	if refused.ErrorCode != "BAYSTREAM_NO_ROOM" || !strings.Contains(refused.Message, "limit 85 %") || len(refused.RecommendedActions) == 0 {
		t.Errorf("over 85 %%: %+v, want the figures and what to do", refused)
	}
	if _, err := state.ServerProfiles.ByName(ctx, "beyond"); domain.KindOf(err) != domain.NotFound {
		t.Errorf("the refused profile: %v, want NotFound", err)
	}
	// What is there stays changeable.
	p, err := state.ServerProfiles.ByName(ctx, "at the limit")
	if err != nil {
		t.Fatal(err)
	}
	c.do(202, "DELETE", p.URI, nil, nil)
}
