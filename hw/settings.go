package hw

import (
	"errors"
	"fmt"
	"strings"
)

const settingPrefix = "baystream:"

// ParseSettings picks the frame's settings, "baystream:KEY=VALUE", out of a
// machine's OEM strings. Strings of other makers are left out. Keys are lower
// case letters, digits, "-", "." and "_". A setting of ours that is malformed,
// or given twice with different values, is an error and left out; the others
// are returned beside it. The map is never nil.
func ParseSettings(oem []string) (map[string]string, error) {
	out := map[string]string{}
	clash := map[string]bool{}
	var errs []error
	for _, s := range oem {
		rest, ours := strings.CutPrefix(strings.TrimSpace(s), settingPrefix)
		if !ours {
			continue
		}
		key, value, ok := strings.Cut(rest, "=")
		if !ok || !validKey(key) {
			errs = append(errs, fmt.Errorf("OEM string %q: want %sKEY=VALUE", s, settingPrefix))
			continue
		}
		if old, dup := out[key]; dup && old != value || clash[key] {
			errs = append(errs, fmt.Errorf("setting %s: given more than once: keep one OEM string %s%s=", key, settingPrefix, key))
			clash[key] = true
			delete(out, key)
			continue
		}
		out[key] = value
	}
	return out, errors.Join(errs...)
}

// ParseFields splits a setting's value of the form
// "address:192.0.2.10/24,gateway:192.0.2.1" into its fields. A field's value
// may itself contain colons. An empty value has no fields.
func ParseFields(value string) (map[string]string, error) {
	out := map[string]string{}
	if strings.TrimSpace(value) == "" {
		return out, nil
	}
	for f := range strings.SplitSeq(value, ",") {
		key, v, ok := strings.Cut(strings.TrimSpace(f), ":")
		if !ok || !validKey(key) {
			return nil, fmt.Errorf("field %q of %q: want NAME:VALUE", f, value)
		}
		if _, dup := out[key]; dup {
			return nil, fmt.Errorf("field %s of %q: given more than once", key, value)
		}
		out[key] = strings.TrimSpace(v)
	}
	return out, nil
}

func validKey(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-._", c) {
			return false
		}
	}
	return s != ""
}
