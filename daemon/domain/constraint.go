package domain

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Types of custom attributes (spec section 5.2). They are echoed in the letter
// case in which they were sent, and compared without regard to it.
const (
	TypeString   = "string"
	TypeNumber   = "number"
	TypeOption   = "option"
	TypePassword = "password"
	TypeHostname = "hostname"
	TypeFQDN     = "fqdn"
	TypeIPv4     = "ipv4"
	TypeNIC      = "nic"
)

// maxText is the length of values that have no other limit, in characters.
const maxText = 254

// kindOf is the attribute's type as the rules know it; none means string.
func (a Attribute) kindOf() string {
	if a.Type == "" {
		return TypeString
	}
	return strings.ToLower(a.Type)
}

// IsSecret says whether a's value must not be shown.
func IsSecret(a Attribute) bool { return a.kindOf() == TypePassword }

// constraints is the JSON in an attribute's constraints, of any type. Keys
// that are not here, and those of another type, are left over in real
// artifacts and mean nothing.
type constraints struct {
	Regex        text   `json:"regex"`
	Options      []text `json:"options"`
	Minimum      text   `json:"minimum"`
	Maximum      text   `json:"maximum"`
	Increment    text   `json:"increment"`
	MinLen       text   `json:"minlen"`
	MaxLen       text   `json:"maxlen"`
	AllowedChars text   `json:"allowedchars"`
	Static       *bool  `json:"ipv4static"`
	DHCP         *bool  `json:"ipv4dhcp"`
	Disable      *bool  `json:"ipv4disable"`
	NoTeaming    *bool  `json:"ipv4noteaming"`
	Parameters   []text `json:"parameters"`
}

// text is a JSON string, or a number or truth value that some artifacts have
// in its place.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		err := json.Unmarshal(b, &s)
		*t = text(s)
		return err
	}
	switch {
	case string(b) == "null":
	case len(b) > 0 && (b[0] == '{' || b[0] == '['):
		return fmt.Errorf("%s is not a text", b)
	default:
		*t = text(b)
	}
	return nil
}

func (a Attribute) constraints() (constraints, error) {
	var c constraints
	if strings.TrimSpace(a.Constraints) == "" {
		return c, nil
	}
	err := json.Unmarshal([]byte(a.Constraints), &c)
	return c, err
}

func (a Attribute) object() string { return "attribute " + a.Name }

// reserved are names that the appliance fills in (spec section 5.2).
func reservedName(name string) bool { return strings.HasPrefix(name, "_") }

var attributeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)

// ValidateAttribute checks the definition of a: its name, type, constraints,
// and that its default, if it has one, meets them.
func ValidateAttribute(a Attribute) error {
	if !attributeName.MatchString(a.Name) {
		return Errorf(Invalid, "attribute "+strconv.Quote(a.Name), "has a name that plan scripts cannot use").
			Fix("Begin with a letter; go on with letters, digits and . _ -, 128 at most.")
	}
	types := []string{TypeString, TypeNumber, TypeOption, TypePassword, TypeHostname, TypeFQDN, TypeIPv4, TypeNIC}
	kind := a.kindOf()
	if !slices.Contains(types, kind) {
		return Errorf(Invalid, a.object(), "has the type %q, which does not exist", a.Type).
			Fix("Use one of: " + strings.Join(types, ", ") + ".")
	}
	c, err := a.constraints()
	if err != nil {
		return &Error{Kind: Invalid, Object: a.object(), Message: "has constraints that are not a JSON object: " + strconv.Quote(a.Constraints),
			Remedy: []string{`Send an object in a string, such as "{\"minimum\":\"1\"}", or "{}".`}, Err: err}
	}
	if err := c.check(a, kind); err != nil {
		return err
	}
	if a.Value == "" || kind == TypeNIC {
		return nil
	}
	return ValidateValue(a, a.Value)
}

// check finds constraints that no value can meet.
func (c constraints) check(a Attribute, kind string) error {
	bad := func(key string, v text, remedy string) error {
		return Errorf(Invalid, a.object(), "has the constraint %s %q", key, string(v)).Fix(remedy)
	}
	switch kind {
	case TypeString:
		if c.Regex != "" {
			if _, err := fullRegex(string(c.Regex)); err != nil {
				return bad("regex", c.Regex, "Write a regular expression in RE2 syntax (no look-around, no back references): "+err.Error()+".")
			}
		}
	case TypeNumber:
		for _, k := range []struct {
			key string
			v   text
		}{{"minimum", c.Minimum}, {"maximum", c.Maximum}, {"increment", c.Increment}} {
			n, ok := number(string(k.v))
			if k.v != "" && !ok {
				return bad(k.key, k.v, "Write a whole or decimal number.")
			}
			if k.key == "increment" && ok && n.Sign() <= 0 {
				return bad(k.key, k.v, "Write a number above 0.")
			}
		}
		low, ok1 := number(string(c.Minimum))
		high, ok2 := number(string(c.Maximum))
		if ok1 && ok2 && low.Cmp(high) > 0 {
			return bad("minimum", c.Minimum, "Write a minimum that is not above the maximum "+string(c.Maximum)+".")
		}
	case TypePassword:
		low, err1 := length(c.MinLen, 0)
		high, err2 := length(c.MaxLen, maxText)
		if err1 != nil || err2 != nil || low > high {
			return bad("minlen/maxlen", c.MinLen+"/"+c.MaxLen, "Write two whole numbers, the first not above the second.")
		}
	}
	return nil
}

func length(t text, none int) (int, error) {
	if t == "" {
		return none, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(t)))
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	return n, err
}

func fullRegex(s string) (*regexp.Regexp, error) { return regexp.Compile(`\A(?:` + s + `)\z`) }

// decimal are the numbers that attributes can have; fractions and exponents,
// which big.Rat would read too, are not among them.
var decimal = regexp.MustCompile(`^[+-]?[0-9]{1,30}(\.[0-9]{1,30})?$`)

func number(s string) (*big.Rat, bool) {
	s = strings.TrimSpace(s)
	if !decimal.MatchString(s) {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

// ValidateValue checks value against the type and constraints of a. Its error
// names the attribute, the value (unless it is a password), the constraint and
// what would do. A nic attribute has no value of its own; its parts are checked
// by MergeAttributes.
func ValidateValue(a Attribute, value string) error {
	c, err := a.constraints()
	if err != nil {
		return ValidateAttribute(a)
	}
	shown := strconv.Quote(value)
	if IsSecret(a) {
		shown = "the value given"
	}
	bad := func(constraint, remedy string) error {
		return Errorf(Invalid, a.object(), "%s %s", shown, constraint).Fix(remedy)
	}
	if !utf8.ValidString(value) {
		return bad("is not UTF-8", "Send text encoded in UTF-8.")
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return bad("has control characters", "Send text on one line.")
	}
	count := utf8.RuneCountInString(value)
	if count > maxText {
		return bad(fmt.Sprintf("has %d characters", count), fmt.Sprintf("Use at most %d.", maxText))
	}
	switch a.kindOf() {
	case TypeString:
		re, err := fullRegex(string(c.Regex))
		if c.Regex != "" && err == nil && !re.MatchString(value) {
			return bad("does not match the regular expression "+strconv.Quote(string(c.Regex)), "Send a value that matches it.")
		}
	case TypeNumber:
		return c.number(value, bad)
	case TypeOption:
		options := slices.DeleteFunc(slices.Clone(c.Options), func(o text) bool { return o == "" })
		if len(options) > 0 && !slices.Contains(options, text(value)) {
			return bad("is not one of its options", "Use one of: "+join(options)+".")
		}
	case TypePassword:
		return c.password(value, count, bad)
	case TypeHostname:
		if !validHostname(value) {
			return bad("is not a host name", "Use letters, digits, - and _, the first a letter or digit, no dot.")
		}
	case TypeFQDN:
		if !validFQDN(value) {
			return bad("is not a full domain name", `Use names joined by dots, such as "host.example.org".`)
		}
	case TypeIPv4:
		if !ValidIPv4(value) {
			return bad("is not an IPv4 address", `Send four numbers from 0 to 255 with dots, such as "192.0.2.10".`)
		}
	}
	return nil
}

type complain func(constraint, remedy string) error

func (c constraints) number(value string, bad complain) error {
	n, ok := number(value)
	if !ok {
		return bad("is not a number", "Send a whole or decimal number, such as 10 or 0.5.")
	}
	low, hasLow := number(string(c.Minimum))
	high, hasHigh := number(string(c.Maximum))
	step, hasStep := number(string(c.Increment))
	hasStep = hasStep && step.Sign() > 0
	if hasLow && n.Cmp(low) < 0 {
		return bad("is below the minimum "+string(c.Minimum), "Send "+string(c.Minimum)+" or more.")
	}
	if hasHigh && n.Cmp(high) > 0 {
		return bad("is above the maximum "+string(c.Maximum), "Send "+string(c.Maximum)+" or less.")
	}
	// Real artifacts count steps from zero ("50" of 1 to 100 in tens).
	if hasStep && !multiple(n, step) && (!hasLow || !multiple(new(big.Rat).Sub(n, low), step)) {
		return bad("is not a multiple of the increment "+string(c.Increment), "Send a multiple of "+string(c.Increment)+".")
	}
	return nil
}

func multiple(n, step *big.Rat) bool { return new(big.Rat).Quo(n, step).IsInt() }

func (c constraints) password(value string, count int, bad complain) error {
	if low, err := length(c.MinLen, 0); err == nil && count < low {
		return bad(fmt.Sprintf("is shorter than %d characters", low), "Choose a longer password.")
	}
	if high, err := length(c.MaxLen, maxText); err == nil && count > high {
		return bad(fmt.Sprintf("is longer than %d characters", high), "Choose a shorter password.")
	}
	if set := string(c.AllowedChars); set != "" && !allowed(set, value) {
		return bad("has characters that are not allowed", "Use only these: "+set+".")
	}
	return nil
}

// allowed says whether value has only characters of set, which is either the
// inside of a character class or a list of characters.
func allowed(set, value string) bool {
	inner := strings.TrimSuffix(strings.TrimPrefix(set, "["), "]")
	if re, err := regexp.Compile(`\A[` + inner + `]*\z`); err == nil && re.MatchString(value) {
		return true
	}
	return !strings.ContainsFunc(value, func(r rune) bool { return !strings.ContainsRune(set, r) })
}

func join(options []text) string {
	var out []string
	for _, o := range options {
		out = append(out, strconv.Quote(string(o)))
	}
	return strings.Join(out, ", ")
}

var (
	hostname = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	mac      = regexp.MustCompile(`^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$`)
)

func validHostname(s string) bool { return len(s) <= maxText && hostname.MatchString(s) }

func validFQDN(s string) bool {
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	if len(s) > maxText || len(labels) < 2 {
		return false
	}
	return !slices.ContainsFunc(labels, func(l string) bool {
		return len(l) > 63 || !validHostname(l) || strings.HasSuffix(l, "-")
	})
}

// ValidIPv4 says whether s is an IPv4 address in the usual form, without
// leading zeros, which some programs take for octal.
func ValidIPv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}

// ValidNetmask says whether s is an IPv4 netmask: ones, then zeros.
func ValidNetmask(s string) bool {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return false
	}
	b := a.As4()
	m := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	return m != 0 && ^m&(^m+1) == 0
}

// ValidMAC says whether s is a 48-bit MAC address.
func ValidMAC(s string) bool { return mac.MatchString(s) }
