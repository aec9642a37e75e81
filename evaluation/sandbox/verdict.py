"""What became of a program: from what its process wrote and how it ended, to a verdict."""

import signal
from typing import NamedTuple

MOST_BYTES = 4096  # of what is read of a process
MOST_LETTERS = 250  # of a reason
INSTEAD = "use --sandbox container, with Docker or Podman."


class SandboxUnavailable(RuntimeError):
    """Nothing was run. One sentence says why: a benchmark is then not run, which is no score of 0."""

    def __init__(self, why: str) -> None:
        super().__init__(f"generated code is not run: {why}")


class Verdict(NamedTuple):
    passed: bool
    reason: str  # "passed", "failed: ...", "timed out", "killed: ...", "blocked: ..."


def judge(answers: bytes, nonce: str, late: bool, exit_code: int) -> Verdict:
    """`answers`: a line that was written before the program began, and one after it; the latter may be forged."""
    first, began, last = answers.decode("utf-8", "replace").partition("\n")
    if first.startswith("REFUSED "):
        raise SandboxUnavailable(f"this kernel does not give {first.removeprefix('REFUSED ')}; {INSTEAD}")
    if last == f"PASS {nonce}":
        return Verdict(True, "passed")
    if len(answers) >= MOST_BYTES:
        return Verdict(False, "failed: it wrote too much in the place of its verdict")
    if late or exit_code == -signal.SIGXCPU:
        return Verdict(False, "timed out")
    if not began:
        raise SandboxUnavailable(f"the sandbox ended with exit code {exit_code}; {INSTEAD}")
    if last.startswith(("failed: ", "blocked: ", "killed: ")):
        return Verdict(False, last[:MOST_LETTERS])
    if exit_code == -signal.SIGSYS:
        return Verdict(False, "blocked: a system call of another architecture")
    if exit_code == -signal.SIGKILL:  # nobody else kills
        return Verdict(False, "killed: memory")
    if exit_code < 0:
        return Verdict(False, f"killed: {signal.Signals(-exit_code).name}")
    return Verdict(False, "failed: it left before its end")
