package qemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"baystream/image"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// guestImage makes an image of Debian's kernel and the guest that tells what
// it sees.
func guestImage(t *testing.T) Option {
	t.Helper()
	NeedQEMU(t)
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cache := os.Getenv("BAYSTREAM_CACHE")
	if cache == "" {
		cache = filepath.Join(root, "build", "cache")
	}
	pkg := image.KernelPackage(image.FlavourGeneric)
	debs, err := image.FetchDebs(t.Context(), cache, pkg)
	if errors.Is(err, image.ErrNoPackages) {
		t.Skipf("needs Debian's kernel package: %v", err)
	}
	must(t, err)
	kernel, err := image.KernelFromDeb(debs[pkg])
	must(t, err)
	files, err := kernel.ModuleFiles("virtio_pci", "virtio_net", "virtio_blk", "8021q", "ipmi_si", "ipmi_devintf")
	must(t, err)
	dir := t.TempDir()
	guest := filepath.Join(dir, "guest")
	must(t, image.GoBuild(t.Context(), root, "./qemu/internal/guest", guest))
	program, err := os.ReadFile(guest)
	must(t, err)
	files = append(files, image.Program("init", program), image.Dir("dev"), image.Dir("proc"), image.Dir("sys"))
	var cpio bytes.Buffer
	must(t, image.Pack(&cpio, files))
	vmlinux, err := kernel.Vmlinux()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "vmlinux"), vmlinux, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "initrd"), cpio.Bytes(), 0o600))
	return func(c *Config) {
		c.Kernel, c.Initramfs = filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd")
		c.Cmdline = "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check"
		c.Appliance.MemoryMiB, c.Appliance.CPUs, c.DiskBytes = 192, 1, 64<<20
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tell types a line and waits until the guest has done it.
func tell(t *testing.T, b *Bay, line string) {
	t.Helper()
	mark := b.Console().Mark()
	_, err := fmt.Fprintln(b.Console(), line)
	must(t, err)
	m, err := b.Console().WaitFrom(Context(t, 10*time.Second), mark, regexp.MustCompile(`guest: (ok )?`+regexp.QuoteMeta(line)+`.*\n`))
	must(t, err)
	if m[1] == "" {
		t.Fatal(strings.TrimSpace(m[0]))
	}
}

// ask is tell for a line that is answered with something.
func ask(t *testing.T, b *Bay, line string) string {
	t.Helper()
	mark := b.Console().Mark()
	tell(t, b, line)
	_, text, ok := strings.Cut(b.Console().Since(mark), "guest: says ")
	if !ok {
		t.Fatalf("%s: no answer: %s", line, b.Console().Since(mark))
	}
	text, _, _ = strings.Cut(text, "\n")
	return text
}

func ready(t *testing.T, b *Bay) {
	t.Helper()
	_, err := b.WaitConsole(Context(t, 20*time.Second), regexp.MustCompile(`guest: ready`))
	must(t, err)
}

// One frame for all of it: a boot is what costs.
func TestFrameModuleSeesItsPlace(t *testing.T) {
	f := StartBare(t, guestImage(t), Compute(1))
	a := f.Appliance()
	ready(t, a)

	var got []string
	for _, line := range strings.Split(a.Console().Since(0), "\n") {
		if said, ok := strings.CutPrefix(line, "guest: "); ok {
			got = append(got, said)
		}
	}
	want := []string{
		"location appliance bay 1",
		"oem baystream:management=address:192.0.2.10/24,gateway:192.0.2.1",
		"oem baystream:deployment=vlan:1300,address:198.51.100.2/24,pool:198.51.100.100-198.51.100.199,mtu:1500",
		"disk 131072",
		"slot 1 02:61:00:01:01:01", "slot 2 02:61:00:01:01:02", "slot 3 02:61:00:01:01:03", "slot 6 02:61:00:01:01:06",
		"ready",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the module sees (-want +got):\n%s", diff)
	}

	// Management: untagged; the forward on 127.0.0.1 leads to the module.
	tell(t, a, "addr 1 0 192.0.2.10/24")
	must(t, f.Host().Ping(Context(t, 5*time.Second), netip.MustParseAddr("192.0.2.10")))
	tell(t, a, "listen 443")
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.Access().RESTURL, "https://"))
	must(t, err)
	go func() {
		conn.Write(bytes.Repeat([]byte("baystream "), 20_000))
		conn.(*net.TCPConn).CloseWrite()
	}()
	echo, err := io.ReadAll(conn)
	if err != nil || len(echo) != 200_000 {
		t.Errorf("the forward echoed %d bytes, %v, want 200000", len(echo), err)
	}

	// Deployment: tagged on slot 6, through both interconnect modules.
	tell(t, a, "addr 6 1300 198.51.100.2/24")
	d, err := f.DeploymentHost()
	must(t, err)
	server := netip.MustParseAddr("198.51.100.2")
	must(t, d.Ping(Context(t, 5*time.Second), server))
	if _, err := f.DeploymentHost(); err != nil {
		t.Errorf("a second call: %v", err)
	}

	t.Run("BMC", func(t *testing.T) { theBMCTellsOfTheFrame(t, f) })

	// The watchdog's reset was another boot on the same VM; power off and on is
	// a new process.
	a.PowerOff()
	if a.On() {
		t.Error("on after PowerOff")
	}
	if err := a.Reset(t.Context()); !errors.Is(err, ErrOff) {
		t.Errorf("Reset of a bay without power = %v, want ErrOff", err)
	}
	must(t, a.SetLink(t.Context(), 3, false))
	must(t, a.PowerOn(Context(t, 10*time.Second)))
	ready(t, a)
	tell(t, a, "addr 1 0 192.0.2.10/24")
	must(t, f.Host().Ping(Context(t, 5*time.Second), netip.MustParseAddr("192.0.2.10")))
	if got := ask(t, a, "carrier 3"); got != "0" {
		t.Errorf("carrier of slot 3 = %s: the cable was out at power-on", got)
	}
	must(t, f.SetCarrier(t.Context(), f.rig.networks[1], a.Name(), true))
	if got := ask(t, a, "carrier 3"); got != "1" {
		t.Errorf("carrier of slot 3 = %s after it came back", got)
	}

	_, err = fmt.Fprintln(a.Console(), "poweroff")
	must(t, err)
	must(t, a.WaitOff(Context(t, 10*time.Second)))
	log, err := os.ReadFile(a.ConsoleLog())
	must(t, err)
	if n := bytes.Count(log, []byte("guest: ready")); n != 3 {
		t.Errorf("the console log has %d boots, want 3", n)
	}
}

// A compute module asks for an address on the deployment VLAN by its own
// firmware.
func TestFrameComputeModuleBootsFromTheNetwork(t *testing.T) {
	for _, firmware := range []Firmware{BIOS, UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			f := StartBare(t, guestImage(t), Compute(1), func(c *Config) { c.Firmware = firmware })
			f.Appliance().PowerOff()
			d, err := f.DeploymentHost()
			must(t, err)
			dhcp, err := d.ListenUDP(67)
			must(t, err)
			c := f.Compute(1)
			must(t, c.PowerOn(Context(t, 10*time.Second)))
			must(t, dhcp.SetReadDeadline(time.Now().Add(Deadline(20*time.Second))))
			buf := make([]byte, 2000)
			n, _, err := dhcp.ReadFrom(buf)
			must(t, err)
			if n < 34 || net.HardwareAddr(buf[28:34]).String() != c.MACs[0] { // chaddr, RFC 2131
				t.Errorf("DHCP from %x, want %s", buf[28:34], c.MACs[0])
			}
			_, err = c.WaitConsole(Context(t, 20*time.Second), regexp.MustCompile(`iPXE`))
			must(t, err)
		})
	}
}

// theBMCTellsOfTheFrame reads the frame's document through the kernel's IPMI
// driver, asks the frame manager as it says, and lets the watchdog bite.
func theBMCTellsOfTheFrame(t *testing.T, f *Frame) {
	a := f.Appliance()
	var doc Document
	must(t, json.Unmarshal([]byte(ask(t, a, "fru 1")), &doc))
	want := Document{Frame: "VF0001", Bay: "appliance bay 1", Address: netip.MustParsePrefix("169.254.1.11/16"),
		Manager: DocumentManager{URL: "https://169.254.1.1", SHA256: f.manager.Fingerprint(), User: "bay-appliance-1"},
		Bays:    []DocumentBay{{"appliance bay 1", "appliance"}, {"device bay 1", "compute"}, {"interconnect bay 3", "interconnect"}, {"interconnect bay 6", "interconnect"}}}
	if diff := cmp.Diff(want, doc, cmpopts.IgnoreFields(DocumentManager{}, "Password"), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("the frame's document (-want +got):\n%s", diff)
	}
	must(t, a.BMC().SetSensor("Inlet Temp", 45))
	if got := ask(t, a, "ipmi 4 2d 1"); got != "00 2d c0 d8" { // 45 degrees, over two limits
		t.Errorf("sensor 1 reads %s", got)
	}

	tell(t, a, "addr 2 0 "+doc.Address.String())
	page := ask(t, a, fmt.Sprintf("get %s/redfish/v1/Chassis/VF0001-appliance-bay-1 %s %s %s", doc.Manager.URL, doc.Manager.User, doc.Manager.Password, doc.Manager.SHA256))
	if !strings.HasPrefix(page, "200 OK") || !strings.Contains(page, `\"Health\": \"Critical\"`) {
		t.Errorf("the manager says of a hot module: %s", page)
	}
	a.BMC().HealSensors()

	tell(t, a, "ipmi 6 24 4 1 0 10 5 0") // the watchdog: reset after 0.5 s
	mark := a.Console().Mark()
	_, err := fmt.Fprintln(a.Console(), "ipmi 6 22")
	must(t, err)
	_, err = a.Console().WaitFrom(Context(t, 20*time.Second), mark, regexp.MustCompile(`guest: ready`))
	must(t, err)
	if log := a.BMC().Log(); log[len(log)-1].Raw[10] != 0x23 { // watchdog 2
		t.Errorf("the event log ends with % x, want the watchdog", log[len(log)-1].Raw)
	}
}
