package qemu

// loadImage fills in the parts of the image that are not set.
func (c *Config) loadImage() error {
	return nil
}
