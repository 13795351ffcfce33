// Package bmc is a module's management controller for a virtual frame: what
// answers behind the IPMI system interface of a VM.
//
// A BMC serves a connection of QEMU's device ipmi-bmc-extern, which speaks the
// serial protocol that OpenIPMI's simulator defined for virtual machines
// (OpenIPMI, lanserv/README.vm; QEMU, hw/ipmi/ipmi_bmc_extern.c). Its parts are
// those of a real one: a device, FRU inventories, a sensor data repository with
// the sensors, an event log, the chassis's power and a watchdog timer (IPMI 2.0
// revision 1.1). What it does to the module goes through a Machine.
//
// A BMC has power of its own: it stays when its module is off, with its log
// and its clock. It answers one connection at a time; everything exported is
// safe for concurrent use.
package bmc
