package domain

import (
	"strings"
	"testing"
)

func TestValidateValue(t *testing.T) {
	for _, c := range []struct {
		typ, constraints string
		good, bad        []string
	}{
		{"string", `{}`, []string{"", "any text", strings.Repeat("x", 254), "ü"}, []string{strings.Repeat("x", 255), "a\nb", "\xff"}},
		{"", ``, []string{"x"}, []string{"\x00"}},
		{"String", `{"regex":"[a-z]+","helpText":"letters"}`, []string{"abc"}, []string{"", "abc1", "ABC"}},
		{"string", `{"regex":"a|bc"}`, []string{"a", "bc"}, []string{"ab", "ac"}},
		{"string", `{"options":[""]}`, []string{"x"}, nil}, // left over from another type
		{"number", `{}`, []string{"0", "-1", "+7", "0.5", "9999"}, []string{"", "x", "1e3", "0x10", "1/2", "1.", ".5", "NaN", "1 2"}},
		{"Number", `{"minimum":"1","maximum":"100","increment":"10","unit":"Centi-Units"}`, []string{"50", "1", "11", "100"}, []string{"0", "101", "55"}},
		{"number", `{"increment":"0.1"}`, []string{"0.3", "7"}, []string{"0.25"}},
		{"number", `{"minimum":"","maximum":null,"increment":""}`, []string{"5"}, nil},
		{"number", `{"minimum":1,"maximum":51200}`, []string{"51200"}, []string{"51201"}},
		{"option", `{"options":["Option 1","Option 2"]}`, []string{"Option 1"}, []string{"", "option 1", "Option"}},
		{"option", `{}`, []string{"whatever"}, nil},
		{"password", `{"minlen":"3","maxlen":"5"}`, []string{"abc", "üüüüü"}, []string{"ab", "abcdef"}},
		{"password", `{"allowedchars":"a-z0-9"}`, []string{"az09"}, []string{"A", "a b"}},
		{"password", `{"allowedchars":"[a-c]"}`, []string{"abc"}, []string{"d"}},
		{"password", `{"allowedchars":"z-a!"}`, []string{"z-!"}, []string{"m"}},
		{"hostname", `{}`, []string{"web-1", "a_b", "1a"}, []string{"", "-a", "_a", "a.b", "a b"}},
		{"fqdn", `{"helpText":""}`, []string{"a.b", "host.example.org", "a.b."}, []string{"", "host", "a..b", ".a.b", "a.-b", "a-.b", strings.Repeat("a", 64) + ".b"}},
		{"ipv4", `{"ipType":"manage-externally"}`, []string{"10.1.2.3", "0.0.0.0"}, []string{"", "10.1.2", "10.1.2.256", "010.1.2.3", "::1", "10.1.2.3/24"}},
	} {
		a := Attribute{Name: "Attr", Type: c.typ, Constraints: c.constraints}
		if err := ValidateAttribute(a); err != nil {
			t.Errorf("ValidateAttribute(%s %s) = %v", c.typ, c.constraints, err)
		}
		for _, v := range c.good {
			if err := ValidateValue(a, v); err != nil {
				t.Errorf("ValidateValue(%s %s, %q) = %v, want nil", c.typ, c.constraints, v, err)
			}
		}
		for _, v := range c.bad {
			err := ValidateValue(a, v)
			if KindOf(err) != Invalid || err == nil {
				t.Errorf("ValidateValue(%s %s, %q) = %v, want Invalid", c.typ, c.constraints, v, err)
				continue
			}
			if !strings.Contains(err.Error(), "attribute Attr") || len(err.(*Error).Remedy) == 0 {
				t.Errorf("ValidateValue(%s %s, %q) = %q, want the attribute named and a remedy", c.typ, c.constraints, v, err)
			}
			if IsSecret(a) && v != "" && strings.Contains(err.Error(), v) && len(v) > 3 {
				t.Errorf("ValidateValue of a password shows it: %q", err)
			}
		}
	}
}

func TestValidateAttribute(t *testing.T) {
	for _, c := range []struct {
		a    Attribute
		want string // in the error
	}{
		{Attribute{Name: "a b"}, "name"},
		{Attribute{Name: ""}, "name"},
		{Attribute{Name: "1a"}, "name"},
		{Attribute{Name: "_Initiator1"}, "name"},
		{Attribute{Name: "a", Type: "colour"}, `type "colour"`},
		{Attribute{Name: "a", Constraints: "{"}, "constraints"},
		{Attribute{Name: "a", Constraints: "[]"}, "constraints"},
		{Attribute{Name: "a", Constraints: `{"regex":"("}`}, "regex"},
		{Attribute{Name: "a", Type: "number", Constraints: `{"minimum":"x"}`}, "minimum"},
		{Attribute{Name: "a", Type: "number", Constraints: `{"minimum":"5","maximum":"4"}`}, "minimum"},
		{Attribute{Name: "a", Type: "number", Constraints: `{"increment":"0"}`}, "increment"},
		{Attribute{Name: "a", Type: "password", Constraints: `{"minlen":"9","maxlen":"5"}`}, "minlen"},
		{Attribute{Name: "a", Type: "password", Constraints: `{"minlen":"-1"}`}, "minlen"},
		{Attribute{Name: "a", Type: "number", Value: "x"}, "not a number"},
		{Attribute{Name: "a", Type: "option", Constraints: `{"options":["x"]}`, Value: "y"}, `"x"`},
	} {
		err := ValidateAttribute(c.a)
		if err == nil {
			t.Errorf("ValidateAttribute(%+v) = nil", c.a)
			continue
		}
		if all := err.Error() + strings.Join(err.(*Error).Remedy, " "); !strings.Contains(all, c.want) {
			t.Errorf("ValidateAttribute(%+v) = %q, want %q in it", c.a, all, c.want)
		}
	}
	for _, a := range []Attribute{
		{Name: "n", Type: "number", Constraints: `{"minimum":"1"}`}, // no default chosen yet
		{Name: "NIC-1", Type: "nic", Value: "", Constraints: `{"ipv4static":true,"parameters":["mac","vlanid"]}`},
		{Name: "a", Constraints: " "}, {Name: "a", Constraints: "null"},
	} {
		if err := ValidateAttribute(a); err != nil {
			t.Errorf("ValidateAttribute(%+v) = %v, want nil", a, err)
		}
	}
}

func FuzzConstraints(f *testing.F) {
	f.Add("number", `{"minimum":"1","maximum":"9","increment":"0.5"}`, "3")
	f.Add("password", `{"minlen":"1","allowedchars":"a-z"}`, "x")
	f.Add("string", `{"regex":"a*"}`, "aa")
	f.Add("option", `{"options":["1",2,null,true]}`, "2")
	f.Add("nic", `{"parameters":{}}`, "")
	f.Fuzz(func(t *testing.T, typ, constraints, value string) {
		a := Attribute{Name: "A", Type: typ, Constraints: constraints, Value: value}
		err := ValidateAttribute(a)
		if err == nil && value != "" && a.kindOf() != TypeNIC {
			if err := ValidateValue(a, value); err != nil {
				t.Errorf("the definition %+v is valid, its default not: %v", a, err)
			}
		}
		_ = ValidateValue(a, value)
	})
}

func TestNetmask(t *testing.T) {
	for s, want := range map[string]bool{"255.255.255.0": true, "255.255.255.255": true, "128.0.0.0": true, "255.255.254.0": true,
		"0.0.0.0": false, "255.0.255.0": false, "0.0.0.255": false, "24": false, "": false} {
		if got := ValidNetmask(s); got != want {
			t.Errorf("ValidNetmask(%q) = %v, want %v", s, got, want)
		}
	}
}
