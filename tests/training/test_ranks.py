"""One process agrees with itself, and a disk that fails is told from a bug. Two processes: tests/invariants."""

import errno

import pytest
from safetensors import SafetensorError

from yxanul.bad_input import BadInput
from yxanul.training.ranks import Ranks, WriteFailed


@pytest.fixture
def alone():
    return Ranks(1.0)


def test_a_single_process_is_the_first_and_all(alone):
    assert alone.is_first and (alone.rank, alone.count) == (0, 1)


def test_a_single_process_sees_its_own_flag_at_once(alone):
    assert [alone.raised_a_step_ago(flag) for flag in (False, True, False)] == [False, True, False]


def test_a_single_process_gathers_and_hears_what_it_gave(alone):
    assert alone.gather({"losses": 1}) == [{"losses": 1}]
    assert alone.from_first("here") == "here"


def test_the_first_process_writes(alone):
    written = []
    alone.first_writes(lambda: written.append(1))
    assert written == [1]


@pytest.mark.parametrize(
    "error, seen_as",
    [
        (OSError(errno.ENOSPC, "No space left on device"), WriteFailed),
        (SafetensorError("No space left on device"), WriteFailed),
        (BadInput("another process is training there"), BadInput),
        (KeyError("a bug"), KeyError),
    ],
)
def test_what_the_disk_refuses_bad_input_and_a_bug_stay_apart(alone, error, seen_as):
    def fail():
        raise error

    with pytest.raises(seen_as, match=str(error.args[-1])):
        alone.first_writes(fail)
