package artifact

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	manifestName = "MANIFEST.MF"
	sha256Name   = "SHA256SUM.sha256sum"
	sha1Name     = "SHA1SUM.sha1sum" // written until 2018
)

// manifestKeys are the lines of a manifest, in order. A line that starts with
// none of them continues the one before: descriptions contain line breaks.
var manifestKeys = []string{"Artifact Name", "Description", "Read Only", "Time Stamp", "Artifact Type"}

// parseManifest reads MANIFEST.MF into the bundle's head.
func parseManifest(data []byte) (Bundle, error) {
	values := map[string]string{}
	last := ""
	for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		line = strings.TrimSuffix(line, "\r")
		key, value, ok := manifestLine(line)
		switch {
		case ok && key != last:
			if _, again := values[key]; again {
				return Bundle{}, fmt.Errorf("line %q stands twice", key)
			}
			values[key], last = value, key
		case last == "":
			return Bundle{}, fmt.Errorf("first line is not %q", manifestKeys[0]+":...")
		default:
			values[last] += "\n" + line
		}
	}
	b := Bundle{Name: strings.TrimSpace(values["Artifact Name"]), Description: values["Description"]}
	if b.Name == "" {
		return Bundle{}, errors.New("no Artifact Name")
	}
	b.ReadOnly = strings.EqualFold(strings.TrimSpace(values["Read Only"]), "true")
	b.Created, _ = ParseTime(values["Time Stamp"])
	return b, nil
}

func manifestLine(line string) (key, value string, ok bool) {
	for _, k := range manifestKeys {
		if v, found := strings.CutPrefix(line, k+":"); found {
			return k, v, true
		}
	}
	return "", "", false
}

// formatManifest is the inverse of parseManifest.
func formatManifest(b Bundle) []byte {
	oneLine := strings.NewReplacer("\n", " ", "\r", " ")
	return fmt.Appendf(nil, "Artifact Name:%s\nDescription:%s\nRead Only:%t\nTime Stamp:%s\nArtifact Type:USER",
		oneLine.Replace(b.Name), oneLine.Replace(b.Description), b.ReadOnly, b.Created.UTC().Format("2006-01-02T15:04:05.000Z"))
}

// parseSums reads a sum file: lines of name, tab, hex digits. A line about the
// sum file itself is left out, because old bundles carry a wrong one.
func parseSums(data []byte, self string, sumSize int) (map[string]string, error) {
	sums := map[string]string{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSuffix(sc.Text(), "\r")
		if line == "" {
			continue
		}
		tab := strings.LastIndexByte(line, '\t')
		if tab <= 0 {
			return nil, fmt.Errorf("line %d is not name, tab, sum", n)
		}
		name, sum := line[:tab], strings.ToLower(strings.TrimSpace(line[tab+1:]))
		if name == self {
			continue
		}
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sumSize {
			return nil, fmt.Errorf("line %d: sum of %q is not %d hex digits", n, name, 2*sumSize)
		}
		if _, again := sums[name]; again {
			return nil, fmt.Errorf("line %d: %q stands twice", n, name)
		}
		sums[name] = sum
	}
	return sums, sc.Err()
}

// bundleTime is the time stamp of a bundle that has none.
func bundleTime(t time.Time) time.Time {
	if t.IsZero() {
		return time.Now()
	}
	return t
}
