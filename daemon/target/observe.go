package target

import (
	"errors"
	"io/fs"
	"strings"
)

// state is what configfs holds for one target and its backstore. A missing
// directory has an empty or false field; attributes are read only where a plan
// looks at them.
type state struct {
	iqn     string
	store   string            // "core/iblock_0/NAME", empty when missing
	name    string            // backstore's name
	device  string            // udev_path the backstore was enabled with
	storeOn bool              // backstore is enabled
	attrs   map[string]string // path below the target root -> value
	iscsi   bool              // iscsi/IQN is there
	tpg     bool              // iscsi/IQN/tpgt_1
	tpgOn   bool
	lun     bool
	lunLink string            // name of the link in lun_0, empty when none
	lunTo   string            // backstore it leads to
	portals []string          // np entries
	acls    map[string]aclHas // by initiator
}

type aclHas struct {
	lun     bool   // lun_0 directory
	lunLink string // its link
}

const hba = "core/iblock_0"

func tpgDir(iqn string) string { return "iscsi/" + iqn + "/tpgt_1" }

// attributes that hold a value worth comparing, below the two roots.
func storeAttrs(store string) []string {
	return []string{
		store + "/wwn/vpd_unit_serial", store + "/wwn/vendor_id", store + "/wwn/product_id",
		store + "/attrib/emulate_tpu", store + "/attrib/emulate_tpws", store + "/attrib/emulate_3pc",
	}
}

func tpgAttrs(iqn string) []string {
	d := tpgDir(iqn)
	return []string{d + "/attrib/authentication", d + "/attrib/generate_node_acls", d + "/attrib/demo_mode_write_protect",
		d + "/param/DefaultTime2Wait", d + "/param/InitialR2T", d + "/param/FirstBurstLength", d + "/param/MaxRecvDataSegmentLength"}
}

func aclAttrs(iqn, ini string) []string {
	d := tpgDir(iqn) + "/acls/" + ini
	return []string{d + "/auth/userid", d + "/auth/password"}
}

// observe reads the state of one target. An empty name is found through the
// target's LUN.
func observe(c configfs, iqn, name string) (state, error) {
	s := state{iqn: iqn, name: name, attrs: map[string]string{}, acls: map[string]aclHas{}}
	if err := s.observeTarget(c); err != nil {
		return s, err
	}
	if s.name == "" && s.lunTo != "" {
		s.name = s.lunTo[strings.LastIndexByte(s.lunTo, '/')+1:]
	}
	if s.name == "" {
		return s, nil
	}
	return s, s.observeStore(c)
}

func (s *state) observeStore(c configfs) error {
	store := hba + "/" + s.name
	on, err := c.Read(store + "/enable")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.store, s.storeOn = store, on == "1"
	info, err := c.Read(store + "/info")
	if err != nil {
		return err
	}
	s.device = parseDevice(info)
	return s.readAll(c, storeAttrs(store))
}

func (s *state) observeTarget(c configfs) error {
	if _, err := c.List("iscsi/" + s.iqn); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	s.iscsi = true
	d := tpgDir(s.iqn)
	on, err := c.Read(d + "/enable")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.tpg, s.tpgOn = true, on == "1"
	if err := s.readAll(c, tpgAttrs(s.iqn)); err != nil {
		return err
	}
	if s.lun, s.lunLink, s.lunTo, err = link(c, d+"/lun/lun_0"); err != nil {
		return err
	}
	if s.portals, err = listOrNone(c, d+"/np"); err != nil {
		return err
	}
	acls, err := listOrNone(c, d+"/acls")
	if err != nil {
		return err
	}
	for _, ini := range acls {
		var a aclHas
		if a.lun, a.lunLink, _, err = link(c, d+"/acls/"+ini+"/lun_0"); err != nil {
			return err
		}
		s.acls[ini] = a
		if err := s.readAll(c, aclAttrs(s.iqn, ini)); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) readAll(c configfs, attrs []string) error {
	for _, a := range attrs {
		v, err := c.Read(a)
		if errors.Is(err, fs.ErrNotExist) {
			continue // an attribute this kernel does not have
		}
		if err != nil {
			return err
		}
		s.attrs[a] = v
	}
	return nil
}

// link finds the one symbolic link inside a LUN directory.
func link(c configfs, dir string) (there bool, name, to string, err error) {
	names, err := c.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", "", nil
	}
	if err != nil {
		return false, "", "", err
	}
	for _, n := range names {
		if to, err := c.Readlink(dir + "/" + n); err == nil {
			return true, n, to, nil
		}
	}
	return true, "", "", nil
}

func listOrNone(c configfs, dir string) ([]string, error) {
	n, err := c.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return n, err
}

// parseDevice finds the path in an iblock backstore's info:
//
//	Status: ACTIVATED  Max Queue Depth: 0  SectorSize: 512  HwMaxSectors: 2048
//	        iBlock device: drbd1  UDEV PATH: /dev/drbd1  readonly: 0
func parseDevice(info string) string {
	_, rest, ok := strings.Cut(info, "UDEV PATH: ")
	if !ok {
		return ""
	}
	if f := strings.Fields(rest); len(f) > 0 {
		return f[0]
	}
	return ""
}
