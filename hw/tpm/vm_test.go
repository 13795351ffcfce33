package tpm

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"golang.org/x/sys/unix"

	"baystream/internal/vmtest"
)

// TestInVM runs the guest test in a VM whose TPM is swtpm. QEMU puts the
// initramfs of a directly booted kernel where, with a TPM's log, the firmware has
// its ACPI tables; so the kernel is told where the TPM is, and sees no log.
func TestInVM(t *testing.T) {
	swtpm, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("needs swtpm: apt install swtpm")
	}
	if testing.Short() {
		t.Skip("boots a VM: skipped with -short")
	}
	dir, err := os.MkdirTemp("", "tpm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "ctrl")
	ctx, stop := context.WithCancel(t.Context())
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, swtpm, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+socket, "--flags", "startup-clear")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = cmd.Wait() })
	for wait := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Since(wait) > 30*time.Second {
			t.Fatalf("swtpm makes no socket:\n%s", &out)
		}
	}
	vmtest.Run(t, vmtest.Config{
		Package: "baystream/hw/tpm", Run: "Guest", Memory: 256,
		Extra: []string{"-append", "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr no_timer_check tpm_tis.force=1", "-chardev", "socket,id=tpm,path=" + socket, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"},
	})
}

func TestGuest(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	if err := unix.Mount("securityfs", "/sys/kernel/security", "securityfs", 0, ""); err != nil && err != unix.EBUSY {
		t.Fatal(err)
	}
	r, err := Read("/")
	if err != nil {
		t.Error(err)
	}
	if !r.Present || r.Version != 2 || len(r.PCRs["sha256"]) != registers || len(r.PCRs["sha256"][0]) != 64 {
		t.Fatalf("Read = %+v", r)
	}
	if r.Log != nil && (r.Log.Verdict != Matches || len(r.Log.Events) < 5) {
		t.Errorf("log %+v", r.Log)
	}
	if c, err := Endorsement("/dev/tpmrm0"); err != nil || len(c) != 0 {
		t.Errorf("Endorsement of a TPM without certificates: %v, %v", c, err)
	}

	der := append(certificate(t), make([]byte, 900)...) // more than one read
	store(t, 0x01c0000a, der)
	store(t, 0x01c00014, []byte("not a certificate"))
	c, err := Endorsement("/dev/tpmrm0")
	if len(c) != 1 || c[0].Key != "ECC P-256" || c[0].Issuer != "CN=Maker" {
		t.Errorf("Endorsement = %+v", c)
	}
	if err == nil || !strings.Contains(err.Error(), "0x01c00014") {
		t.Errorf("a damaged certificate: %v", err)
	}
}

// store puts data into an index as a maker would, readable with an empty
// authorization.
func store(t *testing.T, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	tpm, err := linuxtpm.Open("/dev/tpmrm0")
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	_, err = tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
			Attributes: tpm2.TPMANV{OwnerWrite: true, AuthRead: true, OwnerRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary}}),
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(data); at += nvChunk {
		if _, err := (tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[at:min(at+nvChunk, len(data))]},
			Offset:     uint16(at),
		}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
	}
}
