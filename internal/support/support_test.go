package support

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plant writes files below root.
func plant(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoSecretLeavesWithADump(t *testing.T) {
	root := t.TempDir()
	const key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAplanted01\n-----END PRIVATE KEY-----\n"
	tpg := "sys/kernel/config/target/iscsi/iqn.x/tpgt_1/"
	plant(t, root, map[string]string{
		"run/log/ring": "baystreamd: setup code ABCD-EFGH-2345\nbaystreamd: time=1 msg=\"log in\" password=planted02 auth: planted03xyz user=alice\n" +
			`{"userName":"bob","password":"planted04","sessionID":"planted05","note":"kept"}` + "\nCHAP of vol: planted06chap\n" + key +
			"https://user:planted07@host/x hash $argon2id$v=19$m=1,t=1,p=1$planted08$planted09\nfrom the domain: planted10domain\n",
		"data/log/volumes/v.log": "Secret=\"planted11 with blanks\" done\n",
		"data/tls/ca.key":        key, "data/etcd/wal": "planted12",
		tpg + "acls/iqn.y/auth/password": "planted06chap\n", tpg + "acls/iqn.y/auth/userid": "planted13user\n", tpg + "enable": "1\n",
		"proc/meminfo": "MemTotal: 1 kB\n",
	})
	var out bytes.Buffer
	err := Write(t.Context(), &out, Options{Root: root, State: "data", Version: "test", Secrets: []string{"planted10domain", "x"},
		Documents: []Document{
			{"daemon/health.json", func(context.Context) ([]byte, error) { return []byte(`{"status":"OK","token":"planted14"}`), nil }},
			{"daemon/broken.json", func(context.Context) ([]byte, error) { return nil, errors.New("no such thing, password: planted15") }},
		}})
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, out.Bytes())
	for name, text := range files {
		if strings.Contains(text, "planted") || strings.Contains(text, "ABCD-EFGH") {
			t.Errorf("%s gives a secret away:\n%s", name, text)
		}
	}
	for name, want := range map[string]string{
		"log/ring": "user=alice", "daemon/health.json": `"status":"OK"`, "kernel/target.txt": "iscsi/iqn.x/tpgt_1/enable: 1",
		"proc/meminfo": "MemTotal", "state/files.txt": "/tls/ca.key", "state/log/volumes/v.log": "done",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s = %q, want %q in it", name, files[name], want)
		}
	}
	var m Manifest
	if err := json.Unmarshal([]byte(files["manifest.json"]), &m); err != nil || m.Version != "test" || !strings.Contains(files["manifest.json"], "no such thing") {
		t.Errorf("manifest = %s, %v", files["manifest.json"], err)
	}
}

func TestDumpIsBounded(t *testing.T) {
	root := t.TempDir()
	plant(t, root, map[string]string{"run/log/ring": strings.Repeat("old\n", entryLimit/4) + "newest\n", "proc/meminfo": strings.Repeat("m", 1000), "proc/mounts": "kept out"})
	var out bytes.Buffer
	if err := Write(t.Context(), &out, Options{Root: root, State: "data", Limit: entryLimit + 500,
		Documents: []Document{{"big", func(context.Context) ([]byte, error) { return make([]byte, 100), nil }}}}); err != nil {
		t.Fatal(err)
	}
	files, total := unpack(t, out.Bytes()), 0
	for name, text := range files {
		if name != "manifest.json" {
			total += len(text)
		}
	}
	if total > entryLimit+500 || !strings.HasSuffix(files["log/ring"], "newest\n") || !strings.Contains(files["manifest.json"], `"cut": true`) {
		t.Errorf("%d bytes, the ring ends with %q; manifest %s", total, tailOf(files["log/ring"]), files["manifest.json"])
	}
}

func tailOf(s string) string { return s[max(0, len(s)-20):] }

func TestDumpPassesASerialLine(t *testing.T) {
	dump := bytes.Repeat([]byte{0, 1, 2, 250, 251}, 1000)
	var line bytes.Buffer
	line.WriteString("baystream> support-dump\n")
	if err := WriteSerial(&line, dump); err != nil {
		t.Fatal(err)
	}
	line.WriteString("baystream> \n")
	kept := bytes.ReplaceAll(line.Bytes(), []byte("\n"), []byte("\r\n"))
	if got, err := FromCapture(kept); err != nil || !bytes.Equal(got, dump) {
		t.Errorf("FromCapture = %d bytes, %v", len(got), err)
	}
	for name, broken := range map[string][]byte{
		"nothing": []byte("hello"), "cut off": kept[:len(kept)/2], "damaged": bytes.Replace(kept, []byte("AAEC"), []byte("AAED"), 1),
		"mixed": bytes.Replace(kept, []byte("AAEC"), []byte("[ 12.3] kernel: hello\n"), 1),
	} {
		if _, err := FromCapture(broken); err == nil {
			t.Errorf("%s: was taken for a dump", name)
		}
	}
}

func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range r.File {
		rc, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		rc.Close()
		files[f.Name] = string(text)
	}
	return files
}
