"""What comes from outside is said in a sentence; a bug keeps its traceback."""

import errno
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from yxanul.training.failures import explain, fail
from yxanul.training.ranks import WriteFailed


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
    ],
)
def test_too_little_memory_names_the_settings_that_need_less(error):
    assert "max_micro_batch_tokens lower" in explain(error)


def test_a_checkpoint_that_did_not_fit_names_the_reason():
    assert "(No space left on device)" in explain(WriteFailed("No space left on device"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file(number):
    assert "'metrics.jsonl': when that is mended" in explain(OSError(number, "full", "metrics.jsonl"))


@pytest.mark.parametrize("words", ["[gloo/pair.cc] Connection closed by peer", "NCCL error", "timed out"])
def test_a_lost_process_is_one_where_there_are_others(words, monkeypatch):
    assert explain(RuntimeError(words)) is None
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    assert f"another process of this run was lost ({words})" in explain(RuntimeError(f"a trace\n{words}\n"))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    "error", [KeyError("step"), RuntimeError("shapes (2, 3) and (4, 5)"), FileNotFoundError(2, "No such file", "x")]
)
def test_a_bug_is_not_explained_away(error, grouped, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: grouped)
    assert explain(error) is None


@pytest.mark.parametrize("error", [TorchDynamoException("no"), FailOnRecompileLimitHit("9 graphs")])
def test_what_cannot_be_compiled_keeps_its_traceback_and_names_the_way_back(error):
    with pytest.raises(type(error)) as raised:
        fail(error, SimpleNamespace(count=1))
    assert "the same command goes on with compile=none" in raised.value.__notes__[0]
