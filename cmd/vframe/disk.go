package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"baystream/qemu"
	"baystream/qemu/block"
)

func diskFault(_ context.Context, f *qemu.Frame, words []string) error {
	b, err := f.Bay(words[1])
	if err != nil {
		return err
	}
	d, err := b.Drive(words[2])
	if err != nil {
		return err
	}
	what, args := words[3], words[4:]
	switch what {
	case "heal":
		d.Heal()
		return nil
	case "rot":
		return rot(d, args)
	}
	now := d.Fault()
	if err := breakDisk(&now, what, args); err != nil {
		return err
	}
	return d.SetFault(now)
}

// breakDisk adds to what a disk suffers from already.
func breakDisk(f *block.Fault, what string, args []string) (err error) {
	wants := map[string][]int{"readerrors": {0, 2}, "writeerrors": {0, 2}, "errors": {0, 2}, "full": {0}, "stall": {0}, "delay": {1}, "throttle": {1}}
	fits := false
	for _, n := range wants[what] {
		fits = fits || n == len(args)
	}
	if !fits {
		return fmt.Errorf("%s: wrong words; %s", strings.Join(append([]string{what}, args...), " "), diskHelp)
	}
	switch what {
	case "full":
		f.Full = true
	case "stall":
		f.Stall = true
	case "delay":
		f.Delay, err = duration(args[0])
	case "throttle":
		if f.PerSecond, err = strconv.Atoi(args[0]); err != nil || f.PerSecond <= 0 {
			return fmt.Errorf("throttle %q: want a number of requests a second", args[0])
		}
	default:
		f.ReadErrors = f.ReadErrors || what != "writeerrors"
		f.WriteErrors = f.WriteErrors || what != "readerrors"
		if len(args) == 2 {
			f.From, f.To, err = byteRange(args)
		}
	}
	return err
}

func byteRange(args []string) (from, to int64, err error) {
	from, err1 := strconv.ParseInt(args[0], 0, 64)
	to, err2 := strconv.ParseInt(args[1], 0, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("range %s %s: want two numbers of bytes", args[0], args[1])
	}
	return from, to, nil
}

func rot(d *block.Drive, args []string) error {
	n := 1
	if len(args) == 1 {
		word, at := strings.CutPrefix(args[0], "@")
		v, err := strconv.ParseInt(word, 0, 64)
		if err != nil || v < 0 {
			return fmt.Errorf("rot %s: want a number of bits, or @ and an offset in bytes", args[0])
		}
		if at {
			return d.RotAt(v)
		}
		n = int(v)
	}
	_, err := d.Rot(n)
	return err
}
