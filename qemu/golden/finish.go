package golden

import (
	"fmt"
	"os"
	"path/filepath"
)

// masked units cost time at each start, or wake later, and serve nothing on a
// server that comes from a golden image. open-iscsi.service logs in to targets
// of a database that is empty here; at the stop it would log out.
var masked = []string{
	"apt-daily.service", "apt-daily.timer", "apt-daily-upgrade.service", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
	"e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service", "open-iscsi.service",
	"systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-rfkill.socket",
	"systemd-binfmt.service",
}

// wanted units start by themselves. sshd is started by its first caller.
var wanted = map[string]string{
	"baystream-personality.service": "sysinit.target",
	"baystream-boots.service":       "sysinit.target",
	"iscsid.service":                "sysinit.target",
	"ssh.socket":                    "sockets.target",
}

// admin is the user for the keys of the personality; "*" is no password.
var admin = map[string]string{
	"etc/passwd":  "admin:x:1000:1000:Administrator,,,:/home/admin:/bin/bash\n",
	"etc/shadow":  "admin:*:19700:0:99999:7:::\n",
	"etc/group":   "admin:x:1000:\n",
	"etc/gshadow": "admin:!::\n",
}

// finish turns the installed system below root into a golden one: our files,
// our units, the user, and nothing that two clones must not share.
func finish(root string) error {
	if err := layFiles(rootfs, "rootfs/late", root); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(root, "etc/sudoers.d/admin"), 0o440); err != nil {
		return err
	}
	if err := links(root); err != nil {
		return err
	}
	for file, line := range admin {
		if err := appendText(filepath.Join(root, file), line); err != nil {
			return err
		}
	}
	home := filepath.Join(root, "home/admin")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	for _, name := range []string{".bashrc", ".profile"} {
		b, err := os.ReadFile(filepath.Join(root, "etc/skel", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(home, name), b, 0o644); err != nil {
			return err
		}
		if err := os.Chown(filepath.Join(home, name), 1000, 1000); err != nil {
			return err
		}
	}
	if err := os.Chown(home, 1000, 1000); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "boot/efi"), 0o755); err != nil {
		return err
	}
	return scrub(root)
}

func links(root string) error {
	units := filepath.Join(root, "etc/systemd/system")
	for _, pattern := range []string{"*.target.wants/ssh.service", "sshd.service", "*.target.wants/open-iscsi.service", "iscsi.service"} {
		if err := removeAll(filepath.Join(units, pattern)); err != nil {
			return err
		}
	}
	for _, unit := range masked {
		if err := symlink("/dev/null", filepath.Join(units, unit)); err != nil {
			return err
		}
	}
	for unit, target := range wanted {
		from := "/lib/systemd/system/"
		if _, err := os.Stat(filepath.Join(units, unit)); err == nil {
			from = "/etc/systemd/system/"
		}
		if err := symlink(from+unit, filepath.Join(units, target+".wants", unit)); err != nil {
			return err
		}
	}
	return nil
}

// scrub removes keys, identities and leftovers of the building machine.
func scrub(root string) error {
	for _, pattern := range []string{
		"etc/ssh/ssh_host_*", "etc/resolv.conf", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
		"var/log/*.log", "var/log/apt/*", "var/cache/apt/*.bin", "var/cache/debconf/*-old", "var/lib/dpkg/*-old",
		"initrd.img*", "vmlinuz*", "boot/System.map-*",
	} {
		if err := removeAll(filepath.Join(root, pattern)); err != nil {
			return err
		}
	}
	// Empty, it is filled in at the first start of each clone.
	return os.WriteFile(filepath.Join(root, "etc/machine-id"), nil, 0o444)
}

func removeAll(pattern string) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

func symlink(target, file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(target, file)
}

func appendText(file, text string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("append to %s: %w", file, err)
	}
	return f.Close()
}
