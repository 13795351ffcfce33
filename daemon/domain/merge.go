package domain

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// nicParts are the parts of a network attribute: how a profile flattens it
// (spec section 3) and what plan scripts ask for (5.2). Each has its check; nil
// takes any text.
var nicParts = map[string]func(string) bool{
	"connectionid": nil, "networkuri": nil, "domain": nil,
	"constraint": func(s string) bool {
		return slices.Contains([]string{"auto", "userspecified", "dhcp"}, strings.ToLower(s))
	},
	"dhcp": isBool, "ipv4disable": isBool,
	"ipaddress": ValidIPv4, "ipaddress1": ValidIPv4, "ipaddress2": ValidIPv4,
	"gateway": ValidIPv4, "dns1": ValidIPv4, "dns2": ValidIPv4, "dns3": ValidIPv4,
	"netmask": ValidNetmask, "mac": ValidMAC, "mac1": ValidMAC, "mac2": ValidMAC,
	"vlanid": func(s string) bool { n, err := strconv.Atoi(s); return err == nil && n >= 0 && n <= 4094 },
}

func isBool(s string) bool { return strings.EqualFold(s, "true") || strings.EqualFold(s, "false") }

// nicForms says what a part of the wrong form should look like.
var nicForms = map[string]string{
	"constraint": "Use auto, userspecified or dhcp.",
	"vlanid":     "Use a number from 0 to 4094; 0 means untagged.",
	"netmask":    `Use a netmask such as "255.255.255.0".`,
}

// definition is what is known of one attribute while merging.
type definition struct {
	Attribute
	value    string // of build plan or deployment plan; empty: none
	editable bool
}

// merge is one run of MergeAttributes.
type merge struct {
	scripts []ScriptAttribute
	defs    map[string]*definition
	values  map[string]string
	secrets map[string]bool
}

// MergeAttributes decides what the attributes of a deployment stand for: the
// value of the profile, else of the deployment plan, else of the build plan
// (spec section 5.2). An attribute for which only the scripts have a default
// is left out, for a script may have several. Network attributes come as
// "NIC.part". Values of types other than string that are empty count as not
// given; so does a password, since it is masked on its way out.
//
// secrets names the values that must not be shown. The error is Invalid and
// names the attribute, its value, what it does not meet, and what would do.
func MergeAttributes(scripts []ScriptAttribute, bp BuildPlan, dp DeploymentPlan, profile []Attribute) (values map[string]string, secrets map[string]bool, err error) {
	m := &merge{scripts: scripts, defs: map[string]*definition{}, values: map[string]string{}, secrets: map[string]bool{}}
	m.define(bp.CustomAttributes)
	m.define(dp.CustomAttributes)
	for _, name := range slices.Sorted(maps.Keys(m.defs)) {
		d := m.defs[name]
		m.secrets[name] = IsSecret(d.Attribute)
		if d.value != "" && d.kindOf() != TypeNIC {
			m.values[name] = d.value
		}
	}
	for _, a := range profile {
		if err := m.take(a); err != nil {
			return nil, nil, err
		}
	}
	if err := m.validate(); err != nil {
		return nil, nil, err
	}
	maps.DeleteFunc(m.secrets, func(_ string, secret bool) bool { return !secret })
	return m.values, m.secrets, nil
}

// define adds the attributes of a plan; a later plan overrides an earlier one.
func (m *merge) define(attrs []Attribute) {
	for _, a := range attrs {
		d := m.defs[a.Name]
		if d == nil {
			d = &definition{Attribute: a, editable: true}
			m.defs[a.Name] = d
		}
		if a.Type != "" {
			d.Type = a.Type
		}
		if c := strings.TrimSpace(a.Constraints); c != "" && c != "{}" {
			d.Constraints = a.Constraints
		}
		if a.Value != "" {
			d.value = a.Value
		}
		if a.Editable != nil {
			d.editable = *a.Editable
		}
	}
}

// find returns the definition that name belongs to, and which part of it.
// An attribute that only a script has is a string.
func (m *merge) find(name string) (d *definition, part string) {
	if d := m.defs[name]; d != nil {
		return d, ""
	}
	base, part, dotted := cutLast(name)
	if d := m.defs[base]; dotted && d != nil && d.kindOf() == TypeNIC {
		return d, strings.ToLower(part)
	}
	for _, s := range m.scripts {
		if s.Name == name && !reservedName(name) {
			return &definition{Attribute: Attribute{Name: name, Type: TypeString}, editable: true}, ""
		}
	}
	return nil, ""
}

func cutLast(name string) (base, part string, found bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return name, "", false
	}
	return name[:i], name[i+1:], true
}

// take adds one attribute of the profile.
func (m *merge) take(a Attribute) error {
	d, part := m.find(a.Name)
	if d == nil {
		return Errorf(Invalid, a.object(), "is not one of the plan's").Fix("Use one of: " + strings.Join(m.known(), ", ") + ".")
	}
	if part == "" && d.kindOf() == TypeNIC {
		if a.Value == "" {
			return nil // some clients send the attribute itself along with its parts
		}
		return Errorf(Invalid, a.object(), "is a network attribute and takes no value itself").
			Fix("Set its parts, such as " + a.Name + ".ipaddress and " + a.Name + ".netmask.")
	}
	if a.Value == "" && (part != "" || d.kindOf() != TypeString) {
		return nil
	}
	if a.Value == m.values[a.Name] && part == "" {
		return nil
	}
	if !d.editable {
		return Errorf(Invalid, a.object(), "may not be changed by a server profile: the deployment plan says that it is not editable").
			Fix("Leave it out, or make it editable in the deployment plan.")
	}
	if part == "" {
		m.values[a.Name] = a.Value
		return nil
	}
	check, ok := nicParts[part]
	if !ok {
		return Errorf(Invalid, a.object(), "network attributes have no part %q", part).
			Fix("Use one of: " + strings.Join(slices.Sorted(maps.Keys(nicParts)), ", ") + ".")
	}
	if check != nil && !check(a.Value) {
		form := nicForms[part]
		if form == "" {
			form = "Send a value of the form that " + part + " has: " + example(part) + "."
		}
		return Errorf(Invalid, a.object(), "%q is not a %s", a.Value, part).Fix(form)
	}
	if err := ValidateValue(Attribute{Name: a.Name, Type: TypeString}, a.Value); err != nil {
		return err
	}
	m.values[d.Name+"."+part] = a.Value
	return nil
}

func example(part string) string {
	switch {
	case strings.HasPrefix(part, "mac"):
		return "02:00:00:00:00:01"
	case part == "dhcp" || part == "ipv4disable":
		return "true or false"
	}
	return "192.0.2.10"
}

func (m *merge) known() []string {
	var names []string
	for name, d := range m.defs {
		if d.kindOf() == TypeNIC {
			name += ".*"
		}
		names = append(names, name)
	}
	for _, s := range m.scripts {
		if base, _, dotted := cutLast(s.Name); !reservedName(s.Name) && m.defs[s.Name] == nil && !(dotted && m.defs[base] != nil) {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// validate checks every value, and that the scripts get all they ask for.
func (m *merge) validate() error {
	for _, name := range slices.Sorted(maps.Keys(m.values)) {
		d, part := m.find(name)
		if part != "" {
			continue // checked when it was taken
		}
		if err := ValidateValue(d.Attribute, m.values[name]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.defs)) {
		if d := m.defs[name]; d.kindOf() == TypeNIC {
			if err := m.network(d); err != nil {
				return err
			}
		}
	}
	for _, s := range m.scripts {
		if err := m.given(s); err != nil {
			return err
		}
	}
	return nil
}

// given checks that s has a value, and gives an empty one to a string that a
// plan declares.
func (m *merge) given(s ScriptAttribute) error {
	if _, ok := m.values[s.Name]; ok || s.Value != "" || s.HasDefault || reservedName(s.Name) {
		return nil
	}
	d, declared := m.defs[s.Name]
	switch base, _, dotted := cutLast(s.Name); {
	case declared && (d.kindOf() == TypeString || d.kindOf() == TypeNIC):
		if d.kindOf() == TypeString {
			if err := ValidateValue(d.Attribute, ""); err != nil {
				return err
			}
			m.values[s.Name] = ""
		}
		return nil
	case declared && d.kindOf() == TypePassword && ValidateValue(d.Attribute, "") == nil:
		m.values[s.Name] = ""
		return nil
	case dotted && m.defs[base] != nil:
		return nil // a part of a network attribute may stay empty
	}
	if m.elsewhere(s.Name) {
		return nil
	}
	return Errorf(Invalid, "attribute "+s.Name, "has no value, and a plan script asks for it").
		Fix("Set it in the server profile or in the deployment plan.")
}

// elsewhere says whether another use of the attribute has a default.
func (m *merge) elsewhere(name string) bool {
	return slices.ContainsFunc(m.scripts, func(s ScriptAttribute) bool {
		return s.Name == name && (s.Value != "" || s.HasDefault)
	})
}

// network checks the parts of a network attribute against each other and its
// constraints.
func (m *merge) network(d *definition) error {
	c, err := d.constraints()
	if err != nil {
		return ValidateAttribute(d.Attribute)
	}
	get := func(part string) string { return m.values[d.Name+"."+part] }
	no := func(b *bool) bool { return b != nil && !*b }
	forbidden := func(part, what string) error {
		return Errorf(Invalid, "attribute "+d.Name+"."+part, "%q: the plan does not allow %s here", get(part), what).
			Fix("Choose another way to configure the network, or change the constraints of " + d.Name + " in the plan.")
	}
	switch {
	case strings.EqualFold(get("ipv4disable"), "true"):
		if no(c.Disable) {
			return forbidden("ipv4disable", "a port without IPv4")
		}
	case strings.EqualFold(get("dhcp"), "true") || strings.EqualFold(get("constraint"), "dhcp"):
		if no(c.DHCP) {
			return forbidden("dhcp", "DHCP")
		}
	case get("ipaddress") != "":
		if no(c.Static) {
			return forbidden("ipaddress", "a static address")
		}
		if get("netmask") == "" && m.asked(d.Name+".netmask") {
			return Errorf(Invalid, "attribute "+d.Name+".netmask", "is missing, but %s.ipaddress is given", d.Name).Fix("Set both.")
		}
	}
	return nil
}

func (m *merge) asked(name string) bool {
	return slices.ContainsFunc(m.scripts, func(s ScriptAttribute) bool { return s.Name == name && s.Value == "" })
}

// VolumeSizeMiB returns the size that the attribute VolumeSize asks for, of a
// volume without a golden image (spec section 5.2); ok is false without it.
func VolumeSizeMiB(values map[string]string) (mib int64, ok bool, err error) {
	for _, name := range []string{"VolumeSize", "volumesize"} {
		v := values[name]
		if v == "" {
			continue
		}
		mib, err := strconv.ParseInt(v, 10, 64)
		if err != nil || mib < 1 || mib > 1<<24 {
			return 0, true, Errorf(Invalid, "attribute "+name, "%q is not a size", v).
				Fix("Send a whole number of MiB, from 1 to 16777216.")
		}
		return mib, true, nil
	}
	return 0, false, nil
}

// KeepSecrets puts passwords back that a client returned masked: a password in
// sent without a value gets the one that the attribute of the same name had.
func KeepSecrets(sent, had []Attribute) []Attribute {
	old := map[string]Attribute{}
	for _, a := range had {
		old[a.Name] = a
	}
	out := slices.Clone(sent)
	for i, a := range out {
		before, known := old[a.Name]
		if a.Value == "" && known && (IsSecret(a) || a.Type == "" && IsSecret(before)) {
			out[i].Value = before.Value
		}
	}
	return out
}

// AssignMACs fills in "NIC.mac" of network attributes that have other parts but
// no MAC: the port that connectionid counts to, else the next that is free.
func AssignMACs(values map[string]string, macs []string) {
	used := map[string]bool{}
	var nics []string
	for key, v := range values {
		base, part, dotted := cutLast(key)
		if !dotted || nicParts[part] == nil && part != "connectionid" && part != "networkuri" && part != "domain" {
			continue
		}
		if part == "mac" {
			used[strings.ToLower(v)] = true
		}
		nics = append(nics, base)
	}
	slices.Sort(nics)
	nics = slices.Compact(nics)
	for pass := range 2 {
		for _, nic := range nics {
			if values[nic+".mac"] != "" {
				continue
			}
			if n, err := strconv.Atoi(values[nic+".connectionid"]); pass == 0 {
				if err == nil && n >= 1 && n <= len(macs) && !used[strings.ToLower(macs[n-1])] {
					values[nic+".mac"] = macs[n-1]
					used[strings.ToLower(macs[n-1])] = true
				}
				continue
			}
			for _, mac := range macs {
				if !used[strings.ToLower(mac)] {
					values[nic+".mac"] = mac
					used[strings.ToLower(mac)] = true
					break
				}
			}
		}
	}
}
