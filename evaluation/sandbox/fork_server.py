"""The process that programs are forked from: a bare interpreter that knows no secret and never runs one itself.

Run: by the package's __init__.py, as `python -P -s -S -B fork_server.py DESCRIPTOR`; it ends with its other side. For
each message (seconds of wall time; two descriptors: the job, where to answer) it forks, waits, kills, and reports.
Not here: what a program may do (kernel.py); the job is read by the fork alone.
"""

import json
import os
import resource
import select
import signal
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import candidate  # noqa: E402
import kernel  # noqa: E402

del sys.path[0]

# What solutions import most; loaded once here instead of once in every program
WARM = "bisect collections copy dataclasses datetime decimal enum fractions functools hashlib heapq itertools math"
WARM += " operator random re statistics string typing"


def main() -> None:
    for name in WARM.split():
        __import__(name)
    control = socket.socket(fileno=int(sys.argv[1]))
    server = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 8, 2)
        if not message:
            return
        (seconds,), (job, answers) = struct.unpack("d", message), descriptors
        pid = os.fork()
        if pid == 0:
            control.close()
            _become_candidate(job, answers, seconds, server)
        os.close(job)
        os.close(answers)
        control.sendall(struct.pack("?i", *_wait(pid, seconds)))


def _become_candidate(job: int, answers: int, seconds: float, server: int) -> None:
    with open(job) as file:
        program, nonce = json.load(file)
    os.setsid()
    cpu = int(seconds) + 2  # if the server cannot end it
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    try:
        level = kernel.restrict(server)
    except kernel.Refused as error:
        os.write(answers, f"REFUSED {error}\n".encode())
        os._exit(1)
    os.write(answers, f"READY {level}\n".encode())
    candidate.run(program, nonce, answers)


def _wait(pid: int, seconds: float) -> tuple[bool, int]:
    """Whether it ran out of time, and its exit code."""
    process = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    late = not poll.poll(seconds * 1000)
    os.close(process)
    if late:
        os.kill(pid, signal.SIGKILL)
    return late, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
