package plan

import (
	"fmt"
	"strings"
)

// Script is a plan script as stored.
type Script struct {
	Name string
	Text string
}

// Attribute is a value that a script asks for.
type Attribute struct {
	Name       string // as written: "HostName", "NIC.mac", "_Initiator1.ip"
	Base, Part string // of a dotted name: "NIC", "mac"; else Name and ""
	Default    string
	HasDefault bool
	Reserved   bool // filled in by the appliance, not by people
	Line       int  // of the first use, from 1
}

// Attributes lists the attributes of a script, each once, in order of first
// use. The default is that of the first use that has one.
func Attributes(script string) []Attribute {
	var list []Attribute
	at := map[string]int{}
	scan(script, func(t token) {
		if t.name == "" {
			return
		}
		i, known := at[t.name]
		if !known {
			i = len(list)
			at[t.name] = i
			base, part, _ := strings.Cut(t.name, ".")
			list = append(list, Attribute{Name: t.name, Base: base, Part: part, Reserved: strings.HasPrefix(t.name, "_"), Line: t.line})
		}
		if t.hasDefault && !list[i].HasDefault {
			list[i].Default, list[i].HasDefault = t.def, true
		}
	})
	return list
}

// token is a piece of a script: an attribute if it has a name, else text.
type token struct {
	text       string
	name, def  string
	hasDefault bool
	line       int
}

// scan cuts a script into tokens. An attribute is @name@ or @name:default@ on
// one line, where a name begins with a letter or _ right after the @. @@ stands
// for one @. Every other @, as in a@b.org, $@ and ${list[@]}, is itself.
func scan(script string, emit func(token)) {
	line, from := 1, 0
	flush := func(to int) {
		if from < to {
			emit(token{text: script[from:to], line: line})
			line += strings.Count(script[from:to], "\n")
		}
	}
	for i := 0; i < len(script); {
		if script[i] != '@' {
			i++
			continue
		}
		if strings.HasPrefix(script[i:], "@@") {
			flush(i + 1)
			i += 2
			from = i
			continue
		}
		t, n := attribute(script[i:])
		if n == 0 {
			i++
			continue
		}
		flush(i)
		t.line = line
		emit(t)
		i += n
		from = i
	}
	flush(len(script))
}

// attribute reads the attribute at the start of s and its length, 0 if none.
func attribute(s string) (t token, n int) {
	end := 1
	for end < len(s) && nameByte(s[end], end == 1) {
		end++
	}
	name := s[1:end]
	if name == "" || end == len(s) || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return token{}, 0
	}
	switch s[end] {
	case '@':
		return token{name: name}, end + 1
	case ':':
		rest := s[end+1:]
		if stop := strings.IndexAny(rest, "@\n"); stop >= 0 && rest[stop] == '@' {
			return token{name: name, def: rest[:stop], hasDefault: true}, end + 1 + stop + 1
		}
	}
	return token{}, 0
}

func nameByte(c byte, first bool) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		return true
	case first:
		return false
	}
	return c >= '0' && c <= '9' || c == '.' || c == '-'
}

// Value is what an attribute stands for in one deployment.
type Value struct {
	Text   string
	Secret bool // masked wherever the script is shown
}

// Expanded is a script with its values in place.
type Expanded struct {
	Script string // its name
	Text   string // to run; never to be shown
	Masked string // to be shown
}

// mask stands for a secret.
const mask = "********"

// maxExpanded bounds an expanded script, in bytes.
const maxExpanded = 8 << 20

// Unknown is an attribute that has neither value nor default.
type Unknown struct {
	Name string
	Line int
}

// UnknownError says which attributes of a script have no value.
type UnknownError struct {
	Script   string
	Unknowns []Unknown
}

func (e *UnknownError) Error() string {
	var list []string
	for _, u := range e.Unknowns {
		list = append(list, fmt.Sprintf("@%s@ in line %d", u.Name, u.Line))
	}
	return fmt.Sprintf("plan script %s: no value for %s: set it in the server profile or the deployment plan, or write @%s:default@", e.Script, strings.Join(list, ", "), e.Unknowns[0].Name)
}

// Expand puts values into a script. A name without a value takes the default
// written at that place, else the one written elsewhere in the script. A part
// of a network attribute, such as NIC.gateway, may also be empty: when NIC or
// another part of it has a value. Values are text on one line; they are not
// looked through for attributes again. The error is an *UnknownError, unless a
// value or the result is out of bounds.
func Expand(script Script, values map[string]Value) (Expanded, error) {
	defaults := map[string]string{}
	for _, a := range Attributes(script.Text) {
		if a.HasDefault {
			defaults[a.Name] = a.Default
		}
	}
	bases := map[string]bool{}
	for name, v := range values {
		if strings.ContainsAny(v.Text, "\n\r\x00") {
			return Expanded{}, fmt.Errorf("plan script %s: attribute %s: the value has a line break; give one line", script.Name, name)
		}
		base, _, _ := strings.Cut(name, ".")
		bases[base] = true
	}
	var text, masked strings.Builder
	var unknowns []Unknown
	scan(script.Text, func(t token) {
		v, ok := Value{Text: t.text}, true
		if t.name != "" {
			v, ok = lookup(t, values, defaults, bases)
		}
		if !ok {
			unknowns = append(unknowns, Unknown{Name: t.name, Line: t.line})
		}
		if text.Len() > maxExpanded {
			return
		}
		text.WriteString(v.Text)
		if v.Secret && v.Text != "" {
			v.Text = mask
		}
		masked.WriteString(v.Text)
	})
	if unknowns != nil {
		return Expanded{}, &UnknownError{Script: script.Name, Unknowns: unknowns}
	}
	if text.Len() > maxExpanded {
		return Expanded{}, fmt.Errorf("plan script %s: larger than %d bytes with its values; shorten it", script.Name, maxExpanded)
	}
	return Expanded{Script: script.Name, Text: text.String(), Masked: masked.String()}, nil
}

func lookup(t token, values map[string]Value, defaults map[string]string, bases map[string]bool) (Value, bool) {
	if v, ok := values[t.name]; ok {
		return v, true
	}
	if t.hasDefault {
		return Value{Text: t.def}, true
	}
	if d, ok := defaults[t.name]; ok {
		return Value{Text: d}, true
	}
	base, part, _ := strings.Cut(t.name, ".")
	return Value{}, part != "" && bases[base]
}

// Substitute is Expand for a script without a name and values without secrets.
// It returns the attributes that have no value beside the error that says so.
func Substitute(script string, values map[string]string) (string, []Unknown, error) {
	vs := make(map[string]Value, len(values))
	for name, text := range values {
		vs[name] = Value{Text: text}
	}
	e, err := Expand(Script{Name: "(unnamed)", Text: script}, vs)
	if u, ok := err.(*UnknownError); ok {
		return "", u.Unknowns, err
	}
	return e.Text, nil, err
}

// Secrets lists the texts that must not be shown.
func Secrets(values map[string]Value) []string {
	var list []string
	for _, v := range values {
		if v.Secret && v.Text != "" {
			list = append(list, v.Text)
		}
	}
	return list
}
