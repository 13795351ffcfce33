package ipmi

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bougou/go-ipmi/pkg/types"

	"baystream/internal/vmtest"
)

var update = flag.Bool("update", false, "rewrite testdata from what QEMU's controller answers")

// TestInVM runs the guest tests against QEMU's own simulated controller behind
// the kernel's driver. Its FRU and sensor records are made by go-ipmi.
func TestInVM(t *testing.T) {
	fruFile, sdrFile := filepath.Join(t.TempDir(), "fru"), filepath.Join(t.TempDir(), "sdr")
	for file, b := range map[string][]byte{fruFile: sampleFRU(t), sdrFile: append(temperatureRecord(1), fan()...)} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := vmtest.Run(t, vmtest.Config{
		Package: "baystream/hw/ipmi",
		Run:     "Guest",
		Modules: []string{"ipmi_si", "ipmi_devintf"},
		Memory:  256,
		Extra: []string{
			"-device", "ipmi-bmc-sim,id=bmc0,fwrev1=1,fwrev2=66,mfg_id=0x1234,product_id=7,fruareasize=1024,frudatafile=" + fruFile + ",sdrfile=" + sdrFile,
			"-device", "isa-ipmi-kcs,bmc=bmc0,ioport=0xca2,irq=5",
		},
	})
	if !*update {
		return
	}
	var capture strings.Builder
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, captureMark); ok {
			capture.WriteString(rest)
		}
	}
	if err := os.WriteFile("testdata/qemu-bmc-sim/messages", []byte(capture.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// temperature is an 8-bit signed sensor, 0.5 degrees a step, that measures 20
// degrees and more.
func temperature() *types.SDRFull {
	readable := types.Mask_Threshold{StatusReturned: true, Readable: true}
	return &types.SDRFull{
		GeneratorID: 0x20, SensorNumber: 0x10, SensorEntityID: 7, SensorEntityInstance: 1,
		SensorInitialization:   types.SensorInitialization{Settable: true, InitScanning: true, InitThresholds: true, SensorScanningEnabled: true},
		SensorCapabilities:     types.SensorCapabilities{AutoRearm: true, ThresholdAccess: types.SensorThresholdAccess(2)},
		SensorType:             types.SensorTypeTemperature,
		SensorEventReadingType: types.EventReadingTypeThreshold,
		Mask: types.Mask{Threshold: types.Mask_Thresholds{
			UNC: readable, UCR: readable, UNR: readable, LCR: readable,
		}},
		SensorUnit:     types.SensorUnit{AnalogDataFormat: types.SensorAnalogUnitFormat_2sComplement, BaseUnit: types.SensorUnitType_DegreesC},
		ReadingFactors: types.ReadingFactors{M: 5, B: 20, R_Exp: -1, B_Exp: 1},
		UNC_Raw:        60, UCR_Raw: 80, UNR_Raw: 100, LCR_Raw: 0xd8,
		IDStringTypeLength: 0xc0 | 8, IDStringBytes: []byte("CPU temp"),
	}
}

// temperatureRecord is its record. The library swaps the bytes of masks: those of
// the thresholds that can be read are in the first (table 43-1, bytes 19 and 20).
func temperatureRecord(id uint16) []byte {
	b := temperature().Pack(id)
	b[18], b[19] = b[19], b[18]
	return b
}

// fan is the record of a discrete sensor: their redundancy.
func fan() []byte {
	s := &types.SDRCompact{
		GeneratorID: 0x20, SensorNumber: 0x11, SensorEntityID: 29, SensorEntityInstance: 1,
		SensorInitialization:   types.SensorInitialization{InitScanning: true, SensorScanningEnabled: true},
		SensorType:             types.SensorTypeFan,
		SensorEventReadingType: types.EventReadingTypeRedundancy,
		SensorUnit:             types.SensorUnit{AnalogDataFormat: types.SensorAnalogUnitFormat_NotAnalog},
		IDStringTypeLength:     0xc0 | 4, IDStringBytes: []byte("Fans"),
	}
	b := s.Pack(2)
	copy(b[14:20], "\x0f\x00\x0f\x00\x0f\x00") // states 0 to 3 can be set, cleared and read
	return b
}

func sampleFRU(t *testing.T) []byte {
	t.Helper()
	b, err := types.PackFRU(types.FRUPackConfig{
		Chassis: &types.FRUPackChassis{Type: 0x1c, PartNumber: "CH-100", Serial: "VF0001"},
		Board:   &types.FRUPackBoard{MfgDate: sampleDate, Mfg: "Baystream", Product: "Virtual board", Serial: "VB0001", PartNumber: "B-7"},
		Product: &types.FRUPackProduct{Manufacturer: "Baystream", Name: "Virtual appliance", PartModel: "VA-1", Version: "2.0", Serial: "VA0001"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGuest(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	f, err := os.OpenFile("/dev/ipmi0", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(recorder{&device{f}, t})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	look(t, c)
	t.Run("a request that is given up leaves the next one alone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Device(ctx); err == nil {
			t.Error("Device on a cancelled context succeeds")
		}
		if d, err := c.Device(t.Context()); err != nil || d.Manufacturer != 0x1234 {
			t.Errorf("Device = %+v, %v", d, err)
		}
	})
}
