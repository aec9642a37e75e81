"""Generated code: attacks are blocked by the layer that is named, honest programs pass, weak kernels are refused."""

import os
import platform
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from yxanul.evaluation import sandbox
from yxanul.evaluation.sandbox import SandboxUnavailable, level, run_program

ROOT = Path(__file__).resolve().parents[3]
LANDLOCK, SECCOMP = "blocked: PermissionError: [Errno 13]", "blocked: PermissionError: [Errno 1]"
SECCOMP_DIRECT = "failed: AssertionError: 1"  # the errno of a call that was made without Python's help

# They would do what they say where nothing stops them: the last test of this file lets them
FILES_AND_PROCESSES = {
    "read a file": ("open({secret!r}).read()", LANDLOCK),
    "read a file through a link of /proc": ("open('/proc/self/root' + {secret!r}).read()", LANDLOCK),
    "list a folder": ("import os; os.listdir({folder!r})", LANDLOCK),
    "read the environment": ("open('/proc/self/environ').read()", LANDLOCK),
    "read the parent's environment": ("import os; open(f'/proc/{{os.getppid()}}/environ').read()", LANDLOCK),
    "write a new file": ("open({folder!r} + '/new', 'w')", SECCOMP),
    "overwrite a file": ("open({victim!r}, 'w').write('dead')", SECCOMP),
    "append to a file": ("open({victim!r}, 'a').write('dead')", SECCOMP),
    "truncate a file": ("import os; os.truncate({victim!r}, 0)", SECCOMP),
    "a file without a name": ("import os; os.open({folder!r}, os.O_TMPFILE | os.O_RDWR)", SECCOMP),
    "a file in memory": ("import os; os.memfd_create('x')", SECCOMP),
    "delete": ("import os; os.unlink({victim!r})", SECCOMP),
    "delete a folder": ("import shutil; shutil.rmtree({folder!r})", LANDLOCK),
    "rename": ("import os; os.rename({victim!r}, {victim!r} + '2')", SECCOMP),
    "change rights": ("import os; os.chmod({victim!r}, 0)", SECCOMP),
    "make a folder": ("import os; os.mkdir({folder!r} + '/d')", SECCOMP),
    "link": ("import os; os.link({victim!r}, {victim!r} + '3')", SECCOMP),
    "symbolic link": ("import os; os.symlink('/', {folder!r} + '/s')", SECCOMP),
    "change the folder": ("import os; os.chdir({folder!r})", SECCOMP),
    "TCP": ("import socket; socket.socket()", SECCOMP),
    "UDP": ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", SECCOMP),
    "Unix socket": ("import socket; socket.socketpair()", SECCOMP),
    "look a name up": ("import socket; socket.if_nameindex()", SECCOMP),
    "fork": ("import os; os.fork()", SECCOMP),
    "system": ("import os; assert os.system('true') == 0, 'no shell'", "failed: AssertionError: no shell"),
    "subprocess": ("import subprocess; subprocess.run(['true'])", SECCOMP),
    "spawn": ("import os; os.posix_spawn('/bin/true', ['true'], {{}})", SECCOMP),
    "multiprocessing": ("import multiprocessing as m; m.Pool(2)", "blocked: "),
    "exec": ("import os; os.execv('/bin/true', ['true'])", SECCOMP),
    "kill": ("import os; os.kill(os.getpid(), 0)", SECCOMP),
    "priority": ("import os; os.nice(1)", SECCOMP),
}
OTHERS = {
    "kill the parent": ("import os; os.kill(os.getppid(), 9)", SECCOMP),
    "kill everything": ("import os; os.kill(-1, 9)", SECCOMP),
    "kill the parent through a descriptor": (
        "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())",
        SECCOMP,
    ),
    "more memory than the limit": (
        "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
        "failed: ValueError: not allowed to raise maximum limit",
    ),
    "more CPU time, by its own number": ("import resource as r; r.prlimit(0, r.RLIMIT_CPU, (-1, -1))", SECCOMP),
    "fork bomb": ("import os\nwhile True: os.fork()", SECCOMP),
    "bytes without end": ("x = []\nwhile True: x.append(bytearray(10**7))", "killed: memory"),
    "one huge list": ("[0] * 10**11", "killed: memory"),
    "huge integers": ("x = 3\nwhile True: x *= x", ("killed: memory", "timed out")),
    "mapped memory": ("import mmap; mmap.mmap(-1, 10**10)", "failed: OSError: [Errno 12]"),
    "threads without end": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        ("failed: RuntimeError: can't start new thread", "killed: memory"),
    ),
    "recursion": ("def f(): f()\nf()", "failed: RecursionError"),
    "recursion without a limit": (
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        ("killed: SIGSEGV", "killed: memory", "failed: RecursionError"),
    ),
    "deep nesting": ("x = []\nfor _ in range(10**6): x = [x]\nrepr(x)", "failed: RecursionError"),
    "null pointer": ("import ctypes; ctypes.string_at(0)", "killed: SIGSEGV"),
    "loop without end": ("while True: pass", "timed out"),
    "sleep": ("import time; time.sleep(100)", "timed out"),
    "sleep that catches everything": (
        "import time\nwhile True:\n    try: time.sleep(100)\n    except BaseException: pass",
        "timed out",
    ),
    "a deaf program": ("import signal\nfor s in (2, 15, 14): signal.signal(s, 1)\nwhile True: pass", "timed out"),
    "a loop in the compiler": ("(" * 10**5 + ")" * 10**5, ("failed: ", "killed: ")),
    "output without end": ("while True: print('x' * 10**6)", "timed out"),
    "output to every descriptor": (
        "import os\nwhile True:\n    for f in range(64):\n"
        "        try: os.write(f, b'x' * 9999)\n        except OSError: 0",
        "failed: it wrote too much in the place of its verdict",
    ),
    "an endless exception": ("raise ValueError('x' * 10**8)", "failed: ValueError: xxx"),
    "an exception that fights": (
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
        "failed: an exception without a text",
    ),
    "input": ("input()", "failed: EOFError"),
    "a pass with a guessed word": (
        "import os\nfor f in range(3, 64):\n    try: os.write(f, b'PASS 0')\n    except OSError: 0\nos._exit(0)",
        "failed: it left before its end",
    ),
    "a forged reason": (
        "import os\nfor f in range(3, 64):\n    try: os.write(f, b'failed: ' + b'x' * 3000)\n    except OSError: 0\n"
        "os._exit(0)",
        "failed: xxx",
    ),
    "sys.exit(0)": ("import sys; sys.exit(0)", "failed: SystemExit: 0"),
    "raise SystemExit": ("raise SystemExit", "failed: SystemExit"),
    "os._exit(0)": ("import os; os._exit(0)", "failed: it left before its end"),
    "abort": ("import os; os.abort()", "killed: SIG"),
    "leave from a thread": (
        "import os, threading\nt = threading.Thread(target=os._exit, args=(0,)); t.start(); t.join()",
        "failed: it left before its end",
    ),
    "leave when the interpreter ends": (
        "import atexit, os; atexit.register(os._exit, 0)\nassert False",
        "failed: AssertionError",
    ),
    "other functions in the place of os's": (
        "import os; os.write = lambda *a: 0; os._exit = lambda c: None\nassert False",
        "failed: AssertionError",
    ),
    "a type that hides its name": ("class PASS(Exception): pass\nraise PASS('0')", "failed: PASS: 0"),
}
DIRECT = "import ctypes\nr = ctypes.CDLL(None, use_errno=True).syscall({call})\nassert r != -1, ctypes.get_errno()"
DIRECT_X86 = {
    "socket": "41, 2, 1, 0", "fork": "57", "vfork": "58", "execve": "59, b'/bin/true', 0, 0", "kill": "62, -1, 9",
    "a process by clone": "56, 17, 0, 0, 0, 0", "a thread with a network of its own": "56, 0x403D0F00, 0, 0, 0, 0",
    "ptrace": "101, 16, 1, 0, 0", "memory of another": "310, 1, 0, 0, 0, 0, 0", "tkill": "200, 1, 9",
    "signal with a value": "129, 1, 9, 0", "io_uring": "425, 8, 0", "bpf": "321, 0, 0, 0",
    "mount": "165, 0, 0, 0, 0, 0",
    "namespaces": "272, 0x10000000", "shared memory": "29, 0, 4096, 0o1600", "another filter": "157, 22, 0, 0",
    "open by openat2": "437, -100, b'/etc/passwd', 0, 0", "asynchronous signals": "16, 1, 0x5452, 0",
    "death signal off": "157, 1, 0, 0, 0",
}  # fmt: skip
HONEST = {
    "the modules of solutions": (
        "import bisect, collections, copy, dataclasses, datetime, decimal, enum, fractions, functools, hashlib\n"
        "import heapq, itertools, json, math, operator, random, re, statistics, string, sys, textwrap, time, typing\n"
        "import unittest, zlib, ast, abc, contextlib, inspect, io, numbers, struct, uuid, queue, array, cmath\n"
        "from typing import List, Tuple\n"
        "assert hashlib.md5(b'a').hexdigest()[:4] == '0cc1' and random.randint(1, 1) == 1 and datetime.date.today()\n"
        "assert re.sub('a', 'b', 'aa') == 'bb' and functools.lru_cache(lambda x: x)(3) == 3 and time.sleep(0) is None"
    ),
    "a data class": (
        "from __future__ import annotations\nimport dataclasses, typing\n"
        "@dataclasses.dataclass\nclass A:\n    x: int = 1\n"
        "assert A().x == 1 and typing.get_type_hints(A) == {'x': int}"
    ),
    "a HumanEval problem": (
        "from typing import List\n\ndef f(x: List[int]) -> int:\n    return sum(x)\n\n"
        "def check(candidate):\n    assert candidate([1, 2]) == 3\n\ncheck(f)"
    ),
    "threads": (
        "import concurrent.futures as c\nwith c.ThreadPoolExecutor(4) as p:\n"
        "    assert sum(p.map(lambda x: x * x, range(9))) == 204"
    ),
    "a thread that goes on": "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
    "deep recursion": "def f(n): return n and 1 + f(n - 1)\nassert f(900) == 900",
    "output": "print('x' * 10**5)\nimport sys; print('y', file=sys.stderr)",
    "exceptions caught": "try: 1 / 0\nexcept ZeroDivisionError: pass",
    "letters of other languages": "assert len('na\u00efve') == 5",
    "an alarm of its own": "import signal as s; s.signal(s.SIGALRM, lambda *a: 0); s.alarm(1); s.alarm(0)",
    "a hundred MB": "x = bytearray(10**8); assert len(x) == 10**8",
    "not run as a script": "assert __name__ != '__main__'",
}
WRONG = {
    "a wrong answer": ("assert 1 + 1 == 3, 'no'", "failed: AssertionError: no"),
    "no Python": ("def f(:", "failed: SyntaxError"),
    "half a character": ("x = '\ud800'", "failed: UnicodeEncodeError"),
    "an unknown name": ("f()", "failed: NameError"),
    "a package": ("import torch", "failed: ModuleNotFoundError"),
}


@pytest.fixture
def enough():
    """Skips what this kernel cannot show; refusals are shown everywhere."""
    try:
        return level()
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def house(tmp_path):
    (tmp_path / "victim").write_text("alive")
    (tmp_path / "secret").write_text("s3cret")
    yield {"folder": str(tmp_path), "victim": str(tmp_path / "victim"), "secret": str(tmp_path / "secret")}


def blocked(program, expected, timeout=1.0):
    passed, reason = run_program(program, timeout)
    assert not passed and reason.startswith(expected), reason
    assert len(reason) < 300


@pytest.mark.parametrize("attack", FILES_AND_PROCESSES)
def test_files_network_and_processes_are_out_of_reach(attack, enough, house):
    program, expected = FILES_AND_PROCESSES[attack]
    blocked(program.format(**house), expected)
    assert sorted(os.listdir(house["folder"])) == ["secret", "victim"]
    assert Path(house["victim"]).read_text() == "alive" and Path(house["victim"]).stat().st_mode & 0o400


@pytest.mark.parametrize("attack", OTHERS)
def test_signals_floods_and_forged_passes_do_not_work(attack, enough):
    blocked(*OTHERS[attack], timeout=0.5 if "timed out" in OTHERS[attack][1] else 5.0)
    assert run_program("assert 1 + 1 == 2").passed  # the next one does not suffer


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are of x86-64")
@pytest.mark.parametrize("attack", DIRECT_X86)
def test_system_calls_that_are_made_directly_are_refused(attack, enough):
    blocked(DIRECT.format(call=DIRECT_X86[attack]), SECCOMP_DIRECT)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 alone has second numbers")
def test_a_call_under_its_second_number_ends_the_process(enough):
    blocked(DIRECT.format(call="0x40000000 | 41, 2, 1, 0"), "blocked: a system call of another architecture")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86-64")
def test_machine_code_of_its_own_gets_no_further(enough):
    code = "b8 29 00 00 00  bf 02 00 00 00  be 01 00 00 00  31 d2  0f 05  c3"  # socket(2, 1, 0); return
    blocked(
        f"import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex({code!r}))\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "r = f()\nassert r >= 0, -r",
        SECCOMP_DIRECT,
    )


def test_a_known_limit_is_a_program_that_searches_its_own_process_for_the_word(enough):
    """It harms its own score alone."""
    forger = (
        "import os, sys\nframe = sys._getframe()\nwhile 'nonce' not in frame.f_locals: frame = frame.f_back\n"
        "os.write(frame.f_locals['answers'], f\"PASS {frame.f_locals['nonce']}\".encode())\nos._exit(0)"
    )
    assert run_program(forger).passed


def test_a_known_limit_is_what_stat_shows(enough, house):
    assert run_program(f"import os; assert os.stat({house['secret']!r}).st_size == 6").passed


def test_a_program_inherits_no_descriptor_but_the_one_for_its_answer(enough):
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        program = """
            import os
            found = []
            for f in range(3, 64):
                try: os.fstat(f); found.append(f)
                except OSError: pass
            assert len(found) == 1, found
        """
        assert run_program(textwrap.dedent(program)).passed


def test_a_program_sees_no_environment_of_the_user(enough, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sandbox._servers.__dict__.clear()
    assert run_program("import os; assert 'HF_TOKEN' not in os.environ and 'HOME' not in os.environ").passed


@pytest.mark.parametrize("program", HONEST)
def test_honest_programs_pass(program, enough):
    assert run_program(HONEST[program], 10.0) == (True, "passed")


@pytest.mark.parametrize("program", WRONG)
def test_wrong_programs_fail_with_their_reason(program, enough):
    blocked(*WRONG[program])


def test_sets_have_one_order_and_random_numbers_do_not(enough):
    words = "{'a', 'b', 'c', 'd', 'e', 'f', 'g'}"
    orders, numbers = set(), set()
    for _ in range(3):
        sandbox._servers.__dict__.clear()
        orders.add(run_program(f"raise ValueError(list({words}))").reason)
        numbers.add(run_program("import random; raise ValueError(random.random())").reason)
    assert len(orders) == 1 and len(numbers) == 3


def test_programs_of_several_threads_run_at_once(enough):
    verdicts = {}

    def work(name):
        verdicts[name] = [run_program(f"assert {name} == {n}", 10.0).passed for n in range(4)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {name: [n == name for n in range(4)] for name in range(4)}


FORKING = """
import os
from yxanul.evaluation import sandbox
assert sandbox.run_program("x = 1").passed
ours = sandbox._server()._process.pid
child = os.fork()
if child == 0:
    os._exit(not (sandbox.run_program("x = 1").passed and sandbox._server()._process.pid != ours))
assert os.waitpid(child, 0)[1] == 0 and sandbox.run_program("x = 1").passed and sandbox._server()._process.pid == ours
"""


def test_a_forked_process_gets_a_sandbox_of_its_own(enough, tmp_path):
    environment = {**os.environ, "PYTHONPATH": importable(tmp_path)}
    subprocess.run([sys.executable, "-c", FORKING], cwd=tmp_path, env=environment, check=True, timeout=60)


# A filter around a process of its own: such kernels exist, and here is none
WEAK_KERNEL = """
import ctypes, platform, struct, sys
from yxanul.evaluation.sandbox import SandboxUnavailable, level, run_program

PRCTL = {"x86_64": 157, "aarch64": 167}[platform.machine()]
number, argument, error, mark = int(sys.argv[1]) or PRCTL, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
lines = [(0x20, 0, 0, 0), (0x15, number, 0, 3), (0x20, 16, 0, 0), (0x15, argument, 0, 1), (6, 0x50000 | error, 0, 0)]
if not argument:
    lines[2:4] = [(0x20, 0, 0, 0), (0x15, number, 0, 1)]
lines.append((6, 0x7FFF0000, 0, 0))
code = b"".join(struct.pack("HBBI", c, t, f, v) for c, v, t, f in lines)
buffer = ctypes.create_string_buffer(code, len(code))
libc = ctypes.CDLL(None)
libc.prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0)))
libc.prctl(22, ctypes.c_ulong(2), struct.pack("HP", len(lines), ctypes.addressof(buffer)))
for use in (level, lambda: run_program(f"open({mark!r}, 'w')")):
    try:
        use()
    except SandboxUnavailable as reason:
        print(reason)
"""
PRCTL, LANDLOCK_CREATE, LANDLOCK_RESTRICT = 0, 444, 446
WEAK_KERNELS = {
    "no seccomp": (PRCTL, 22, 22, "does not give seccomp filters"),
    "no Landlock": (LANDLOCK_CREATE, 0, 38, "does not give Landlock"),
    "no no_new_privs": (PRCTL, 38, 22, "does not give no_new_privs"),
    "seccomp that says yes and does nothing": (PRCTL, 22, 0, "was not blocked by this kernel (failed: AssertionError"),
    "Landlock that says yes and does nothing": (
        LANDLOCK_RESTRICT,
        0,
        0,
        "was not blocked by this kernel (failed: AssertionError",
    ),
}


@pytest.mark.parametrize("kernel", WEAK_KERNELS)
def test_a_kernel_that_offers_too_little_is_refused_and_nothing_runs(kernel, tmp_path):
    *simulated, sentence = WEAK_KERNELS[kernel]
    try:
        level()
    except SandboxUnavailable:
        sentence = "generated code is not run"  # this kernel lacks something without any help
    mark = tmp_path / "mark"
    result = subprocess.run(
        [sys.executable, "-c", WEAK_KERNEL, *map(str, simulated), str(mark)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": importable(tmp_path)},
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and all(sentence in line for line in lines), result.stdout + result.stderr
    assert not mark.exists()


def importable(folder):
    """A folder from which this checkout is `yxanul`, whatever its own name."""
    (folder / "packages").mkdir()
    (folder / "packages" / "yxanul").symlink_to(ROOT)
    return str(folder / "packages")


def test_another_machine_or_system_is_refused_in_one_sentence(monkeypatch):
    for module, name, value in ((platform, "machine", lambda: "riscv64"), (sys, "platform", "darwin")):
        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "_servers", threading.local())
            patch.setattr(module, name, value)
            with pytest.raises(SandboxUnavailable, match=r"^generated code is not run: [^\n]* needs Linux"):
                run_program("x = 1")


@pytest.mark.parametrize("attack", FILES_AND_PROCESSES)
def test_the_attacks_would_work_where_nothing_stops_them(attack, house):
    program = FILES_AND_PROCESSES[attack][0].format(**house)
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, timeout=60)
    assert result.returncode == 0, result.stderr
