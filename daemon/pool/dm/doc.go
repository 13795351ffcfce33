// Package dm speaks device-mapper's ioctls: it creates mapped devices, loads
// their tables, sends messages to targets and reads status, without forking
// dmsetup and without libdevmapper.
//
// A Control is the open control node. Devices are named as device-mapper names
// them; their nodes are used as devtmpfs makes them (/dev/dm-N), so no udev and
// no /dev/mapper links are needed. All lengths are in sectors of 512 bytes.
//
// Every method is one or a few ioctls and safe for concurrent use; the kernel
// serialises operations on one device.
//
// The other side: Linux Documentation/admin-guide/device-mapper and
// include/uapi/linux/dm-ioctl.h (struct dm_ioctl, version 4.0.0).
package dm
