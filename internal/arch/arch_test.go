// Package arch holds the test that keeps imports pointing one way.
package arch

import (
	"os/exec"
	"strings"
	"testing"
)

// allowed says what each tree may import of ours; a name stands for the package
// and everything below it. What is not listed may import nothing of ours.
var allowed = map[string][]string{
	"baystream/cmd/baystreamd":  {"daemon", "hw", "netcfg", "internal"},
	"baystream/cmd/bayctl":      {"internal"},
	"baystream/cmd/bayfence":    {"daemon/group/fence"},
	"baystream/cmd/mkimage":     {"image", "internal"},
	"baystream/cmd/vframe":      {"qemu", "image", "internal"},
	"baystream/daemon/domain":   {},
	"baystream/daemon":          {"daemon", "hw", "netcfg", "internal"},
	"baystream/qemu":            {"qemu", "image", "internal"},
	"baystream/bench":           {"image", "daemon", "internal", "qemu", "bench"},
	"baystream/hw":              {},
	"baystream/netcfg":          {"netcfg"},
	"baystream/image":           {},
	"baystream/init":            {},
	"baystream/internal":        {"internal", "image"},
	"baystream/internal/bayctl": {"daemon/domain", "hw", "internal"},
}

func TestImportsPointOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "baystream/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := words[0]
		if below(pkg, "baystream/build") {
			continue // what is built, not what is written
		}
		packages++
		rules, ok := rulesOf(pkg)
		if !ok {
			t.Errorf("%s: no rule says what it may import; add it here and to ARCHITECTURE.md", pkg)
			continue
		}
		for _, imp := range words[1:] {
			if strings.HasPrefix(imp, "baystream/") && !below(imp, pkg) && !permitted(imp, rules) {
				t.Errorf("%s imports %s", pkg, imp)
			}
		}
	}
	if packages < 20 {
		t.Errorf("go list names %d packages: it did not see the tree", packages)
	}
}

// rulesOf returns the rules of the longest listed tree that pkg lies in.
func rulesOf(pkg string) (rules []string, ok bool) {
	for p := pkg; p != "baystream"; p = p[:strings.LastIndex(p, "/")] {
		if rules, ok = allowed[p]; ok {
			return rules, true
		}
	}
	return nil, false
}

func permitted(imp string, rules []string) bool {
	for _, r := range rules {
		if below(imp, "baystream/"+r) {
			return true
		}
	}
	return false
}

func below(pkg, tree string) bool { return pkg == tree || strings.HasPrefix(pkg, tree+"/") }
