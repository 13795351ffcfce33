package golden

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aptSources collects, from the apt configuration below root, the sources of
// the suite and its updates that are Debian's own, in the form of
// sources.list(5). The machine's sources are used so that its mirror and its
// keys hold for the image too; those of other vendors stay out.
func aptSources(root string) (string, error) {
	var out []string
	lists, err := filepath.Glob(filepath.Join(root, "etc/apt/sources.list.d/*.list"))
	if err != nil {
		return "", err
	}
	for _, file := range append([]string{filepath.Join(root, "etc/apt/sources.list")}, lists...) {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		out = append(out, fromOneLine(string(b))...)
	}
	stanzas, err := filepath.Glob(filepath.Join(root, "etc/apt/sources.list.d/*.sources"))
	if err != nil {
		return "", err
	}
	for _, file := range stanzas {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		out = append(out, fromDeb822(string(b))...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if !slices.ContainsFunc(out, func(s string) bool { return slices.Contains(strings.Fields(s), Suite) }) {
		return "", fmt.Errorf("/etc/apt names no source of Debian's suite %s: add one, or build on Debian 12", Suite)
	}
	return strings.Join(out, "\n") + "\n", nil
}

// ourSuite tells the suites that belong into the image.
func ourSuite(s string) bool {
	return s == Suite || s == Suite+"-updates" || s == Suite+"-security"
}

// debianKey tells whether a Signed-By value is Debian's keyring; a source
// without one is checked against the keys of the machine.
func debianKey(signedBy string) bool {
	return signedBy == "" || strings.Contains(filepath.Base(signedBy), "debian-archive")
}

// fromOneLine returns the lines "deb [options] URI suite component..." that
// belong into the image.
func fromOneLine(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		options, rest := "", strings.TrimSpace(line)
		kind, rest, _ := strings.Cut(rest, " ")
		if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
			options, rest, _ = strings.Cut(rest[1:], "]")
		}
		f := strings.Fields(rest)
		if kind != "deb" || len(f) < 3 || !ourSuite(f[1]) || !isDebian(f[0], optionValue(options, "signed-by")) {
			continue
		}
		out = append(out, oneLine(options, f[0], f[1], f[2:]))
	}
	return out
}

// isDebian tells Debian's archive from others that use its suite names: its
// own keyring signs it, or its path ends as that of every mirror does.
func isDebian(uri, signedBy string) bool {
	if signedBy != "" {
		return debianKey(signedBy)
	}
	return strings.Contains(uri, "/debian")
}

func optionValue(options, name string) string {
	for _, o := range strings.Fields(options) {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			return v
		}
	}
	return ""
}

func oneLine(options, uri, suite string, components []string) string {
	components = slices.DeleteFunc(slices.Clone(components), func(c string) bool { return c != "main" })
	line := "deb "
	if options = strings.TrimSpace(options); options != "" {
		line += "[" + options + "] "
	}
	return line + uri + " " + suite + " " + strings.Join(components, " ")
}

// fromDeb822 does the same with the stanzas of a .sources file.
func fromDeb822(text string) []string {
	var out []string
	for _, f := range stanzas(text) {
		if strings.EqualFold(f["enabled"], "no") || !slices.Contains(strings.Fields(f["types"]), "deb") {
			continue
		}
		options, ok := deb822Options(f)
		if !ok {
			continue
		}
		for _, uri := range strings.Fields(f["uris"]) {
			for _, suite := range strings.Fields(f["suites"]) {
				if ourSuite(suite) && isDebian(uri, f["signed-by"]) {
					out = append(out, oneLine(options, uri, suite, strings.Fields(f["components"])))
				}
			}
		}
	}
	return out
}

// deb822Options turns the fields that have a one-line form into it. A key that
// is written out in the stanza has none.
func deb822Options(f map[string]string) (string, bool) {
	if strings.Contains(f["signed-by"], "BEGIN PGP") {
		return "", false
	}
	var options []string
	for _, name := range []string{"signed-by", "trusted", "check-valid-until"} {
		if v := f[name]; v != "" {
			options = append(options, name+"="+v)
		}
	}
	return strings.Join(options, " "), true
}

// stanzas parses deb822(5) into fields with lower-case names.
func stanzas(text string) []map[string]string {
	var all []map[string]string
	cur, last := map[string]string{}, ""
	flush := func() {
		if len(cur) > 0 {
			all = append(all, cur)
		}
		cur, last = map[string]string{}, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			cur[last] = strings.TrimSpace(cur[last] + " " + strings.TrimSpace(line))
		default:
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(name))
			cur[last] = strings.TrimSpace(value)
		}
	}
	flush()
	return all
}
