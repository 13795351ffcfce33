package target

import (
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// fakeKernel behaves like LIO's configfs: a new directory arrives with its
// attributes and default groups, a directory in use refuses to go, an attribute
// is never unlinked, and some values are refused while a LUN is exported.
type fakeKernel struct {
	dirs  map[string]bool
	def   map[string]bool // made by the kernel: cannot be removed by hand
	attrs map[string]string
	links map[string]string
	local map[string]bool // addresses a portal may have
	ops   int             // changes made
	fail  map[string]error
}

func newFake() *fakeKernel {
	f := &fakeKernel{dirs: map[string]bool{}, def: map[string]bool{}, attrs: map[string]string{}, links: map[string]string{},
		local: map[string]bool{"192.0.2.1:3260": true}, fail: map[string]error{}}
	for _, d := range []string{"iscsi", "core", hba} {
		f.dirs[d] = true
	}
	return f
}

func (f *fakeKernel) group(dir string, attrs map[string]string) {
	f.dirs[dir] = true
	for k, v := range attrs {
		f.attrs[dir+"/"+k] = v
	}
}

func (f *fakeKernel) defaults(parent string, names ...string) {
	for _, n := range names {
		f.dirs[parent+"/"+n], f.def[parent+"/"+n] = true, true
	}
}

func (f *fakeKernel) Mkdir(d string) error {
	if f.dirs[d] {
		return &os.PathError{Op: "mkdir", Path: d, Err: unix.EEXIST}
	}
	if !f.dirs[path.Dir(d)] {
		return &os.PathError{Op: "mkdir", Path: d, Err: unix.ENOENT}
	}
	if err := f.fail["mkdir "+d]; err != nil {
		return err
	}
	switch p := strings.Split(d, "/"); {
	case p[0] == "core" && len(p) == 3:
		f.group(d, map[string]string{"control": "", "enable": "0", "info": "Status: DEACTIVATED",
			"wwn/vpd_unit_serial": "", "wwn/vendor_id": "LIO-ORG", "wwn/product_id": "",
			"attrib/emulate_tpu": "0", "attrib/emulate_tpws": "0", "attrib/emulate_3pc": "1"})
		f.defaults(d, "wwn", "attrib")
	case p[0] == "iscsi" && len(p) == 2:
		f.group(d, nil)
	case p[0] == "iscsi" && len(p) == 3:
		f.group(d, map[string]string{"enable": "0", "attrib/authentication": "1", "attrib/generate_node_acls": "0",
			"attrib/demo_mode_write_protect": "1", "param/DefaultTime2Wait": "2",
			"param/InitialR2T": "Yes", "param/FirstBurstLength": "65536", "param/MaxRecvDataSegmentLength": "8192"})
		f.defaults(d, "lun", "np", "acls", "attrib", "param")
	case len(p) == 5 && p[3] == "lun":
		f.group(d, nil)
		f.defaults(d, "statistics")
	case len(p) == 5 && p[3] == "np":
		if !f.local[p[4]] {
			return &os.PathError{Op: "mkdir", Path: d, Err: unix.EADDRNOTAVAIL}
		}
		f.group(d, nil)
	case len(p) == 5 && p[3] == "acls":
		f.group(d, map[string]string{"info": "No active iSCSI Session for Initiator Endpoint: " + p[4],
			"auth/userid": "", "auth/password": ""})
		f.defaults(d, "auth", "param")
	case len(p) == 6 && p[3] == "acls":
		f.group(d, nil)
		f.defaults(d, "statistics")
	default:
		return &os.PathError{Op: "mkdir", Path: d, Err: unix.EPERM}
	}
	f.ops++
	return nil
}

func (f *fakeKernel) Remove(d string) error {
	if !f.dirs[d] {
		return &os.PathError{Op: "rmdir", Path: d, Err: unix.ENOENT}
	}
	if f.def[d] {
		return &os.PathError{Op: "rmdir", Path: d, Err: unix.EPERM}
	}
	for l, to := range f.links {
		if to == d || strings.HasPrefix(l, d+"/") {
			return &os.PathError{Op: "rmdir", Path: d, Err: unix.EBUSY}
		}
	}
	for o := range f.dirs {
		if strings.HasPrefix(o, d+"/") && !f.def[o] {
			return &os.PathError{Op: "rmdir", Path: d, Err: unix.ENOTEMPTY}
		}
	}
	for o := range f.dirs {
		if o == d || strings.HasPrefix(o, d+"/") {
			delete(f.dirs, o)
			delete(f.def, o)
		}
	}
	for a := range f.attrs {
		if strings.HasPrefix(a, d+"/") {
			delete(f.attrs, a)
		}
	}
	f.ops++
	return nil
}

func (f *fakeKernel) Write(attr, value string) error {
	old, ok := f.attrs[attr]
	if !ok {
		return &os.PathError{Op: "open", Path: attr, Err: unix.ENOENT}
	}
	if err := f.fail["write "+attr]; err != nil {
		return err
	}
	p := strings.Split(attr, "/")
	store := path.Join(p[:min(3, len(p))]...)
	exported := false
	for _, to := range f.links {
		exported = exported || to == store
	}
	invalid := &os.PathError{Op: "write", Path: attr, Err: unix.EINVAL}
	switch {
	case p[0] == "core" && p[3] == "enable":
		if f.attrs[store+"/enable"] == "1" || f.attrs[store+"/control"] == "" {
			return invalid
		}
		f.attrs[store+"/info"] = "Status: ACTIVATED\n iBlock device: x  UDEV PATH: " +
			strings.TrimPrefix(f.attrs[store+"/control"], "udev_path=") + "  readonly: 0"
	case p[0] == "core" && len(p) > 4 && p[3] == "wwn" && exported,
		p[0] == "core" && len(p) > 4 && p[3] == "attrib" && f.attrs[store+"/enable"] != "1": // the real one crashes
		return invalid
	case strings.Contains(attr, "/auth/") && strings.HasSuffix(value, "\n"):
		return invalid // the real one takes it and then no login works
	}
	if old != value {
		f.attrs[attr] = value
	}
	f.ops++
	return nil
}

func (f *fakeKernel) Read(attr string) (string, error) {
	v, ok := f.attrs[attr]
	if !ok {
		return "", &os.PathError{Op: "open", Path: attr, Err: unix.ENOENT}
	}
	return v, nil
}

func (f *fakeKernel) Link(to, from string) error {
	if !f.dirs[to] || !f.dirs[path.Dir(from)] {
		return &os.PathError{Op: "link", Path: from, Err: unix.ENOENT}
	}
	if strings.HasPrefix(to, "core/") && f.attrs[to+"/enable"] != "1" {
		return &os.PathError{Op: "link", Path: from, Err: unix.ENODEV}
	}
	f.links[from] = to
	f.ops++
	return nil
}

func (f *fakeKernel) Unlink(l string) error {
	if _, ok := f.links[l]; !ok {
		return &os.PathError{Op: "unlink", Path: l, Err: unix.EPERM}
	}
	delete(f.links, l)
	f.ops++
	return nil
}

func (f *fakeKernel) Readlink(l string) (string, error) {
	to, ok := f.links[l]
	if !ok {
		return "", &os.PathError{Op: "readlink", Path: l, Err: unix.EINVAL}
	}
	return to, nil
}

func (f *fakeKernel) List(d string) ([]string, error) {
	if !f.dirs[d] {
		return nil, &os.PathError{Op: "open", Path: d, Err: fs.ErrNotExist}
	}
	var out []string
	for o := range f.dirs {
		if path.Dir(o) == d {
			out = append(out, path.Base(o))
		}
	}
	for l := range f.links {
		if path.Dir(l) == d {
			out = append(out, path.Base(l))
		}
	}
	sort.Strings(out)
	return out, nil
}
