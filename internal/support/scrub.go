package support

import (
	"bytes"
	"regexp"
	"slices"
	"sort"
)

// mask stands where a secret stood.
const mask = "[removed]"

// A Scrubber takes secrets out of text: those it was told, wherever they stand,
// and whatever has the form of one.
type Scrubber struct{ known [][]byte }

// minSecret is the length from which on a told secret is looked for: a shorter
// one would take half of the text away, and gives nothing away in it.
const minSecret = 5

// NewScrubber makes one that knows the secrets.
func NewScrubber(secrets []string) *Scrubber {
	seen := map[string]bool{}
	s := &Scrubber{}
	for _, x := range secrets {
		if len(x) >= minSecret && !seen[x] {
			seen[x] = true
			s.known = append(s.known, []byte(x))
		}
	}
	// A secret that holds another goes first, or its rest would stay.
	sort.Slice(s.known, func(i, j int) bool { return len(s.known[i]) > len(s.known[j]) })
	return s
}

// Forms of secrets. The first group stays.
var forms = []*regexp.Regexp{
	regexp.MustCompile(`()-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`),
	regexp.MustCompile(`(?i)((?:setup|recovery) code )[A-Z0-9]{4}-[A-Z0-9]{4}-[A-Z0-9]{4}`),
	regexp.MustCompile(`(?i)("[a-z_]*(?:password|passwd|secret|sessionid|token|setupcode|privatekey)[a-z_]*"\s*:\s*)"(?:[^"\\]|\\.)*"`),
	regexp.MustCompile(`(?i)(\b[a-z_]*(?:password|passwd|secret|token)[a-z_]*\s?[=:]\s?)(?:"(?:[^"\\]|\\.)*"|[^\s",;]+)`),
	regexp.MustCompile(`(?i)(\b(?:auth|session-id|authorization):\s*(?:bearer |basic )?)[^\s",;]+`),
	regexp.MustCompile(`()\$(?:argon2id?|[1256y]|2[aby])\$[A-Za-z0-9./=,$+-]+`),
	regexp.MustCompile(`(://[^\s/:@]+:)[^\s/@]+@`),
}

// keyMark ends the first line of a private key, whose form alone reaches over
// several lines.
const keyMark = "PRIVATE KEY-----"

// marks are what a line has at least, in lower case, if it has a secret's form:
// most have none, and the forms are dear.
var marks = [][]byte{
	[]byte("code "), []byte("passw"), []byte("secret"), []byte("token"), []byte("sessionid"), []byte("setupcode"), []byte("privatekey"),
	[]byte("auth"), []byte("session-id"), []byte("$"), []byte("://"),
}

// Clean returns text without secrets.
func (s *Scrubber) Clean(b []byte) []byte {
	for _, k := range s.known {
		b = bytes.ReplaceAll(b, k, []byte(mask))
	}
	if bytes.Contains(b, []byte(keyMark)) {
		b = forms[0].ReplaceAll(b, []byte(mask))
	}
	out := make([]byte, 0, len(b))
	for line := range bytes.Lines(b) {
		out = append(out, cleanLine(line)...)
	}
	return out
}

func cleanLine(line []byte) []byte {
	lower := bytes.ToLower(line)
	if !slices.ContainsFunc(marks, func(m []byte) bool { return bytes.Contains(lower, m) }) {
		return line
	}
	for i, f := range forms[1:] {
		with := "${1}" + mask
		switch i + 1 {
		case 2:
			with = `${1}"` + mask + `"`
		case len(forms) - 1:
			with += "@"
		}
		line = f.ReplaceAll(line, []byte(with))
	}
	return line
}
