"""One process at a time; a lock ends with the process that took it, and with nothing else."""

import os

import pytest

from yxanul.bad_input import BadInput
from yxanul.data.locks import only_process


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    lock = tmp_path / "run/lock"
    with only_process(lock, "at work"), pytest.raises(BadInput, match="another process is at work: wait for it"):
        only_process(lock, "at work").__enter__()
    with only_process(lock, "at work"):
        pass


def test_a_data_worker_that_outlives_its_run_does_not_keep_the_lock(tmp_path):
    (is_there, there), (has_ended, end) = os.pipe(), os.pipe()
    run = os.fork()
    if not run:
        with only_process(tmp_path / "lock", "at work"):
            if os.fork():
                os.read(is_there, 1)
            else:
                os.close(end)
                os.write(there, b"!")
                os.read(has_ended, 1)  # until the test closes it
            os._exit(0)
    os.waitpid(run, 0)
    try:
        with only_process(tmp_path / "lock", "at work"):
            pass
    finally:
        os.close(end)
