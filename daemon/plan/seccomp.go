package plan

import (
	"fmt"
	"runtime"
	"syscall"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// allThreads makes a system call in every thread of this process.
func allThreads(trap, a1, a2 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, 0); errno != 0 {
		return errno
	}
	return nil
}

// becomeNobody changes to the shell's uid, which costs all capabilities.
func becomeNobody() error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(shellUID, shellUID, shellUID); err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	if err := syscall.Setresuid(shellUID, shellUID, shellUID); err != nil {
		return fmt.Errorf("setuid: %w", err)
	}
	return nil
}

// allowedCalls are what Go's runtime and its file functions use. What is not
// here fails with EPERM, above all execve, socket, mount, ptrace, bpf, keyctl,
// io_uring_setup and unshare. Names that an architecture lacks are left out.
var allowedCalls = []string{
	"read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "close", "open", "openat", "openat2", "creat",
	"stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2", "getdents64",
	"mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
	"readlink", "readlinkat", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "fchownat", "lchown", "utimensat", "futimesat", "utime", "utimes",
	"truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "fadvise64", "copy_file_range", "sendfile", "splice", "flock",
	"mknodat", "mknod", // named pipes, which process substitution uses; devices take a capability
	"getcwd", "chdir", "fchdir", "umask", "dup", "dup2", "dup3", "pipe", "pipe2", "fcntl",
	"poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "epoll_pwait2", "eventfd2",
	"mmap", "munmap", "mprotect", "mremap", "madvise", "mincore", "brk", "futex", "sched_yield", "sched_getaffinity", "membarrier", "rseq",
	"set_robust_list", "get_robust_list", "set_tid_address", "arch_prctl", "restart_syscall",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "tgkill", "gettid", "getpid", "getppid",
	"getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "uname", "getrusage", "times", "sysinfo", "getrlimit",
	"nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "getrandom",
	"timer_create", "timer_settime", "timer_delete", "setitimer", "exit", "exit_group",
}

// filterCalls lets only allowedCalls through from here on, in all threads, and
// threads as the only new tasks.
func filterCalls() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	var names []string
	for _, n := range allowedCalls {
		if _, ok := info.SyscallNames[n]; ok {
			names = append(names, n)
		}
	}
	runtime.LockOSThread() // no_new_privs is this thread's until the filter spreads it
	defer runtime.UnlockOSThread()
	err = seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno,
			Syscalls: []seccomp.SyscallGroup{
				{Names: names, Action: seccomp.ActionAllow},
				{NamesWithCondtions: []seccomp.NameWithConditions{{Name: "clone", Conditions: []seccomp.Condition{
					{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD}}}}, Action: seccomp.ActionAllow},
			},
		},
	})
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}
