package hw

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/smbios"
)

// tables is what we want from the SMBIOS structures, as the firmware spelt it.
type tables struct {
	manufacturer, product, serial, uuid string   // type 1
	location                            []string // type 2, one per board
	chassis                             string   // serial of type 3
	oem                                 []string // type 11
}

// readTables reads the raw SMBIOS structures that the kernel found.
// The error wraps fs.ErrNotExist on a machine without any.
func readTables(root string) (tables, error) {
	b, err := os.ReadFile(filepath.Join(root, "sys/firmware/dmi/tables/DMI"))
	if errors.Is(err, fs.ErrPermission) {
		return tables{}, fmt.Errorf("%w (only root may read it)", err)
	}
	if err != nil {
		return tables{}, err
	}
	return parseTables(b)
}

// parseTables parses the structures of DSP0134 section 6.1.2 up to the end
// marker (type 127); what lies behind it is padding. A structure that is cut
// off ends the walk with an error, beside what came before it.
func parseTables(data []byte) (tables, error) {
	var t tables
	var errs []error
	seen := map[smbios.TableType]bool{}
	for len(data) > 0 {
		tab, rest, err := smbios.ParseTable(data)
		if tab == nil {
			errs = append(errs, fmt.Errorf("%d bytes before the end: %w", len(data), err))
			break
		}
		if err := t.add(tab, !seen[tab.Type]); err != nil {
			errs = append(errs, fmt.Errorf("type %d: %w", tab.Type, err))
		}
		seen[tab.Type] = true
		if tab.Type == smbios.TableTypeEndOfTable {
			break
		}
		data = rest
	}
	return t, errors.Join(errs...)
}

// add takes the wanted fields of one structure; first is true for the first
// of its type, which counts where only one should exist.
func (t *tables) add(tab *smbios.Table, first bool) error {
	switch tab.Type {
	case smbios.TableTypeSystemInfo:
		if !first {
			return nil
		}
		si, err := smbios.ParseSystemInfo(tab)
		if err != nil {
			return err
		}
		t.manufacturer, t.product, t.serial = clean(si.Manufacturer), clean(si.ProductName), clean(si.SerialNumber)
		if u := si.UUID.String(); strings.Contains(u, "-") { // else "Not Settable", "Not Present"
			t.uuid = u
		}
	case smbios.TableTypeBaseboardInfo:
		bi, err := smbios.ParseBaseboardInfo(tab)
		if err != nil {
			return err
		}
		if l := clean(bi.LocationInChassis); l != "" {
			t.location = append(t.location, l)
		}
	case smbios.TableTypeChassisInfo:
		if !first {
			return nil
		}
		ci, err := smbios.ParseChassisInfo(tab)
		if err != nil {
			return err
		}
		t.chassis = clean(ci.SerialNumber)
	case 11: // OEM strings, DSP0134 section 7.12
		oem, err := oemStrings(tab)
		if err != nil {
			return err
		}
		t.oem = append(t.oem, oem...)
	}
	return nil
}

// oemStrings returns the strings of a type 11 structure: its only field is
// their count.
func oemStrings(tab *smbios.Table) ([]string, error) {
	n, err := tab.GetByteAt(4)
	if err != nil {
		return nil, err
	}
	raw, err := tab.MarshalBinary()
	if err != nil {
		return nil, err
	}
	var out []string
	for s := range bytes.SplitSeq(raw[tab.Len():], []byte{0}) {
		if len(s) > 0 && len(out) < int(n) {
			out = append(out, strings.ToValidUTF8(string(s), "?"))
		}
	}
	return out, nil
}

// clean drops what firmware and parser put where there is no value.
func clean(s string) string {
	s = strings.TrimSpace(strings.ToValidUTF8(s, "?"))
	if s == "Not Specified" || s == "<OUT OF SPEC>" {
		return ""
	}
	return s
}
