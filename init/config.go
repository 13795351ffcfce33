package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const configPath = "/etc/init.json"

// Config is what the image tells PID 1: it knows no roles itself.
type Config struct {
	// Modules are kernel modules to load, in order, each a name or a name and
	// parameters.
	Modules []string `json:"modules"`
	// Hostname is the host name; "" makes one from the module's serial number.
	Hostname string `json:"hostname,omitempty"`
	// BuildTime is when the image was built, in RFC 3339; "" takes the time of
	// the configuration file.
	BuildTime string `json:"build_time,omitempty"`
	// WatchdogSec is how long the machine's watchdog waits for food; 0 means 60 s.
	WatchdogSec float64   `json:"watchdog_sec,omitempty"`
	Services    []Service `json:"services"`

	built time.Time
}

// readConfig reads the configuration. What it returns is usable with an error
// too: services and modules that are in order.
func readConfig(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	c, err := parseConfig(b)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	if st, statErr := os.Stat(path); statErr == nil && c.built.IsZero() {
		c.built = st.ModTime()
	}
	return c, err
}

// parseConfig parses a configuration and drops the services that cannot work.
func parseConfig(b []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, err
	}
	var errs []error
	if c.BuildTime != "" {
		t, err := time.Parse(time.RFC3339, c.BuildTime)
		if err != nil {
			errs = append(errs, fmt.Errorf("build_time: %w", err))
		}
		c.built = t
	}
	seen := map[string]bool{}
	var ok []Service
	for i, s := range c.Services {
		switch {
		case s.Name == "" || s.Name == "." || s.Name == ".." || strings.ContainsAny(s.Name, "/\n"):
			errs = append(errs, fmt.Errorf("service %d: name %q cannot be used", i+1, s.Name))
		case seen[s.Name]:
			errs = append(errs, fmt.Errorf("service %s: named twice", s.Name))
		case len(s.Exec) == 0 || !strings.HasPrefix(s.Exec[0], "/"):
			errs = append(errs, fmt.Errorf("service %s: exec must begin with the program's full path", s.Name))
		default:
			ok = append(ok, s)
		}
		seen[s.Name] = true
	}
	c.Services = ok
	return c, errors.Join(errs...)
}
