package bayctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// errBack leaves the maintenance menu.
var errBack = errors.New("back")

// maintenance is a menu of lines, so that it works on any terminal.
func (c *console) maintenance() error {
	items := []struct {
		text string
		do   func() error
	}{
		{"network: links, addresses, settings", c.showNetwork},
		{"services: how they are, start again what was given up, restart the daemon", c.services},
		{"support dump over this line", c.sendDump},
		{"restart the module", func() error { return c.power("reboot") }},
		{"switch the module off", func() error { return c.power("poweroff") }},
		{"factory reset", c.factoryReset},
		{"boot the other image (not available: there is none yet)", c.otherImage},
		{"let the domain go on without its other modules", c.recoverDomain},
	}
	for {
		fmt.Fprintln(c.tty, "\nMaintenance")
		for i, it := range items {
			fmt.Fprintf(c.tty, "  %d  %s\n", i+1, it.text)
		}
		choice, err := c.ask("number, or Enter to go back: ")
		if err != nil || choice == "" {
			return err
		}
		n := 0
		if _, err := fmt.Sscanf(choice, "%d", &n); err != nil || n < 1 || n > len(items) {
			fmt.Fprintf(c.tty, "%q is none of the numbers.\n", choice)
			continue
		}
		switch err := items[n-1].do(); {
		case errors.Is(err, errGone), errors.Is(err, errIdle), c.tty.ctx.Err() != nil:
			return err
		case err != nil && !errors.Is(err, errBack):
			fmt.Fprintln(c.tty, err)
		}
	}
}

func (c *console) showNetwork() error {
	f := c.gather(c.tty.ctx)
	for _, l := range f.Links {
		fmt.Fprintf(c.tty, "%-12s %-13s %-10s %-18s mtu %-5d %s\n", l.Name, l.Purpose, linkState(l), l.MAC, l.MTU, strings.Join(l.Addresses, " "))
	}
	fmt.Fprintln(c.tty, "\nSettings of the frame (they are changed there, and hold after the next start of the module):")
	for _, k := range sortedKeys(c.hardware.Settings) {
		fmt.Fprintf(c.tty, "  %s = %s\n", k, c.hardware.Settings[k])
	}
	if len(c.hardware.Settings) == 0 {
		fmt.Fprintln(c.tty, "  none: the management port asks DHCP, there is no deployment network")
	}
	return nil
}

const daemonName = "baystreamd"

func (c *console) services() error {
	r, err := askInit(c.paths.control, "status")
	if err != nil {
		return err
	}
	givenUp := false
	for _, s := range r.Services {
		fmt.Fprintf(c.tty, "%-14s %-11s pid %-6d %d restarts; %s  %s\n", s.Name, s.State, s.PID, s.Restarts, s.Usage, s.Error)
		if s.State != initMaintenance {
			continue
		}
		givenUp = true
		fmt.Fprintf(c.tty, "    %s\n", s.Reason)
		for _, l := range s.Lines {
			fmt.Fprintf(c.tty, "    | %s\n", l)
		}
		fmt.Fprintf(c.tty, "    what to do: %s\n", s.Remedy)
	}
	fmt.Fprintf(c.tty, "watchdog: %s\n", r.Watchdog)
	if givenUp {
		return c.startAgain()
	}
	answer, err := c.ask("restart the daemon? Servers keep running. [y/N]: ")
	if err != nil || !strings.EqualFold(answer, "y") {
		return err
	}
	fmt.Fprintf(c.audit, "audit: console: daemon restarted by %s\n", c.user)
	if _, err := askInit(c.paths.control, "restart "+daemonName); err != nil {
		return err
	}
	fmt.Fprintln(c.tty, "It restarts.")
	return nil
}

// startAgain starts what is in maintenance.
func (c *console) startAgain() error {
	answer, err := c.ask("start again what is in maintenance? [y/N]: ")
	if err != nil || !strings.EqualFold(answer, "y") {
		return err
	}
	fmt.Fprintf(c.audit, "audit: console: services started again by %s\n", c.user)
	if _, err := askInit(c.paths.control, "start"); err != nil {
		return err
	}
	fmt.Fprintln(c.tty, "They start.")
	return nil
}

// servedHere tells how many volumes the module serves now, if anybody knows.
func (c *console) servedHere() string {
	if f := c.gather(c.tty.ctx); f.Storage != nil {
		return fmt.Sprintf("%d OS volumes are served by this module.", served(*f.Storage))
	}
	return "OS volumes may be served by this module."
}

func (c *console) power(how string) error {
	fmt.Fprintln(c.tty, c.servedHere(), "Servers that run from them stand still meanwhile.")
	answer, err := c.ask("type yes to " + how + ": ")
	if err != nil || answer != "yes" {
		return err
	}
	fmt.Fprintf(c.audit, "audit: console: %s by %s\n", how, c.user)
	_, err = askInit(c.paths.control, how)
	return err
}

func (c *console) otherImage() error {
	fmt.Fprintln(c.tty, "This module has one image. A second one will come with updates.")
	return nil
}

// factoryReset erases the module, after its operator has read what is lost and
// typed which module it is.
func (c *console) factoryReset() error {
	f := c.gather(c.tty.ctx)
	fmt.Fprintln(c.tty, "A factory reset erases the data disk of this module. Lost for ever are:")
	if s := f.Storage; s != nil {
		fmt.Fprintf(c.tty, "  %d OS volumes, with the disks of the servers that boot from them:\n", len(s.Volumes))
		for _, v := range s.Volumes {
			fmt.Fprintf(c.tty, "    %-30s %s%s\n", v.Name, size(v.Bytes), inUse(v.Sessions))
		}
		fmt.Fprintf(c.tty, "  %d golden images that were expanded here\n", len(s.Goldens))
	} else {
		fmt.Fprintln(c.tty, "  all OS volumes (they cannot be listed now), with the disks of the servers that boot from them")
	}
	fmt.Fprintln(c.tty, "  golden images, artifact bundles, plan scripts, build plans and deployment plans that are nowhere else")
	fmt.Fprintln(c.tty, "  server profiles, users and their passwords, the certificate authority, logs, backups")
	fmt.Fprintln(c.tty, "Kept are the settings of the frame, for they are not on this module.")
	want := "erase " + or(c.hardware.Bay.Serial, "this module")
	answer, err := c.ask(fmt.Sprintf("type \"%s\" to go on, anything else to go back: ", want))
	if err != nil || answer != want {
		if err == nil {
			fmt.Fprintln(c.tty, "Nothing was erased.")
		}
		return err
	}
	fmt.Fprintf(c.audit, "audit: console: factory reset by %s\n", c.user)
	ctx, cancel := context.WithTimeout(c.tty.ctx, 2*time.Minute)
	defer cancel()
	var said bytes.Buffer
	reset := exec.CommandContext(ctx, "/bin/baystreamd", "-state", c.paths.state, "-factory-reset")
	reset.Stdout, reset.Stderr = &said, &said
	if err := reset.Run(); err != nil {
		return fmt.Errorf("factory reset: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	if err := os.Remove(c.paths.run + "/administrators.json"); err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(c.audit, "console:", err)
	}
	fmt.Fprintln(c.tty, "The module restarts now and comes up as new.")
	_, err = askInit(c.paths.control, "reboot")
	return err
}

// recoverDomain is the guarded way out for an appliance whose domain has lost
// its majority for good. It asks for the domain's name, not for a yes.
func (c *console) recoverDomain() error {
	fmt.Fprintln(c.tty, "For a domain whose other modules are lost for good. This appliance goes on with what it holds:")
	fmt.Fprintln(c.tty, "  changes that only the others confirmed last are lost")
	fmt.Fprintln(c.tty, "  a module that is not lost, but only cut off, goes on too: then servers' volumes are written on both sides,")
	fmt.Fprintln(c.tty, "  and one side's writes are lost. Switch the other modules off first, all of them, and leave them off")
	fmt.Fprintln(c.tty, "  they cannot come back as they are: each has to be reset to its factory state and claimed again")
	name, err := c.ask("type the name of the domain to go on, Enter to go back: ")
	if err != nil || name == "" {
		return err
	}
	fmt.Fprintf(c.audit, "audit: console: recovery of domain %q by %s\n", name, c.user)
	ctx, cancel := context.WithTimeout(c.tty.ctx, time.Minute)
	defer cancel()
	var said bytes.Buffer
	ask := exec.CommandContext(ctx, "/bin/baystreamd", "-state", c.paths.state, "-recover-domain", name)
	ask.Stdout, ask.Stderr = &said, &said
	if err := ask.Run(); err != nil {
		return fmt.Errorf("recover the domain: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	if _, err := askInit(c.paths.control, "restart "+daemonName); err != nil {
		return err
	}
	fmt.Fprintln(c.tty, "The daemon restarts and goes on alone; see bayctl votes.")
	return nil
}

func inUse(sessions []string) string {
	if len(sessions) == 0 {
		return ""
	}
	return "  IN USE by " + strings.Join(sessions, ", ")
}
