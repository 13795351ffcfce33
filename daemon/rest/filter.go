package rest

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"baystream/daemon/domain"
)

// The filter language, as much as the public clients use of it (spec section
// 2.2) and a little more:
//
//	filter = and {"or" and}      and = term {"and" term}
//	term   = ["not"] ( "(" filter ")" | field op value )
//	op     = "=" "==" "eq" "!=" "<>" "ne" "<" "lt" "<=" "le" ">" "gt" ">=" "ge" "matches" "like"
//	value  = 'text' | "text" | text up to the next and, or, the end, or a ) that
//	         the text has not opened
//
// Words are recognised in any letter case, and texts compared without regard
// to it. "matches" and "like" compare the whole text, where * and % stand for
// any characters. A pair of double quotes around the whole is dropped.

// predicate says whether an object is wanted.
type predicate func(object) bool

// filters joins all filter and query parameters; nil if there is none.
func filters(q url.Values, known []string) (predicate, error) {
	var all []predicate
	for _, name := range []string{"filter", "query"} {
		for _, v := range q[name] {
			if strings.TrimSpace(v) == "" {
				continue
			}
			p, err := parseFilter(name, v, known)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	if all == nil {
		return nil, nil
	}
	return func(o object) bool {
		return !slices.ContainsFunc(all, func(p predicate) bool { return !p(o) })
	}, nil
}

// parseFilter reads one filter over the known fields.
func parseFilter(name, filter string, known []string) (predicate, error) {
	s := strings.TrimSpace(filter)
	if n := len(s); n >= 2 && s[0] == '"' && s[n-1] == '"' && !strings.Contains(s[1:n-1], `"`) {
		s = s[1 : n-1]
	}
	p := &parser{name: name, whole: filter, rest: s, known: known}
	pred, err := p.or(0)
	if err == nil && p.skip() != "" {
		err = p.errorf("has %q where it should end", p.rest)
	}
	return pred, err
}

type parser struct {
	name, whole string // for errors
	rest        string
	known       []string
}

func (p *parser) errorf(format string, args ...any) error {
	return domain.Errorf(domain.Invalid, p.name, "%q %s", p.whole, fmt.Sprintf(format, args...)).
		Fix("Write it like name='x', name matches 'x*' or status=OK; join with and, or, not and parentheses.")
}

func (p *parser) skip() string {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	return p.rest
}

// word takes w if it comes next, as a whole word in any letter case.
func (p *parser) word(w string) bool {
	s := p.skip()
	if len(s) < len(w) || !strings.EqualFold(s[:len(w)], w) {
		return false
	}
	if after := s[len(w):]; after != "" && !strings.ContainsAny(after[:1], " \t\r\n('\"") {
		return false
	}
	p.rest = s[len(w):]
	return true
}

const maxDepth = 32 // of parentheses and nots

func (p *parser) or(depth int) (predicate, error) {
	if depth > maxDepth {
		return nil, p.errorf("is nested too deeply")
	}
	left, err := p.and(depth)
	for err == nil && p.word("or") {
		var right predicate
		a := left
		right, err = p.and(depth)
		left = func(o object) bool { return a(o) || right(o) }
	}
	return left, err
}

func (p *parser) and(depth int) (predicate, error) {
	left, err := p.term(depth)
	for err == nil && p.word("and") {
		var right predicate
		a := left
		right, err = p.term(depth)
		left = func(o object) bool { return a(o) && right(o) }
	}
	return left, err
}

func (p *parser) term(depth int) (predicate, error) {
	if depth > maxDepth {
		return nil, p.errorf("is nested too deeply")
	}
	if p.word("not") {
		inner, err := p.term(depth + 1)
		return func(o object) bool { return !inner(o) }, err
	}
	if strings.HasPrefix(p.skip(), "(") {
		p.rest = p.rest[1:]
		inner, err := p.or(depth + 1)
		if err == nil && !strings.HasPrefix(p.skip(), ")") {
			return nil, p.errorf("lacks a closing parenthesis")
		}
		if err == nil {
			p.rest = p.rest[1:]
		}
		return inner, err
	}
	return p.comparison()
}

func (p *parser) comparison() (predicate, error) {
	field := p.field()
	if field == "" {
		return nil, p.errorf("lacks a field name at %q", p.rest)
	}
	field, err := knownField(p.name, p.whole, field, p.known)
	if err != nil {
		return nil, err
	}
	op := p.operator()
	if op == "" {
		return nil, p.errorf("lacks an operator after %s", field)
	}
	value, err := p.value()
	if err != nil {
		return nil, err
	}
	return compare(field, op, value), nil
}

func (p *parser) field() string {
	s := p.skip()
	if s != "" && (s[0] == '\'' || s[0] == '"') {
		if end := strings.IndexByte(s[1:], s[0]); end > 0 {
			p.rest = s[end+2:]
			return s[1 : end+1]
		}
	}
	end := strings.IndexFunc(s, func(r rune) bool {
		return !(r == '_' || r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
	})
	if end < 0 {
		end = len(s)
	}
	p.rest = s[end:]
	return s[:end]
}

var operators = []struct{ text, op string }{
	{"==", "="}, {"!=", "!="}, {"<>", "!="}, {"<=", "<="}, {">=", ">="}, {"=", "="}, {"<", "<"}, {">", ">"},
}

var operatorWords = []struct{ text, op string }{
	{"eq", "="}, {"ne", "!="}, {"le", "<="}, {"ge", ">="}, {"lt", "<"}, {"gt", ">"}, {"matches", "matches"}, {"like", "matches"},
}

func (p *parser) operator() string {
	s := p.skip()
	for _, o := range operators {
		if strings.HasPrefix(s, o.text) {
			p.rest = s[len(o.text):]
			return o.op
		}
	}
	for _, o := range operatorWords {
		if p.word(o.text) {
			return o.op
		}
	}
	return ""
}

func (p *parser) value() (string, error) {
	s := p.skip()
	if s == "" {
		return "", p.errorf("lacks a value at its end")
	}
	if s[0] == '\'' || s[0] == '"' {
		return p.quoted(s[0])
	}
	end, open := len(s), 0
	for i := range s {
		switch s[i] {
		case '(':
			open++
		case ')':
			open--
		}
		if open < 0 || s[i] == ' ' && (startsWord(s[i+1:], "and") || startsWord(s[i+1:], "or")) {
			end = i
			break
		}
	}
	p.rest = s[end:]
	v := strings.TrimSpace(s[:end])
	if v == "" {
		return "", p.errorf("lacks a value before %q", p.rest)
	}
	return v, nil
}

func startsWord(s, word string) bool {
	s = strings.TrimLeft(s, " ")
	return len(s) > len(word) && strings.EqualFold(s[:len(word)], word) && s[len(word)] == ' '
}

// quoted reads a text in quotes. Names hold apostrophes and clients do not
// escape them, so a quote ends the text only where something can follow;
// doubled or after a backslash it is a character too.
func (p *parser) quoted(quote byte) (string, error) {
	s := p.rest[1:]
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == quote:
			i++
		case s[i] != quote:
		case i+1 < len(s) && s[i+1] == quote:
			i++
		case endsValue(s[i+1:]):
			p.rest = s[i+1:]
			return b.String(), nil
		}
		b.WriteByte(s[i])
	}
	return "", p.errorf("lacks a closing quote")
}

func endsValue(after string) bool {
	after = strings.TrimLeft(after, " ")
	return after == "" || after[0] == ')' || startsWord(after, "and") || startsWord(after, "or")
}

// compare makes the predicate of one comparison.
func compare(field, op, value string) predicate {
	if op == "matches" {
		return func(o object) bool { return glob(strings.ToLower(value), strings.ToLower(text(lookup(o, field)))) }
	}
	return func(o object) bool {
		have := lookup(o, field)
		var c int
		if n, ok := have.(float64); ok {
			var want float64
			if _, err := fmt.Sscan(value, &want); err != nil {
				return op == "!="
			}
			c = compareValues(n, want)
		} else {
			c = compareValues(have, value)
		}
		switch op {
		case "=":
			return c == 0
		case "!=":
			return c != 0
		case "<":
			return c < 0
		case "<=":
			return c <= 0
		case ">":
			return c > 0
		}
		return c >= 0
	}
}

// glob matches s against a pattern in which * and % stand for any characters.
// A pattern that is literally s matches too: names hold such characters.
func glob(pattern, s string) bool {
	if pattern == s {
		return true
	}
	parts := strings.FieldsFunc(strings.NewReplacer("%", "*").Replace("\x00"+pattern+"\x00"), func(r rune) bool { return r == '*' })
	s = "\x00" + s + "\x00"
	for i, part := range parts {
		at := strings.Index(s, part)
		if at < 0 || i == 0 && at != 0 {
			return false
		}
		if i == len(parts)-1 {
			return strings.HasSuffix(s, part)
		}
		s = s[at+len(part):]
	}
	return true
}

// fieldsOf lists the JSON members of T, nested ones dotted.
func fieldsOf[T any]() []string {
	return jsonFields(reflect.TypeFor[T](), "", 0)
}

func jsonFields(t reflect.Type, prefix string, depth int) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || depth > 3 {
		return nil
	}
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			out = append(out, jsonFields(f.Type, prefix, depth)...)
		case name == "-" || !f.IsExported():
		default:
			if name == "" {
				name = f.Name
			}
			out = append(out, prefix+name)
			out = append(out, jsonFields(f.Type, prefix+name+".", depth+1)...)
		}
	}
	return out
}

// knownField finds the member called name, in any letter case.
func knownField(param, whole, name string, known []string) (string, error) {
	for _, k := range known {
		if strings.EqualFold(k, name) {
			return k, nil
		}
	}
	return "", domain.Errorf(domain.Invalid, param, "%q names the field %q, which these resources do not have", whole, name).
		Fix("Use one of: " + strings.Join(known, ", ") + ".")
}
