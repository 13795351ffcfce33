package pool

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStatus(t *testing.T) {
	for _, c := range []struct {
		line string
		want Status
	}{
		{"0 1652/16384 21/65536 - rw discard_passdown error_if_no_space - 1024 ",
			Status{MetaUsed: 1652 * 4096, MetaTotal: 16384 * 4096, DataUsed: 21 << 16, DataTotal: 65536 << 16}},
		{"3 10/100 100/100 - out_of_data_space discard_passdown error_if_no_space - 1024",
			Status{MetaUsed: 40960, MetaTotal: 409600, DataUsed: 100 << 16, DataTotal: 100 << 16, OutOfSpace: true}},
		{"3 10/100 1/100 - ro discard_passdown error_if_no_space needs_check 1024",
			Status{MetaUsed: 40960, MetaTotal: 409600, DataUsed: 1 << 16, DataTotal: 100 << 16, ReadOnly: true, NeedsCheck: true}},
		{"Fail", Status{Failed: true}},
	} {
		got, err := parseStatus(c.line)
		if err != nil {
			t.Errorf("parseStatus(%q): %v", c.line, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("parseStatus(%q): %s", c.line, diff)
		}
	}
	for _, bad := range []string{"", "0 1/2", "0 x/2 1/2 - rw", "0 1 2 3 4 5"} {
		if s, err := parseStatus(bad); err == nil {
			t.Errorf("parseStatus(%q) = %+v, want an error", bad, s)
		}
	}
}

func TestGuard(t *testing.T) {
	at := func(data, meta uint64) Status {
		return Status{DataUsed: data << 20, DataTotal: 100 << 20, MetaUsed: meta << 12, MetaTotal: 100 << 12}
	}
	for _, c := range []struct {
		name string
		s    Status
		need uint64
		full bool
		ok   bool
		warn bool
	}{
		{"empty", at(0, 10), 0, false, true, false},
		{"at the warning", at(70, 10), 0, false, true, false},
		{"above the warning", at(71, 10), 0, false, true, true},
		{"metadata above the warning", at(1, 71), 0, false, true, true},
		{"at the limit", at(85, 10), 0, false, true, true},
		{"data full", at(86, 10), 0, true, false, true},
		{"metadata full", at(1, 86), 0, true, false, true},
		{"image fits exactly", at(5, 10), 80 << 20, false, true, false},
		{"image too large", at(5, 10), 80<<20 + 1, true, false, false},
		{"read-only", Status{ReadOnly: true}, 0, false, false, true},
		{"failed", Status{Failed: true}, 0, false, false, true},
	} {
		err := c.s.Guard(c.need)
		if (err == nil) != c.ok || errors.Is(err, ErrPoolFull) != c.full {
			t.Errorf("%s: Guard(%d) = %v", c.name, c.need, err)
		}
		if (c.s.Warning() != "") != c.warn {
			t.Errorf("%s: Warning = %q", c.name, c.s.Warning())
		}
	}
	err := at(90, 12).Guard(0)
	for _, w := range []string{"90.0 %", "100.0 MiB", "12.0 %", "85 %", "delete"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("Guard's error %q lacks %q", err, w)
		}
	}
}
