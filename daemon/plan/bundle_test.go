package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baystream/daemon/artifact"
)

// publishedBundle reads a real bundle; the test skips without.
func publishedBundle(t *testing.T, name string) *artifact.Bundle {
	t.Helper()
	dir := os.Getenv("BAYSTREAM_BUNDLES")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "bundles")
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("needs published bundles, set BAYSTREAM_BUNDLES: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := artifact.ReadBundle(t.Context(), f, fi.Size())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPublishedScriptsAreUnderstood(t *testing.T) {
	for _, tt := range []struct {
		file     string
		attrs    int      // in all scripts
		problems []string // words
	}{
		{"HPE-ImageStreamer-Developer-2017-08-28-v5.0.zip", 44, []string{"Fail_OS_Deployment"}},
		{"HPE_Foundation_Artifacts-5_00.zip", 1, []string{"Intentionally_Fail_OS_Deployment"}},
		{"HPE-RHEL7-EFI-2019-06-11-v5.0.zip", 69, nil},
		{"HPE-SLES12-EFI-2019-06-16-v5.0.zip", 62, nil},
		{"HPE-ESXi-6.7-2021-01-21-v6.40.zip", 26, nil},
		{"HPE-Windows-2018-10-26.zip", 46, nil},
		{"HPE-RHEL-7.2-2017-03-24.zip", 59, nil},
	} {
		t.Run(tt.file, func(t *testing.T) {
			attrs := 0
			var problems []string
			for _, s := range publishedBundle(t, tt.file).PlanScripts {
				values := map[string]Value{}
				for _, a := range Attributes(s.Content) {
					attrs++
					if !a.HasDefault {
						values[a.Name] = Value{Text: "v1"}
					}
				}
				e, err := Expand(Script{Name: s.Name, Text: s.Content}, values)
				if err != nil {
					t.Error(err)
					continue
				}
				if strings.Count(s.Content, "[@]") != strings.Count(e.Text, "[@]") {
					t.Errorf("%s: the shell's [@] changed", s.Name)
				}
				p, err := Parse(e)
				if err != nil {
					t.Error(err)
					continue
				}
				if len(p.Commands) == 0 {
					t.Errorf("%s: no commands", s.Name)
				}
				for _, pr := range Check(p) {
					problems = append(problems, pr.Word)
				}
			}
			if attrs != tt.attrs || strings.Join(problems, " ") != strings.Join(tt.problems, " ") {
				t.Errorf("%d attributes, problems %q; want %d, %q", attrs, problems, tt.attrs, tt.problems)
			}
		})
	}
}
