package artifact

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func reader(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

func sampleBundle() *Bundle {
	attr := CustomAttribute{ID: "a1", Name: "Host", Type: "hostname", Value: "web", Constraints: `{"helpText":"x"}`, Editable: true, Visible: true}
	return &Bundle{
		Name: "sample", Description: "two\nlines", ReadOnly: true, Created: time.Date(2026, 3, 4, 5, 6, 7, 8e6, time.UTC),
		PlanScripts:     []PlanScript{{ID: "p1", Name: "set name", PlanType: "deploy", Content: "echo @Host@\n", HPProvided: true}},
		BuildPlans:      []BuildPlan{{ID: "b1", Name: "deploy it", Type: "deploy", Steps: []BuildStep{{SerialNumber: "1", PlanScriptName: "set name", PlanScriptURI: "/rest/plan-scripts/p1"}}, CustomAttributes: []CustomAttribute{attr}}},
		DeploymentPlans: []DeploymentPlan{{ID: "d1", Name: "web server", BuildPlan: "deploy it", GoldenImage: "golden", CustomAttributes: []CustomAttribute{attr}}, {ID: "d2", Name: "empty", BuildPlan: "deploy it"}},
		GoldenImages:    []GoldenImage{{ID: "g1", Name: "golden", BundleName: "sample", ReadOnly: true, PayloadSize: 11, Open: reader("image bytes")}},
	}
}

func TestBundleRoundTrip(t *testing.T) {
	want := sampleBundle()
	var buf bytes.Buffer
	if err := WriteBundle(t.Context(), &buf, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadBundle(t.Context(), bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	want.Description = "two lines" // the manifest has one line for it
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(GoldenImage{}, "Open"), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("bundle after writing and reading (-want +got):\n%s", diff)
	}
	rc, err := got.GoldenImages[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if b, err := io.ReadAll(rc); string(b) != "image bytes" || err != nil {
		t.Errorf("image = %q, %v", b, err)
	}
	z, _ := zip.NewReader(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if last := z.File[len(z.File)-1].Name; last != sha256Name {
		t.Errorf("last entry is %s, want the sums", last)
	}
}

// entry is one file of a hand-made zip.
type entry struct {
	name string
	data string
	mode fs.FileMode
}

// handmade packs entries, with a manifest and right sums unless they bring
// their own.
func handmade(t testing.TB, entries ...entry) []byte {
	t.Helper()
	has := map[string]bool{}
	sums := ""
	for _, e := range entries {
		has[e.name] = true
	}
	if !has[manifestName] {
		entries = append(entries, entry{name: manifestName, data: "Artifact Name:made by hand\nDescription:d\nRead Only:false\nTime Stamp:?\nArtifact Type:USER"})
	}
	for _, e := range entries {
		sums += fmt.Sprintf("%s\t%x\n", e.name, sha256.Sum256([]byte(e.data)))
	}
	if !has[sha256Name] {
		entries = append(entries, entry{name: sha256Name, data: sums + sha256Name + "\t00\n"})
	}
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, e := range entries {
		if e.name == "-" {
			continue
		}
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		if e.mode != 0 {
			h.SetMode(e.mode)
		}
		w, err := z.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestReadRefusesBadBundles(t *testing.T) {
	script := entry{name: "p1_planscript.json", data: `{"id":"p1","name":"one","content":"echo"}`}
	image := entry{name: "g_goldenimage.json", data: `{"id":"g","name":"golden"}`}
	good := handmade(t, script)
	overlapping := func() []byte { // two directory entries for the same bytes
		b := bytes.Clone(good)
		for i := range b { // the second header's offset becomes the first's
			if bytes.HasPrefix(b[i:], []byte("PK\x01\x02")) && bytes.HasPrefix(b[i+46:], []byte(manifestName)) {
				copy(b[i+42:i+46], []byte{0, 0, 0, 0})
			}
		}
		return b
	}()
	for _, tt := range []struct {
		name  string
		file  []byte
		kind  error
		entry string
	}{
		{"no zip", []byte("hello"), ErrCorrupt, ""},
		{"cut", good[:len(good)-30], ErrCorrupt, ""},
		{"zip slip", handmade(t, entry{name: "../../etc/passwd"}), ErrUnsafe, "../../etc/passwd"},
		{"absolute", handmade(t, entry{name: "/etc/passwd"}), ErrUnsafe, "/etc/passwd"},
		{"folder", handmade(t, entry{name: "a/b_planscript.json"}), ErrUnsafe, "a/b_planscript.json"},
		{"folder entry", handmade(t, entry{name: "a/"}), ErrUnsafe, "a/"},
		{"backslash", handmade(t, entry{name: `..\x`}), ErrUnsafe, `..\x`},
		{"dots", handmade(t, entry{name: ".."}), ErrUnsafe, ".."},
		{"control character", handmade(t, entry{name: "a\x1b[2J"}), ErrUnsafe, "a\x1b[2J"},
		{"symlink", handmade(t, entry{name: "link", data: "/etc/passwd", mode: fs.ModeSymlink | 0o777}), ErrUnsafe, "link"},
		{"device", handmade(t, entry{name: "dev", mode: fs.ModeDevice | 0o600}), ErrUnsafe, "dev"},
		{"same bytes twice", overlapping, ErrUnsafe, ""},
		{"twice", handmade(t, script, script), ErrDuplicate, script.name},
		{"ratio", handmade(t, entry{name: "x", data: strings.Repeat("\x00", 4<<20)}), ErrTooLarge, "x"},
		{"huge description", handmade(t, entry{name: "x_planscript.json", data: strings.Repeat("ab\x01", 2<<20)}), ErrTooLarge, "x_planscript.json"},
		{"no manifest", handmade(t, entry{name: manifestName + "x"}, entry{name: manifestName, data: ""}), ErrCorrupt, manifestName},
		{"manifest without name", handmade(t, entry{name: manifestName, data: "Description:x"}), ErrCorrupt, manifestName},
		{"wrong sum", handmade(t, script, entry{name: sha256Name, data: script.name + "\t" + strings.Repeat("0", 64)}), ErrChecksum, ""},
		{"no sum for an entry", handmade(t, script, entry{name: sha256Name, data: ""}), ErrChecksum, ""},
		{"sum of an absent entry", handmade(t, entry{name: "-"}), ErrMissing, "-"},
		{"sum file is noise", handmade(t, entry{name: sha256Name, data: "hello"}), ErrCorrupt, sha256Name},
		{"sum is short", handmade(t, entry{name: sha256Name, data: "a\tff"}), ErrCorrupt, sha256Name},
		{"no JSON", handmade(t, entry{name: "x_buildplan.json", data: "{"}), ErrCorrupt, "x_buildplan.json"},
		{"wrong JSON", handmade(t, entry{name: "x_buildplan.json", data: `{"name":{"a":1}}`}), ErrCorrupt, "x_buildplan.json"},
		{"no name", handmade(t, entry{name: "x_planscript.json", data: `{"id":"x"}`}), ErrCorrupt, "x_planscript.json"},
		{"image without payload", handmade(t, image), ErrMissing, image.name},
		{"two scripts of one name", handmade(t, script, entry{name: "p2_planscript.json", data: `{"id":"p2","name":"one"}`}), ErrDuplicate, "one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := BundleReader{File: "up.zip"}.Read(t.Context(), bytes.NewReader(tt.file), int64(len(tt.file)))
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, tt.kind) || tt.entry != "" && e.Entry != tt.entry {
				t.Fatalf("Read = %v, want kind %v, entry %q", err, tt.kind, tt.entry)
			}
			if e.Object != "bundle up.zip" || e.Remedy == "" || e.Reason == "" {
				t.Errorf("error %+v lacks the file, a reason or a remedy", e)
			}
		})
	}
}

func TestReadStopsLyingEntries(t *testing.T) {
	file := handmade(t, entry{name: "x_planscript.json", data: `{"name":"x","content":"` + strings.Repeat("a", 100000) + `"}`})
	br := BundleReader{Limits: Limits{JSON: 1000}}
	if _, err := br.Read(t.Context(), bytes.NewReader(file), int64(len(file))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Read under a limit of 1000 bytes = %v, want ErrTooLarge", err)
	}
	br.Limits = Limits{Entries: 2}
	if _, err := br.Read(t.Context(), bytes.NewReader(file), int64(len(file))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Read under a limit of 2 entries = %v, want ErrTooLarge", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadBundle(ctx, bytes.NewReader(file), int64(len(file))); !errors.Is(err, context.Canceled) {
		t.Errorf("Read under a cancelled context = %v", err)
	}
}

func TestReadIsLenientWhereBundlesDiffer(t *testing.T) {
	file := handmade(t,
		entry{name: "b_buildplan.json", data: `{"name":"b","unknown":[{}],"buildStep":[{"serialNumber":2}],"customAttributes":[{"name":"n","value":null},{"name":"m","value":7,"constraints":{"minimum":1}}]}`},
		entry{name: "README", data: "hello"},
	)
	b, err := ReadBundle(t.Context(), bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	want := []BuildPlan{{ID: "b", Name: "b", Steps: []BuildStep{{SerialNumber: "2"}}, CustomAttributes: []CustomAttribute{
		{Name: "n", Constraints: "{}", Editable: true, Visible: true},
		{Name: "m", Value: "7", Constraints: `{"minimum":1}`, Editable: true, Visible: true}}}}
	if diff := cmp.Diff(want, b.BuildPlans); diff != "" {
		t.Errorf("build plans (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"README"}, b.Ignored); diff != "" {
		t.Errorf("ignored entries (-want +got):\n%s", diff)
	}
}

func TestWriteRefusesNamesThatLeaveTheBundle(t *testing.T) {
	for _, name := range []string{"../x", "a/b", manifestName, "p1_planscript.json"} {
		b := sampleBundle()
		b.GoldenImages[0].Name = name
		var e *Error
		if err := WriteBundle(t.Context(), io.Discard, b); !errors.As(err, &e) {
			t.Errorf("WriteBundle with an image called %q = %v, want an *Error", name, err)
		}
	}
}

func TestParseTimeForms(t *testing.T) {
	want := time.Date(2015, 8, 31, 15, 48, 35, 250e6, time.UTC)
	for _, s := range []string{"20150831T154835.250Z", "2015-08-31T15:48:35.250Z", "2015-08-31T17:48:35.25+02:00", "1441036115250"} {
		if got, ok := ParseTime(s); !ok || !got.Equal(want) {
			t.Errorf("ParseTime(%q) = %v, %v, want %v", s, got, ok, want)
		}
	}
	if got, ok := ParseTime("yesterday"); ok {
		t.Errorf("ParseTime(yesterday) = %v", got)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("Artifact Name:a\nDescription:b\nc\nRead Only:true\nTime Stamp:2017-09-07T15:44:32.539Z\nArtifact Type:USER"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseManifest(data)
		if err != nil {
			return
		}
		again, err := parseManifest(formatManifest(b))
		if err != nil || again.Name != strings.NewReplacer("\n", " ", "\r", " ").Replace(b.Name) || again.ReadOnly != b.ReadOnly {
			t.Errorf("manifest %q became %q, %v", b.Name, again.Name, err)
		}
	})
}

func FuzzSums(f *testing.F) {
	f.Add([]byte("a\t" + strings.Repeat("0", 64) + "\n" + sha256Name + "\tx\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sums, err := parseSums(data, sha256Name, sha256.Size)
		for name, sum := range sums {
			if err == nil && (len(sum) != 64 || name == sha256Name) {
				t.Errorf("sum of %q is %q", name, sum)
			}
		}
	})
}

func FuzzBuildPlanJSON(f *testing.F) {
	f.Add([]byte(`{"name":"b","buildStep":[{"serialNumber":2}],"customAttributes":[{"name":"n","value":null,"constraints":"{}"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var b, again BuildPlan
		if json.Unmarshal(data, &b) != nil {
			return
		}
		out, err := json.Marshal(b)
		if err == nil {
			err = json.Unmarshal(out, &again)
		}
		if diff := cmp.Diff(b, again, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%v, build plan changes when written and read:\n%s", err, diff)
		}
	})
}

func FuzzReadBundle(f *testing.F) {
	f.Add(handmade(f, entry{name: "p1_planscript.json", data: `{"id":"p1","name":"one"}`}))
	f.Fuzz(func(t *testing.T, file []byte) {
		br := BundleReader{Limits: Limits{JSON: 1 << 16, Payload: 1 << 20}}
		if b, err := br.Read(t.Context(), bytes.NewReader(file), int64(len(file))); err == nil && b.Name == "" {
			t.Error("a bundle without a name")
		}
	})
}
