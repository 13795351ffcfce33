package bayctl

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/domain"
)

func TestHardwareIsATree(t *testing.T) {
	newAppliance(t, map[string]string{
		"GET /rest/baystream/hw": `{"bay":{"kind":"appliance","number":1,"frame":"VF0001","manufacturer":"Baystream","product":"Virtual module","serial":"A1"},
			"settings":{"deployment":"vlan:1300"},"cpus":2,"memoryBytes":2147483648,"kernel":"6.1.0",
			"disks":[{"name":"vda","bus":"virtio","sizeBytes":4294967296,"serial":"D1"}],
			"nics":[{"name":"eth0","slot":1,"mac":"02:00:00:00:00:01","driver":"virtio_net","carrier":true,"speedMbps":1000},{"name":"eth1","mac":"02:00:00:00:00:02"}],
			"tpm":{"present":true,"version":2,"log":{"bank":"sha256","verdict":"matches","events":30},"endorsement":[{"key":"ECC P-256","serial":"abc","issuer":"CN=Maker","notAfter":"2040-01-01T00:00:00Z"}]},
			"controller":{"firmware":"1.42","ipmi":"2.0","fru":{"board":{"manufacturer":"Baystream","name":"Board","serial":"B1"}},"log":{"entries":3},
				"sensors":[{"name":"Inlet","reading":24.5,"unit":"degrees C","state":"ok","thresholds":{"upperNonCritical":38,"upperCritical":42}},{"name":"Fans","state":"ok","asserted":["Fully Redundant"]},{"name":"DIMM","state":"unavailable"}]},
			"watchdog":{"kind":"controller","identity":"IPMI","device":"/dev/watchdog","timeoutSeconds":60,"armed":true},
			"frameManager":{"url":"https://169.254.1.1","connected":true,"since":"2026-11-22T10:00:00.000Z","frames":[
				{"serial":"VF0001","model":"Virtual frame","health":"OK","bays":[{"bay":"device bay 1","present":true,"model":"Compute","serial":"C1","power":"Off","health":"OK"},{"bay":"device bay 2","present":false}]},
				{"serial":"VF0002","bays":[],"fault":"cannot be reached"}]},
			"problems":["one is wrong"]}`,
		"GET /rest/baystream/hw/events": `{"log":[{"id":1,"time":"2026-11-22T10:00:00Z","source":"baystream","sensor":"OS Boot","text":"appliance started"},
			{"id":2,"time":"0001-01-01T00:00:00Z","source":"controller","sensor":"Temperature","text":"going high","cleared":true}],
			"frame":[{"time":"2026-11-22T10:01:00Z","message":"device bay 1 is powered on"}]}`,
		"GET /rest/baystream/hw/tpm": `{"present":true,"version":2,"pcrs":{"sha256":["00","ab12","ff"]},"log":{"bank":"sha256","verdict":"matches","events":[{"pcr":1,"type":"EV","digest":"0123456789abcdef01","text":"boot"}]}}`,
	})
	out, err := command(t, "hw")
	if err != nil {
		t.Fatal(err)
	}
	want := `appliance bay 1 of frame VF0001
├─ module: Baystream Virtual module, serial A1
│  ├─ 2 CPUs, 2.0 GiB memory, kernel 6.1.0
│  └─ setting deployment: vlan:1300
├─ disks: 1
│  └─ vda: 4.0 GiB, virtio, serial D1
├─ ports: 2
│  ├─ eth0: slot 1, 02:00:00:00:00:01, virtio_net, up at 1000 Mbit/s
│  └─ eth1: 02:00:00:00:00:02, down
├─ TPM: version 2
│  ├─ firmware's log of 30 measurements (sha256): matches
│  └─ endorsement key ECC P-256: certificate abc by CN=Maker, until 2040-01-01T00:00:00Z
├─ management controller: firmware 1.42, IPMI 2.0
│  ├─ board: Baystream Board, serial B1
│  ├─ event log: 3 entries (bayctl hw events)
│  └─ sensors: 3
│     ├─ Inlet: 24.5 degrees C, ok (warning from 38, critical from 42)
│     ├─ Fans: ok, Fully Redundant
│     └─ DIMM: unavailable
├─ watchdog: controller (IPMI), armed, resets the module when it has not been fed for 60 s
├─ frame manager: https://169.254.1.1, connected since 2026-11-22T10:00:00.000Z
│  ├─ frame VF0001: Virtual frame, OK
│  │  ├─ device bay 1: power off, Compute, serial C1, OK
│  │  └─ device bay 2: empty
│  └─ frame VF0002: cannot be reached
└─ problems
   └─ one is wrong
`
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out, err = command(t, "hw", "events")
	if err != nil || !strings.Contains(out, "appliance started") || !strings.Contains(out, "unknown  ") || !strings.Contains(out, "going high (ended)") || !strings.Contains(out, "device bay 1 is powered on") {
		t.Errorf("bayctl hw events = %v\n%s", err, out)
	}
	out, err = command(t, "hw", "tpm")
	if err != nil || !strings.Contains(out, "sha256  1  ab12") || !strings.Contains(out, "0123456789abcdef...") || strings.Contains(out, "sha256  0") {
		t.Errorf("bayctl hw tpm = %v\n%s", err, out)
	}
}

func TestWatchdogInWords(t *testing.T) {
	for _, c := range []struct {
		w    *inventoryWatchdog
		want string
	}{
		{nil, "none: a module that hangs stays so until somebody comes"},
		{&inventoryWatchdog{Kind: "kernel", Identity: "Software Watchdog", TimeoutSeconds: 60, Armed: true}, "kernel (Software Watchdog), armed, resets the module when it has not been fed for 60 s"},
		{&inventoryWatchdog{Kind: "chip set", Identity: "iTCO_wdt", TimeoutSeconds: 60, Problem: "the supervisor does not answer"}, "chip set (iTCO_wdt), NOT FED: the supervisor does not answer; it resets the module within 60 s"},
	} {
		if got := c.w.String(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.w, got, c.want)
		}
	}
}

func TestPowerSaysWhatIsPossible(t *testing.T) {
	newAppliance(t, map[string]string{"GET " + domain.ServerHardwares: none})
	if _, err := command(t, "servers", "power", "one", "sideways"); err == nil || !strings.Contains(err.Error(), "want on, off or restart") {
		t.Errorf("power sideways: %v", err)
	}
	if _, err := command(t, "servers", "power", "one", "on"); err == nil || !strings.Contains(err.Error(), `no server "one"`) {
		t.Errorf("power of a server that is not there: %v", err)
	}
}
