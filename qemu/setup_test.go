package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// standIn is the part of an appliance's REST interface that the rig uses, in
// its factory state: its setup code is CODE-1.
func standIn(t *testing.T) (srv *httptest.Server, ca []byte) {
	mux := http.NewServeMux()
	srv = httptest.NewTLSServer(mux)
	t.Cleanup(srv.Close)
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	password := ""
	refuse := func(w http.ResponseWriter, status int, message string) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"errorCode": "E", "message": message, "recommendedActions": []string{"do better"}})
	}
	mux.HandleFunc("GET /rest/baystream/ca", func(w http.ResponseWriter, _ *http.Request) { w.Write(ca) })
	mux.HandleFunc("POST /rest/baystream/setup", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ SetupCode, UserName, Password string }
		json.NewDecoder(r.Body).Decode(&in)
		if in.SetupCode != "CODE-1" || password != "" {
			refuse(w, http.StatusForbidden, "wrong setup code")
			return
		}
		password = in.Password
	})
	mux.HandleFunc("POST /rest/login-sessions", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ UserName, Password string }
		json.NewDecoder(r.Body).Decode(&in)
		if password == "" || in.Password != password {
			refuse(w, http.StatusUnauthorized, "wrong password")
			return
		}
		fmt.Fprint(w, `{"sessionID":"token"}`)
	})
	mux.HandleFunc("POST /rest/golden-images", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Auth") != "token" || r.ContentLength < 0 {
			refuse(w, http.StatusUnauthorized, "no token, or no length")
			return
		}
		file, head, err := r.FormFile("file")
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		content, _ := io.ReadAll(file)
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"uri":"/rest/tasks/1","name":"%s %s %s","taskState":"Running"}`, r.FormValue("name"), head.Filename, content)
	})
	polls := 0
	mux.HandleFunc("GET /rest/tasks/1", func(w http.ResponseWriter, _ *http.Request) {
		polls++
		fmt.Fprintf(w, `{"uri":"/rest/tasks/1","taskState":"%s","percentComplete":%d}`, []string{"", "Running", "Completed"}[polls], polls*50)
	})
	mux.HandleFunc("GET /rest/tasks/2", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"uri":"/rest/tasks/2","name":"Create","taskState":"Error","taskErrors":[{"message":"pool full"}]}`)
	})
	return srv, ca
}

// factoryFrame is a frame without VMs whose appliance is a stand-in.
func factoryFrame(t *testing.T, srv *httptest.Server, console string) *Frame {
	t.Helper()
	dir := t.TempDir()
	vm, err := NewVM(VMConfig{Name: "a", Dir: dir, RunDir: shortDir(t)}, silent)
	must(t, err)
	t.Cleanup(vm.Close)
	vm.Console().add([]byte(console))
	f := &Frame{Number: 1, Serial: "VF0001", Bays: []*Bay{{VM: vm, Kind: ApplianceBay}}, restURL: srv.URL}
	f.rig = &rig{cfg: Config{Dir: dir}, frames: []*Frame{f}}
	return f
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vf")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func says(ca []byte, code string) string {
	block, _ := pem.Decode(ca)
	sum := sha256.Sum256(block.Bytes)
	return fmt.Sprintf("baystream: setup code %s\r\nbaystream: CA SHA-256 %s\r\nbaystream: REST ready https://192.0.2.10\r\n", code, hex.EncodeToString(sum[:]))
}

func TestSetupMakesTheAdministratorOnce(t *testing.T) {
	srv, ca := standIn(t)
	f := factoryFrame(t, srv, says(ca, "CODE-1"))
	// httptest's certificate is not for "baystream": everything up to the TLS
	// handshake with it is what this test can see.
	_, err := fetchCA(t.Context(), srv.URL, strings.Repeat("00", 32))
	if err == nil || !strings.Contains(err.Error(), "fingerprint") {
		t.Errorf("a wrong fingerprint: %v", err)
	}
	err = f.Setup(t.Context())
	if err == nil || !strings.Contains(err.Error(), "baystream") {
		t.Errorf("Setup with a certificate of another name = %v, want a refusal", err)
	}
	got, err := os.ReadFile(f.Access().CAFile)
	must(t, err)
	if diff := cmp.Diff(ca, got); diff != "" {
		t.Errorf("CA file (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(f.Access().PasswordFile); err == nil {
		t.Error("a password that is not valid was left as valid")
	}
}

func client(t *testing.T) *Client {
	t.Helper()
	srv, ca := standIn(t)
	c, err := NewClient(srv.URL, ca)
	must(t, err)
	c.http.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com" // httptest's certificate
	setup := map[string]string{"setupCode": "CODE-1", "userName": UserName, "password": "p"}
	must(t, c.Do(t.Context(), http.MethodPost, "/rest/baystream/setup", setup, nil))
	must(t, c.Login(t.Context(), UserName, "p"))
	return c
}

func TestClientUploadsAndWaits(t *testing.T) {
	c := client(t)
	file := filepath.Join(t.TempDir(), "disk.raw")
	must(t, os.WriteFile(file, []byte("content"), 0o600))
	var sent int64
	var task Task
	must(t, c.Upload(t.Context(), "/rest/golden-images", map[string]string{"name": "Debian"}, file, func(n, total int64) { sent = n }, &task))
	if task.Name != "Debian disk.raw content" || sent != 7 {
		t.Errorf("uploaded as %q, %d bytes reported", task.Name, sent)
	}
	var percents []int
	task, err := c.WaitTask(t.Context(), task, func(t Task) { percents = append(percents, t.Percent) })
	must(t, err)
	if diff := cmp.Diff([]int{0, 50, 100}, percents); diff != "" || task.State != "Completed" {
		t.Errorf("task ends %s, progress (-want +got):\n%s", task.State, diff)
	}
}

func TestClientErrorsSayWhatToDo(t *testing.T) {
	c := client(t)
	err := c.Login(t.Context(), UserName, "wrong")
	var refusal *RESTError
	if !errors.As(err, &refusal) || refusal.Status != http.StatusUnauthorized || !strings.Contains(err.Error(), "do better") {
		t.Errorf("Login = %v, want a RESTError 401 with the remedy", err)
	}
	if _, err := c.Run(t.Context(), http.MethodGet, "/rest/tasks/2", nil, nil); err == nil || !strings.Contains(err.Error(), "pool full") {
		t.Errorf("a task that failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.WaitTask(ctx, Task{State: "Running", URI: "/rest/tasks/1"}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("WaitTask = %v, want context.Canceled", err)
	}
}
