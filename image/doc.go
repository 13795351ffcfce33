// Package image builds the bootable artefact: Debian's kernel, unchanged, and
// an initramfs with the first process, the daemon, and exactly the programs,
// libraries and kernel modules they need.
//
// Its nouns, in the order they flow:
//
//   - FetchDebs brings Debian packages into a cache folder, verified against
//     the signed package lists, and OpenDeb gives one as a tree of files.
//   - KernelFromDeb reads a kernel package. ModuleFiles gives the closure of
//     the modules one wants, ExtractVmlinux the ELF image inside a bzImage.
//   - A File is one entry of an archive; Closure adds the shared libraries
//     that programs need; Pack writes Files as a newc cpio archive, Squash as
//     a file system that stays packed until it is read.
//   - Build puts the appliance together from a Spec into an output folder, and
//     Load finds the parts again. UKI and WriteDisk make of such parts what
//     UEFI firmware boots.
//
// Everything written is a function of the contents that went in: no times,
// owners, inode numbers or paths of the building machine get into the output.
// Nothing here needs root, loop devices or mounts.
//
// Image owns its cache and output folders. Calls that share a cache folder may
// run at once, in one process or several: a lock file in it is held meanwhile.
//
// The other side is described in the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst (initramfs),
// Documentation/filesystems/squashfs.rst, Documentation/x86/boot.rst (bzImage)
// and Documentation/kbuild/kbuild.rst (modules.builtin), in deb(5),
// modules.dep(5) and in the Unified Kernel Image
// specification.
package image
