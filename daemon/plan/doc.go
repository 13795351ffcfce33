// Package plan runs plan scripts: the small programs that give a fresh OS
// volume its personality, or take it away before a capture.
//
// Expand puts attribute values into a script and keeps a second text in which
// secrets are masked. Parse turns the expanded scripts of a build plan into one
// Plan, a list of Commands that each know their script and line; Check tells
// which words are unknown, and Run carries the plan out on a volume's devices.
// The language is that of the discontinued Image Streamer, a subset of
// guestfish's: words such as mount and upload act on the volume, lines that
// begin with ! act on scratch space in a bash that is part of this program.
//
// Run trusts neither scripts nor volumes. It starts this program again, which
// is why main begins with MaybeSandbox, in namespaces of its own: no network, a
// root that holds nothing but the volume's device nodes and the scratch space,
// few capabilities, limits on time, memory, disk and output. Paths of the
// volume are resolved below its mount point by openat2(2). Shell lines run in a
// third process that has another uid, no capability, a root of its own and a
// seccomp(2) filter without execve: nothing that is not Go code of this program
// ever runs. File systems are the kernel's; they are mounted nodev, nosuid and
// noexec, and gone when the sandbox is, also when it is killed.
//
// The package touches only the device nodes it was given. Runs on different
// devices may go on at once.
package plan
