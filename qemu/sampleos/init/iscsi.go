package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Timers of the initiator. A NOP each second finds a portal that has moved
// even when nothing is in flight; DefaultTime2Wait 0 spares the 2 s wait before
// each new login (the greater value of both sides holds, so the initiator has
// to ask for it); I/O waits for up to replacement_timeout seconds before it
// fails.
const iscsidConf = `iscsid.startup = /bin/true
node.startup = manual
node.session.timeo.replacement_timeout = 120
node.conn[0].timeo.login_timeout = 5
node.conn[0].timeo.logout_timeout = 5
node.conn[0].timeo.noop_out_interval = 1
node.conn[0].timeo.noop_out_timeout = 5
node.session.err_timeo.abort_timeout = 15
node.session.err_timeo.lu_reset_timeout = 30
node.session.err_timeo.tgt_reset_timeout = 30
node.session.initial_login_retry_max = 60
node.session.iscsi.InitialR2T = No
node.session.iscsi.ImmediateData = Yes
node.session.iscsi.DefaultTime2Wait = 0
node.session.iscsi.FastAbort = Yes
`

// writeISCSIConfig writes what open-iscsi reads below root. Without root in
// /etc/passwd iscsid refuses its own requests and never recovers a session.
func writeISCSIConfig(root string) error {
	for name, text := range map[string]string{
		"etc/passwd":            "root:x:0:0:root:/:/bin/false\n",
		"etc/group":             "root:x:0:\n",
		"etc/nsswitch.conf":     "passwd: files\ngroup: files\n",
		"etc/iscsi/iscsid.conf": iscsidConf,
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	for _, dir := range []string{"run/lock/iscsi", "etc/iscsi/nodes", "etc/iscsi/send_targets"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// startSession configures the NIC of the boot, logs in to the boot target and
// leaves iscsid in charge of the session. The log-in is tried until it works:
// the firmware has just read this kernel from that target.
func startSession(con *console, fw *firmware) error {
	text := "InitiatorName=" + fw.Initiator + "\n"
	if err := os.WriteFile("/etc/iscsi/initiatorname.iscsi", []byte(text), 0o600); err != nil {
		return err
	}
	if err := bringUp(fw.MAC, fw.Address, 30*time.Second); err != nil {
		return err
	}
	var err error
	for range 30 {
		var out []byte
		if out, err = exec.Command("/sbin/iscsistart", "-b").CombinedOutput(); err == nil {
			break
		}
		err = fmt.Errorf("iscsistart: %w: %s", err, bytes.TrimSpace(out))
		con.Printf("NOTE %v", err)
		time.Sleep(time.Second)
	}
	if err != nil {
		return err
	}
	go keepISCSID(con)
	return nil
}

// keepISCSID runs iscsid in the foreground and starts it again should it end.
func keepISCSID(con *console) {
	for {
		cmd := exec.Command("/sbin/iscsid", "-f", "-c", "/etc/iscsi/iscsid.conf", "-i", "/etc/iscsi/initiatorname.iscsi")
		w := &noteWriter{con: con, prefix: "ISCSID "}
		cmd.Stdout, cmd.Stderr = w, w
		err := cmd.Run()
		con.Printf("NOTE iscsid ended (%v), starting it again", err)
		time.Sleep(time.Second)
	}
}
