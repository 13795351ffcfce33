package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"baystream/qemu"

	"github.com/spf13/cobra"
)

type plugRequest struct {
	Bay  string
	Slot int
	GiB  int64  // a disk of that size
	File string // its file; "": one in the frame's directory
	NIC  string // or a network card on that network
	Out  bool
}

func plugCommand(dir *string) *cobra.Command {
	r := plugRequest{}
	c := &cobra.Command{
		Use:     "plug BAY SLOT",
		Short:   "Plug a disk or a network card into an empty PCIe slot of a running module (7 and 8 of an appliance)",
		Example: "  vframe plug appliance1 7 -disk 4\n  vframe plug appliance1 8 -nic ic3",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if (r.GiB > 0) == (r.NIC != "") {
				return fmt.Errorf("plug: say what: -disk GIB or -nic NETWORK")
			}
			return callPlug(c.Context(), *dir, r, args)
		},
	}
	c.Flags().Int64Var(&r.GiB, "disk", 0, "size of a disk, GiB (sparse)")
	c.Flags().StringVar(&r.File, "file", "", "the disk's file")
	c.Flags().StringVar(&r.NIC, "nic", "", "network of a network card")
	return c
}

func unplugCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "unplug BAY SLOT",
		Short:   "Take what is in a PCIe slot out of a running module",
		Example: "  vframe unplug appliance1 7",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return callPlug(c.Context(), *dir, plugRequest{Out: true}, args)
		},
	}
}

func callPlug(ctx context.Context, dir string, r plugRequest, args []string) (err error) {
	r.Bay = args[0]
	if r.Slot, err = strconv.Atoi(args[1]); err != nil {
		return fmt.Errorf("slot %q: want its number", args[1])
	}
	if r.File != "" {
		if r.File, err = filepath.Abs(r.File); err != nil {
			return err
		}
	}
	return call(ctx, dir, http.MethodPost, "/plug", r, nil)
}

func (c *control) plug(ctx context.Context, r plugRequest) error {
	b, err := c.frame.Bay(r.Bay)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, qemu.Deadline(20*time.Second))
	defer cancel()
	if r.Out {
		return b.Unplug(ctx, r.Slot)
	}
	serial := fmt.Sprintf("%s-S%d", b.Identity.Serial, r.Slot)
	if r.NIC == "" {
		if r.File == "" {
			r.File = filepath.Join(c.frame.Dir(), fmt.Sprintf("%s.slot%d.raw", b.Name(), r.Slot))
		}
		return b.PlugDisk(ctx, qemu.Disk{Slot: r.Slot, Path: r.File, Size: r.GiB << 30, Serial: serial, Served: true})
	}
	n, err := c.frame.Network(r.NIC)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(serial))
	return b.PlugNIC(ctx, qemu.NIC{Slot: r.Slot, MAC: append([]byte{2}, sum[:5]...), Network: n,
		Port: qemu.PortConfig{Name: fmt.Sprintf("%s-slot%d", b.Name(), r.Slot)}})
}
