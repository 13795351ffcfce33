package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const ioChunk = 256 << 10

// disks lists the disks by serial number, or reads or writes one.
func disks(words []string) error {
	serials, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return err
	}
	bySerial := map[string]string{}
	for _, s := range serials {
		b, err := os.ReadFile(s)
		if err != nil {
			return err
		}
		bySerial[strings.TrimSpace(string(b))] = "/dev/" + filepath.Base(filepath.Dir(s))
	}
	if words[0] == "disks" {
		fmt.Printf("guest: says %v\n", bySerial)
		return nil
	}
	dev := bySerial[words[2]]
	at, err1 := strconv.ParseInt(words[3], 10, 64)
	length, err2 := strconv.ParseInt(words[4], 10, 64)
	if err := errors.Join(err1, err2); err != nil || dev == "" {
		return fmt.Errorf("%v: among %v: %w", words, bySerial, err)
	}
	took, err := transfer(dev, words[1] == "write", at, length)
	if err != nil {
		fmt.Printf("guest: says %v\n", err)
		return nil
	}
	fmt.Printf("guest: says %v\n", took.Round(time.Millisecond))
	return nil
}

// transfer moves data in one piece after the other, past the cache.
func transfer(dev string, write bool, at, length int64) (time.Duration, error) {
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, ioChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(buf)
	for i := range buf {
		buf[i] = byte(i)
	}
	start := time.Now()
	for end := at + length; at < end; at += ioChunk {
		b := buf[:min(ioChunk, end-at)]
		if write {
			_, err = f.WriteAt(b, at)
		} else {
			_, err = f.ReadAt(b, at)
		}
		if err != nil {
			return 0, err
		}
	}
	if write {
		err = f.Sync()
	}
	return time.Since(start), err
}
