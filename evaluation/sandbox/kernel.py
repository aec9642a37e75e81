"""Takes a process's rights away for good: process limits, no_new_privs, Landlock (files), seccomp (system calls).

Run: by fork_server.py in the process that will run a program; Linux on x86-64 or aarch64, no root, nothing installed.
Not here: a limit of wall time (the fork server's), and names and sizes of files, which stat shows to any program.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys

# Of time it is the fork server's, who knows the program's
LIMITS = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 64)]
LIMITS += [(resource.RLIMIT_AS, 512 << 20)]

# Two columns: x86-64, aarch64; None where the machine has no such call
ALLOWED = {
    "read": (0, 63), "pread64": (17, 67), "lseek": (8, 62), "close": (3, 57), "dup": (32, 23), "getdents64": (217, 61),
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "write": (1, 64), "writev": (20, 66),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "setitimer": (38, 103), "alarm": (37, None), "getpid": (39, 172), "getppid": (110, 173),
    "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "getrandom": (318, 278), "exit": (60, 93),
    "exit_group": (231, 94),
}  # fmt: skip
# Allowed if one argument has one of these values: threads as glibc and musl start them; descriptors, but not their
# signals, for fcntl can send those to any process of the user
WITH_ARGUMENT = {
    "clone": ((56, 220), 0, (0x3D0F00, 0x7D0F00)),
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 1030)),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
    "ioctl": ((16, 29), 1, (0x5401, 0x5451)),  # TCGETS, FIOCLEX
}
FOR_READING = {"open": ((2, None), 1), "openat": ((257, 56), 2)}  # and the place of the flags
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH
CLONE3 = 435  # its flags lie behind a pointer; where it is "not there", libc takes clone
X32 = 0x40000000  # the same calls under other numbers

WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000  # wronly, rdwr, creat, trunc, append, tmpfile
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVS = 1, 4, 22, 38  # prctl
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3


class Refused(Exception):
    """The kernel does not do what was asked of it."""


def restrict(parent: int) -> str:
    """For this process and for ever; the level in words. `parent`: dies with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for what, most in LIMITS:
        resource.setrlimit(what, (most, most))
    _prctl(libc, SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    _prctl(libc, SET_DUMPABLE, 0)  # nobody traces it
    if _prctl(libc, SET_NO_NEW_PRIVS, 1) != 0:
        raise Refused("no_new_privs")
    abi = _landlock(libc)
    code = seccomp_filter(os.uname().machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
    if _prctl(libc, SET_SECCOMP, 2, program) != 0:
        raise Refused("seccomp filters")
    return f"process limits, no_new_privs, Landlock ABI {abi}, seccomp allow-list"


def _prctl(libc: ctypes.CDLL, option: int, value: int, pointer: bytes | None = None) -> int:
    zero = ctypes.c_ulong(0)
    return libc.prctl(option, ctypes.c_ulong(value), zero if pointer is None else pointer, zero, zero)


def _landlock(libc: ctypes.CDLL) -> int:
    """Leaves the right to read the interpreter's files, and no other; no TCP, no signal outwards. The kernel's ABI."""
    abi = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if abi < 1:
        raise Refused("Landlock")
    files = (1 << 13) - 1 | (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15
    rights = struct.pack("QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = libc.syscall(CREATE_RULESET, rights, ctypes.c_size_t(size), ctypes.c_uint(0))
    for path in _interpreter_files():
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", READ_FILE | READ_FOLDER, descriptor)
        libc.syscall(ADD_RULE, ruleset, 1, rule, ctypes.c_uint(0))
        os.close(descriptor)
    if libc.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint(0)) != 0:
        raise Refused("Landlock")
    os.close(ruleset)
    return abi


def _interpreter_files() -> list[str]:
    """The standard library, and folders with the shared libraries of its modules."""
    libraries = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"]
    wanted = [os.path.dirname(os.__file__), os.path.join(sys.base_exec_prefix, "lib"), *libraries]
    return [path for path in wanted if os.path.isdir(path)]


def seccomp_filter(machine: str) -> bytes:
    """What is not allowed gets "operation not permitted"; another architecture's calls end the process."""
    column, architecture = MACHINES[machine]
    give_error = [(RETURN, ERROR | errno.EPERM, 0, 0)]
    allow = [(RETURN, ALLOW, 0, 0)]
    lines = [(LOAD, ARCHITECTURE, 0, 0), (IF_EQUAL, architecture, 1, 0), (RETURN, KILL, 0, 0), (LOAD, NUMBER, 0, 0)]
    if machine == "x86_64":
        lines += [(IF_AT_LEAST, X32, 0, 1), (RETURN, KILL, 0, 0)]
    for numbers in ALLOWED.values():
        lines += _on_call(numbers[column], allow)
    for numbers, place, values in WITH_ARGUMENT.values():
        body = [(LOAD, ARGUMENTS + 8 * place, 0, 0)]
        for value in values:
            body += [(IF_EQUAL, value, 0, 1), *allow]
        lines += _on_call(numbers[column], body + give_error)
    for numbers, place in FOR_READING.values():
        body = [(LOAD, ARGUMENTS + 8 * place, 0, 0), (IF_ANY_BIT, WRITING, 1, 0), *allow, *give_error]
        lines += _on_call(numbers[column], body)
    lines += _on_call(CLONE3, [(RETURN, ERROR | errno.ENOSYS, 0, 0)]) + give_error
    return b"".join(struct.pack("HBBI", code, if_true, if_false, value) for code, value, if_true, if_false in lines)


def _on_call(number: int | None, body: list) -> list:
    return [] if number is None else [(IF_EQUAL, number, 0, len(body)), *body]
