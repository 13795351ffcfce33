package qemu

import (
	"errors"

	"baystream/image"
)

// loadImage fills in the parts of the image that are not set.
func (c *Config) loadImage() error {
	if c.Kernel != "" {
		return nil
	}
	if c.Image == "" {
		return errors.New("nothing to boot: set Config.Image (make image builds one) or Config.Kernel")
	}
	b, err := image.Load(c.Image)
	if err != nil {
		return err
	}
	c.Kernel = b.Kernel
	if c.Initramfs == "" {
		c.Initramfs = b.Initramfs
	}
	if c.Cmdline == "" {
		c.Cmdline = b.Cmdline
	}
	return nil
}
