"""The filter of system calls, read by an interpreter of our own: both machines, whatever this one is."""

import errno
import struct

import pytest

from yxanul.evaluation.sandbox import kernel

ALLOW, KILL, REFUSED, NOT_THERE = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
X86, ARM = 0xC000003E, 0xC00000B7


def decide(machine, architecture, number, *arguments):
    data = struct.pack("IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = kernel.seccomp_filter(machine)
    lines = [struct.unpack_from("HBBI", code, place) for place in range(0, len(code), 8)]
    place = value = 0
    while True:
        operation, if_true, if_false, operand = lines[place]
        place += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            (value,) = struct.unpack_from("I", data, operand)
        else:
            test = {0x15: value == operand, 0x35: value >= operand, 0x45: value & operand}[operation]
            place += if_true if test else if_false


CALLS = [  # name, number on x86-64, on aarch64, arguments, the filter's word
    ("read", 0, 63, (), ALLOW),
    ("openat to read", 257, 56, (0, 0, 0), ALLOW),
    ("openat to write", 257, 56, (0, 0, 1), REFUSED),
    ("openat to read and make", 257, 56, (0, 0, 0o100), REFUSED),
    ("open to write", 2, None, (0, 2), REFUSED),
    ("a thread of glibc", 56, 220, (0x3D0F00,), ALLOW),
    ("a process", 56, 220, (17,), REFUSED),
    ("a thread in a new namespace", 56, 220, (0x403D0F00,), REFUSED),
    ("clone3", 435, 435, (), NOT_THERE),
    ("fcntl F_GETFD", 72, 25, (0, 1), ALLOW),
    ("fcntl F_SETOWN", 72, 25, (0, 8), REFUSED),
    ("fcntl F_SETSIG", 72, 25, (0, 10), REFUSED),
    ("ioctl TCGETS", 16, 29, (0, 0x5401), ALLOW),
    ("ioctl TIOCSTI", 16, 29, (0, 0x5412), REFUSED),
    ("socket", 41, 198, (), REFUSED),
    ("execve", 59, 221, (), REFUSED),
    ("kill", 62, 129, (), REFUSED),
    ("ptrace", 101, 117, (), REFUSED),
    ("unlinkat", 263, 35, (), REFUSED),
    ("prctl", 157, 167, (), REFUSED),
    ("prlimit64", 302, 261, (), REFUSED),
    ("io_uring_setup", 425, 425, (), REFUSED),
    ("a call of the future", 999, 999, (), REFUSED),
]


@pytest.mark.parametrize("name, x86, arm, arguments, word", CALLS, ids=[call[0] for call in CALLS])
def test_the_filter_decides_the_same_on_both_machines(name, x86, arm, arguments, word):
    assert decide("x86_64", X86, x86, *arguments) == word
    assert arm is None or decide("aarch64", ARM, arm, *arguments) == word


def test_calls_of_another_architecture_end_the_process():
    assert decide("x86_64", ARM, 63) == decide("aarch64", X86, 63) == decide("x86_64", 0x40000003, 3) == KILL
    assert decide("x86_64", X86, 0x40000000) == KILL


@pytest.mark.parametrize("machine, architecture", [("x86_64", X86), ("aarch64", ARM)])
def test_no_more_calls_are_let_through_than_the_table_has(machine, architecture):
    column = kernel.MACHINES[machine][0]
    listed = {numbers[column] for numbers in kernel.ALLOWED.values()} - {None}
    reading = {numbers[column] for numbers, _ in kernel.FOR_READING.values()} - {None}
    found = {number for number in range(600) if decide(machine, architecture, number) == ALLOW}
    dup_of_fcntl = {kernel.WITH_ARGUMENT["fcntl"][0][column]}  # command 0
    assert found == listed | reading | dup_of_fcntl
