package kmsg

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

func TestOnlyTheKernelIsHeard(t *testing.T) {
	for record, want := range map[string]string{
		"3,1,2,-;I/O error, dev vda, sector 8\n SUBSYSTEM=block\n": "I/O error, dev vda, sector 8",
		"12,5,6,-;I/O error, dev vda, sector 8":                    "", // a program's
		"no record":                                                "",
		"x,1;no":                                                   "",
		"6,7,8,-;a;b":                                              "a;b",
	} {
		if got, ok := parse(record); got != want || ok != (want != "") {
			t.Errorf("parse(%q) = %q, %v, want %q", record, got, ok, want)
		}
	}
}

func TestDiskError(t *testing.T) {
	for text, want := range map[string]string{
		"I/O error, dev vda, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2": "vda",
		"critical medium error, dev nvme0n1, sector 77 op 0x0:(READ)":                        "nvme0n1",
		"blk_update_request: I/O error, dev sda, sector 0":                                   "sda",
		"Buffer I/O error on dev dm-3, logical block 5, async page read":                     "",
		"EXT4-fs error (device vda1): ext4_journal_check_start":                              "",
		"an error, dev , sector 1":                                                           "",
	} {
		if got, ok := DiskError(text); got != want || ok != (want != "") {
			t.Errorf("DiskError(%q) = %q, %v, want %q", text, got, ok, want)
		}
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	if f, err := os.Open("/dev/kmsg"); err != nil {
		t.Skipf("needs the kernel's log: %v", err)
	} else {
		f.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := Follow(ctx, "/", func(string) {}); err != nil && !strings.Contains(err.Error(), "not permitted") {
		t.Error(err)
	}
}
