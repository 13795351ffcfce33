// Package iscsi measures reads and writes over iSCSI, in one VM on virtual
// time: our whole stack (thin volume, DRBD, LIO with CHAP and an access list)
// beside bare LIO and tgt on thin volumes of the same pool. It has tests only;
// the program bench (bench/iscsi.go) builds the VM and runs them there.
//
// The initiator is the kernel's, over loopback, the same for all three. Each
// round measures every target in turn, so that what drifts hits all alike.
package iscsi
