package bayctl

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// appliance answers with what it is told to, over TLS as an appliance does, and
// notes what it was asked.
type appliance struct {
	t       *testing.T
	answers map[string]string // by "METHOD /path"
	asked   []string
}

func newAppliance(t *testing.T, answers map[string]string) *appliance {
	t.Helper()
	a := &appliance{t: t, answers: answers}
	dir := t.TempDir()
	authority, err := pki.Open(filepath.Join(dir, "tls"), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Serve(); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Method + " " + r.URL.RequestURI()
		if r.Method == http.MethodGet {
			key = r.Method + " " + r.URL.Path
		}
		a.asked = append(a.asked, key)
		body, ok := answers[key]
		switch {
		case r.Header.Get("auth") != "token" && key != "POST /rest/login-sessions":
			w.WriteHeader(http.StatusUnauthorized)
			body = `{"message":"needs a session"}`
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			body = `{"message":"no such thing","recommendedActions":["Look elsewhere."]}`
		}
		_, _ = w.Write([]byte(body))
	}))
	srv.TLS = authority.TLS()
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, authority.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"BAYSTREAM_SERVER": srv.URL, "BAYSTREAM_CA": ca, "BAYSTREAM_TOKEN": "token", "BAYSTREAM_FRAME": "", "XDG_CONFIG_HOME": dir} {
		t.Setenv(k, v)
	}
	return a
}

func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, errOut bytes.Buffer
	err := Run(t.Context(), args, &out, &errOut)
	return out.String(), err
}

const none = `{"total":0,"members":[]}`

func TestJSONOutputIsValidAlsoWhenThereIsNothing(t *testing.T) {
	answers := map[string]string{
		"GET /rest/baystream/health": `{"status":"OK"}`, "GET /rest/baystream/hw": `{}`, "GET /rest/baystream/net": `{}`,
		"GET /rest/baystream/cluster": `{}`, "GET /rest/baystream/storage": `{}`,
	}
	for _, uri := range []string{domain.OSVolumes, domain.ServerHardwares, domain.ServerProfiles, domain.Tasks, domain.ArtifactBundles,
		domain.GoldenImages, domain.DeploymentPlans, domain.BuildPlans, domain.PlanScripts} {
		answers["GET "+uri] = none
	}
	newAppliance(t, answers)
	for _, cmd := range []string{"status", "hw", "net", "storage", "volumes", "artifacts", "servers", "profiles", "tasks"} {
		out, err := command(t, cmd, "-o", "json")
		var v any
		if err != nil || json.Unmarshal([]byte(out), &v) != nil || v == nil {
			t.Errorf("bayctl %s -o json = %q, %v; want JSON that is not null", cmd, out, err)
		}
		if out, err := command(t, cmd); err != nil || out == "" && cmd != "hw" {
			t.Errorf("bayctl %s = %q, %v", cmd, out, err)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	newAppliance(t, nil)
	if _, err := command(t, "hw"); err == nil || !strings.Contains(err.Error(), "no such thing") || !strings.Contains(err.Error(), "what to do: Look elsewhere.") {
		t.Errorf("refusal = %v", err)
	}
	t.Setenv("BAYSTREAM_TOKEN", "old")
	if _, err := command(t, "hw"); err == nil || !strings.Contains(err.Error(), "bayctl login") {
		t.Errorf("expired token = %v", err)
	}
	if _, err := command(t, "hw", "-o", "yaml"); err == nil || !strings.Contains(err.Error(), "table or json") {
		t.Errorf("unknown output = %v", err)
	}
	other := filepath.Join(t.TempDir(), "other.pem")
	authority, err := pki.Open(t.TempDir(), "other")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, authority.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := command(t, "hw", "--ca", other); err == nil || !strings.Contains(err.Error(), "not from the CA that bayctl knows") {
		t.Errorf("foreign CA = %v", err)
	}
}

func TestCompletionOffersWhatTheServerHas(t *testing.T) {
	newAppliance(t, map[string]string{
		"GET " + domain.DeploymentPlans: `{"members":[{"name":"Debian 12"},{"name":"RHEL"}]}`,
		"GET " + domain.ServerHardwares: `{"members":[{"name":"VF0001, bay 1"}]}`,
	})
	for want, args := range map[string][]string{
		"Debian 12\nRHEL\n": {"deploy", ""},
		"VF0001, bay 1\n":   {"deploy", "x", "--server-hardware", ""},
		"table\njson\n":     {"hw", "-o", ""},
		":4\n":              {"profiles", "delete", ""}, // is not answered: no names, no files
	} {
		out, err := command(t, append([]string{"__complete"}, args...)...)
		if err != nil || !strings.Contains(out, want) { // a required flag comes first
			t.Errorf("completion of %q = %q, %v; want %q", args, out, err, want)
		}
	}
}

func TestVolumesAreDeletedInTwoSteps(t *testing.T) {
	const a, b = domain.OSVolumes + "/a", domain.OSVolumes + "/b"
	task := `{"uri":"/rest/tasks/t","taskState":"Completed","name":"Delete OS volume","associatedResource":{"resourceName":"web"}}`
	app := newAppliance(t, map[string]string{
		"GET " + domain.OSVolumes:      `{"members":[{"name":"web","uri":"` + a + `","state":"Unassigned"},{"name":"web","uri":"` + b + `","state":"Trash"}]}`,
		"DELETE " + a + "?purge=false": task, "DELETE " + b + "?purge=true": task,
	})
	for _, args := range [][]string{{"volumes", "delete", "web"}, {"volumes", "delete", "web", "--purge"}} {
		if out, err := command(t, args...); err != nil || !strings.Contains(out, "done (web)") {
			t.Errorf("%q = %q, %v", args, out, err)
		}
	}
	if len(app.asked) != 4 {
		t.Errorf("asked %q", app.asked)
	}
	if _, err := command(t, "volumes", "delete", "nobody"); err == nil || !strings.Contains(err.Error(), "bayctl volumes") {
		t.Errorf("unknown volume = %v", err)
	}
}

func TestVolumeIsRestoredFromTheTrash(t *testing.T) {
	const a, b = domain.OSVolumes + "/a", domain.OSVolumes + "/b"
	newAppliance(t, map[string]string{
		"GET " + domain.OSVolumes:      `{"members":[{"name":"web","uri":"` + a + `","state":"Exported"},{"name":"web","uri":"` + b + `","state":"Trash"}]}`,
		"GET " + domain.ServerProfiles: `{"members":[{"name":"web","uri":"` + domain.ServerProfiles + `/p"}]}`,
		"PUT " + b + "/restore":        `{"uri":"/rest/tasks/t","taskState":"Completed","name":"Restore OS volume","associatedResource":{"resourceName":"web"}}`,
	})
	if out, err := command(t, "volumes", "restore", "web", "--profile", "web", "--force"); err != nil || !strings.Contains(out, "done (web)") {
		t.Errorf("restore = %q, %v", out, err)
	}
}

func TestFrameSessionsEndAndJSONIsOneDocument(t *testing.T) {
	const upload, extract = "POST " + domain.ArtifactBundles, "PUT " + domain.ArtifactBundles + "/b?extract=true&forceImport=false"
	task := `{"uri":"/rest/tasks/t","taskState":"Completed","name":"Add","associatedResource":{"resourceUri":"` + domain.ArtifactBundles + `/b"}}`
	app := newAppliance(t, map[string]string{
		"POST /rest/login-sessions": `{"sessionID":"token"}`, "DELETE /rest/login-sessions": "", upload: task, extract: task,
		"GET " + domain.Tasks: `{"members":[{"name":"Create","uri":"/rest/tasks/u","taskState":"Running"}]}`,
		"GET /rest/tasks/u":   `{"name":"Create","uri":"/rest/tasks/u","taskState":"Completed"}`,
	})
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	frame, err := json.Marshal(frameFile{RestURL: os.Getenv("BAYSTREAM_SERVER"), CAFile: os.Getenv("BAYSTREAM_CA"), User: "administrator", PasswordFile: file("password", "secret\n")})
	if err != nil {
		t.Fatal(err)
	}
	file("frame.json", string(frame))
	for _, tt := range []struct {
		args []string
		want int // documents in a list, 0 for one that is no list
	}{
		{[]string{"artifacts", "upload-bundle", file("b.zip", "zip"), "--extract"}, 2},
		{[]string{"artifacts", "upload-bundle", file("b.zip", "zip")}, 0},
		{[]string{"tasks", "-w"}, 1},
	} {
		app.asked = nil
		out, err := command(t, append(tt.args, "--frame", dir, "-o", "json")...)
		if err != nil {
			t.Errorf("%q = %v", tt.args, err)
			continue
		}
		var v any
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Errorf("%q: %v in\n%s", tt.args, err, out)
		}
		if l, _ := v.([]any); len(l) != tt.want {
			t.Errorf("%q prints a list of %d documents, want %d:\n%s", tt.args, len(l), tt.want, out)
		}
		if last := app.asked[len(app.asked)-1]; last != "DELETE /rest/login-sessions" {
			t.Errorf("%q ended with %s, not with its session", tt.args, last)
		}
	}
}

func TestBackupIsDownloadedAndRestored(t *testing.T) {
	const b = backupsURI + "/b"
	task := `{"uri":"/rest/tasks/t","taskState":"Completed","name":"Backup","associatedResource":{"resourceUri":"` + b + `"}}`
	app := newAppliance(t, map[string]string{"POST " + backupsURI: task, "GET " + backupsURI + "/archive/b": "zip", "POST " + backupsURI + "/archive": task, "PUT " + b: task})
	file := filepath.Join(t.TempDir(), "backup.zip")
	if _, err := command(t, "artifacts", "backup", file); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); string(got) != "zip" {
		t.Errorf("downloaded %q, %v", got, err)
	}
	if _, err := command(t, "artifacts", "backup", file); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("over an existing file: %v", err)
	}
	app.asked = nil
	if _, err := command(t, "artifacts", "restore", file); err != nil || len(app.asked) != 2 || app.asked[1] != "PUT "+b {
		t.Errorf("restore = %v, asked %q", err, app.asked)
	}
}
