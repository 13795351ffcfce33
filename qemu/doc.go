// Package qemu builds virtual frames out of processes: a VM for each module, a
// Go switch for each network between them, and the host's way in.
//
// Its nouns. A Frame has a serial number and bays. A Bay has an identity that
// does not change (serial, UUID, MAC addresses) and a VM, which is a QEMU
// process while the bay has power. A Switch is one layer 2 network; its ports
// know VLANs and faults, and a capture shows what it carried. A Host is a
// machine of ours on such a network: a TCP/IP stack inside this process, so
// that no packet leaves it except through the forwards on 127.0.0.1.
//
// A frame is wired as a real one. The management port of an appliance (PCIe
// slot 1) is an untagged port of the network "management". Its port in slot 2
// is on the frame link, where the frame's manager is. Slots 3 and 6 of every
// module lead to the interconnect modules "ic3" and "ic6", which speak LLDP and
// are joined by a trunk: an appliance has trunk ports there, a compute module
// has access ports of the deployment VLAN. Every module has a BMC (package bmc);
// an appliance's tells it of the frame, and how to reach its manager (package
// manager). Managers of linked frames meet on the network "ring".
//
// An appliance's data disk is a file, or a drive of ours (package block) that
// can fail and loses its cache with its power. Slots 7 and 8 are empty: disks
// and network cards may be plugged in while the module runs.
//
// Up starts a frame for a program, StartFrame for a test. Both wait for events
// (a console line, a QMP event), never for time; Deadline says how long an
// event may take on this machine. VMs die with the process that started them.
//
// The package talks to an appliance as anybody would: over its console and
// its REST interface. Everything exported is safe for concurrent use.
package qemu
