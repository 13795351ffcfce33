package golden

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestCacheKeyFollowsTheFiles(t *testing.T) {
	tree := func(text string) fs.FS { return fstest.MapFS{"rootfs/late/etc/hostname": {Data: []byte(text)}} }
	a, err := cacheKey(tree("a"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := cacheKey(tree("a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := cacheKey(tree("b"))
	if err != nil {
		t.Fatal(err)
	}
	if a != again || a == b {
		t.Errorf("keys %s, %s for the same files and %s for others", a, again, b)
	}
}

func TestSecondBuildIsTheCachedFile(t *testing.T) {
	dir := t.TempDir()
	key, err := cacheKey(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "debian-12-"+key+".raw.zst"), []byte("image"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	for range 2 {
		var done float64
		if err := Debian(t.Context(), dir, out, func(_ string, d float64) { done = d }); err != nil {
			t.Fatalf("Debian: %v", err)
		}
		if b, err := os.ReadFile(out); string(b) != "image" || err != nil || done != 1 {
			t.Errorf("image %q, %v, progress %v", b, err, done)
		}
	}
}

func TestLaidFilesAreRunnableWhenTheyAreScripts(t *testing.T) {
	root := t.TempDir()
	files := fstest.MapFS{
		"x/usr/lib/script": {Data: []byte("#!/bin/sh\n")},
		"x/etc/setting":    {Data: []byte("a=b\n")},
	}
	if err := layFiles(files, "x", root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"usr/lib/script": 0o755, "etc/setting": 0o644} {
		if st, err := os.Stat(filepath.Join(root, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, st, err, want)
		}
	}
}

// scripts are the shell programs of the image.
func scripts(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir("rootfs", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if strings.HasPrefix(string(b), "#!") {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestScriptsParse(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh on this machine")
	}
	all := scripts(t)
	if len(all) != 3 {
		t.Errorf("scripts %v, want 3", all)
	}
	for _, file := range all {
		if out, err := exec.Command(sh, "-n", file).CombinedOutput(); err != nil {
			t.Errorf("sh -n %s: %v\n%s", file, err, out)
		}
	}
}

func TestPlanScriptWritesWhatTheImageReads(t *testing.T) {
	b, err := os.ReadFile("rootfs/late/usr/lib/baystream/personality")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range Attributes {
		if !strings.Contains(PlanScript, "@"+a.Name+"@") {
			t.Errorf("PlanScript does not use the attribute %s", a.Name)
		}
	}
	for line := range strings.Lines(PlanScript) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "upload -<<END ")
		if !ok {
			continue
		}
		dir, name := filepath.Split(path)
		if !strings.Contains(string(b), "$esp"+strings.TrimSuffix(dir, "/")) || !strings.Contains(string(b), name) {
			t.Errorf("the image does not read %s", path)
		}
	}
}

func TestFinishLeavesNoIdentity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives files to the user admin, which needs root")
	}
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/bash\n", "etc/shadow": "root:*::\n", "etc/group": "root:x:0:\n", "etc/gshadow": "root:*::\n",
		"etc/skel/.bashrc": "", "etc/skel/.profile": "", "etc/machine-id": "0123\n", "etc/ssh/ssh_host_rsa_key": "secret",
		"etc/resolv.conf": "nameserver 192.0.2.1\n", "etc/systemd/system/multi-user.target.wants/ssh.service": "",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := finish(root); err != nil {
		t.Fatalf("finish: %v", err)
	}
	for _, gone := range []string{"etc/ssh/ssh_host_rsa_key", "etc/resolv.conf", "etc/systemd/system/multi-user.target.wants/ssh.service"} {
		if _, err := os.Lstat(filepath.Join(root, gone)); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", gone, err)
		}
	}
	if id, err := os.ReadFile(filepath.Join(root, "etc/machine-id")); len(id) != 0 || err != nil {
		t.Errorf("machine-id %q, %v, want an empty file", id, err)
	}
	for link, want := range map[string]string{
		"etc/systemd/system/apt-daily.timer":                                    "/dev/null",
		"etc/systemd/system/sockets.target.wants/ssh.socket":                    "/lib/systemd/system/ssh.socket",
		"etc/systemd/system/sysinit.target.wants/baystream-personality.service": "/etc/systemd/system/baystream-personality.service",
	} {
		if got, err := os.Readlink(filepath.Join(root, link)); got != want {
			t.Errorf("%s -> %s, %v, want %s", link, got, err, want)
		}
	}
}

func TestWatchCountsAndKeepsTheEnd(t *testing.T) {
	var last float64
	out := "I: start\nGet:1 somewhere\nUnpacking a\nSetting up a\n" + strings.Repeat("noise\n", 20) + "E: the end\n"
	tail := watch(strings.NewReader(out), func(d float64) { last = d })
	if last != 3.0/expectedLines {
		t.Errorf("progress %v, want %v", last, 3.0/expectedLines)
	}
	if len(tail) != 15 || tail[14] != "E: the end" {
		t.Errorf("tail %q", tail)
	}
}

func TestAptSources(t *testing.T) {
	const vendor = "Types: deb\nURIs: https://packages.example/node\nSuites: bookworm\nComponents: main\nSigned-By: /usr/share/keyrings/vendor.gpg\n"
	const deb822 = "# comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates bookworm-backports\n" +
		"Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n" +
		"Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n" +
		"Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n"
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  []string
		fails bool
	}{
		{"deb822", map[string]string{"sources.list.d/debian.sources": deb822, "sources.list.d/vendor.sources": vendor}, []string{
			"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main",
			"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm-updates main",
			"deb http://mirror.example/debian-security bookworm-security main",
		}, false},
		{"one line", map[string]string{"sources.list": "# old\ndeb [arch=amd64] http://mirror.example/debian/ bookworm main non-free # end\n" +
			"deb-src http://mirror.example/debian bookworm main\ndeb http://vendor.example/repo bookworm main\n" +
			"deb [signed-by=/k/vendor.gpg] http://vendor.example/debian bookworm main\n"},
			[]string{"deb [arch=amd64] http://mirror.example/debian/ bookworm main"}, false},
		{"twice the same", map[string]string{"sources.list": "deb http://mirror.example/debian bookworm main\n",
			"sources.list.d/a.list": "deb  http://mirror.example/debian  bookworm  main\n"},
			[]string{"deb http://mirror.example/debian bookworm main"}, false},
		{"another release", map[string]string{"sources.list": "deb http://mirror.example/debian trixie main\n"}, nil, true},
		{"none", nil, nil, true},
	} {
		root := t.TempDir()
		for name, text := range tc.files {
			file := filepath.Join(root, "etc/apt", name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := aptSources(root)
		if (err != nil) != tc.fails {
			t.Errorf("%s: aptSources: %v", tc.name, err)
		}
		got := slices.DeleteFunc(strings.Split(text, "\n"), func(s string) bool { return s == "" })
		if diff := cmp.Diff(tc.want, got); !tc.fails && diff != "" {
			t.Errorf("%s: aptSources (-want +got):\n%s", tc.name, diff)
		}
	}
}

// TestPersonalityReadsProperties runs the functions of the real script.
func TestPersonalityReadsProperties(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh on this machine")
	}
	b, err := os.ReadFile("rootfs/late/usr/lib/baystream/personality")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "property() {")
	text, _, ok := strings.Cut(text, "\n}\n")
	if !ok {
		t.Fatal("the script has no function property")
	}
	for in, want := range map[string]string{
		"node-7\n": "node-7\n", "node-7": "node-7\n", "\r\n  node-7 \r\n": "node-7\n", "a b\nc\n": "a b\n",
		`back\slash` + "\n": `back\slash` + "\n", "\n\n": "", "": "",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "p"), []byte(in), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(sh, "-c", "src=$1; cr=$(printf '\\r'); property() {"+text+"\n}; property p; property missing", "sh", dir).Output()
		if string(out) != want || err != nil {
			t.Errorf("property of %q = %q, %v, want %q", in, out, err, want)
		}
	}
}
