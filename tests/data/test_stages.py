"""A plan's YAML: real bins give their sizes, every mistake is named. The systems' plans: training/test_recipes.py."""

import numpy as np
import pytest
import yaml

from yxanul.bad_input import BadInput
from yxanul.data.bin_writer import BinWriter, PackedBinWriter
from yxanul.data.bins import open_bin
from yxanul.data.plan import Plan
from yxanul.data.stages import read_stages
from yxanul.data.stream import Stream

STAGE = "{name: a, sources: [{bin: b, tokens: 99}], phases: [{length: 8, rows: 8}]}"


def plan_from(text, folder):
    return Plan(read_stages(yaml.safe_load(text), folder))


def write_bin(folder, ids, row_length=None):
    maker = {"name": "t", "fingerprint": "f", "vocabulary_size": 60_000, "end_of_text_id": 0}
    if row_length is None:
        writer = BinWriter(folder, ids.dtype, shard_tokens=1000)
    else:
        writer = PackedBinWriter(folder, ids.dtype, 1000, row_length, 0)
    ends = np.flatnonzero(ids == 0) + 1
    writer.add_tokens(ids)
    writer.add_documents(np.diff(ends, prepend=0), np.diff(ends, prepend=0))
    writer.finish(tokenizer=maker, source=[], dropped={})


def test_real_bins_give_their_sizes_and_are_read(tmp_path):
    """Across files of 1,000 tokens, in a stage of a stream and one of packed rows."""
    ids = np.arange(1, 5001, dtype=np.uint16)
    ids[499::500] = 0
    write_bin(tmp_path / "stream", ids)
    write_bin(tmp_path / "packed", ids, row_length=512)
    plan = plan_from(
        """
        - {name: one, sources: [{bin: stream, tokens: 7}], epochs: 1, phases: [{length: 256, rows: 2}]}
        - {name: two, sources: [{bin: packed}], epochs: 1, phases: [{length: 512, rows: 2}]}
        """,
        tmp_path,
    )
    stream = Stream(plan, {name: open_bin(name) for name in plan.source_names}, seed=0)
    batches = [stream.batch(step, 0, 2) for step in range(plan.steps)]
    one = np.concatenate([batches[step].targets.reshape(-1) for step in plan.stage_steps[0]])
    counts = np.bincount(one[: 4999 // 512 * 512], minlength=5001)
    assert (counts[2 : 4999 // 512 * 512 + 1][ids[1 : 4999 // 512 * 512] != 0] == 1).all()
    two = np.concatenate([batches[step].targets.reshape(-1) for step in plan.stage_steps[1]])
    assert np.array_equal(np.sort(two[two > 0]), np.sort(ids[ids > 0])), "every token, a row's first too"
    assert (two == 0).sum() == 10 and (two == -100).sum() == 10 * 512 - 5000


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "stages must be a list of at least one stage"),
        ("[3]", "stage 1 must hold 'key: value' lines; it holds 3"),
        (
            "[{name: a, sources: [{bin: b, tokens: 9}], phase: []}]",
            "stage a: unknown key 'phase': did you mean phases",
        ),
        ("[{name: a, sources: []}]", "stage a: phases is missing"),
        (
            "[{name: a, sources: [], phases: [{length: 8, rows: 8}]}]",
            "stage a, sources must be a list of at least one",
        ),
        ("[{name: a, sources: [{bin: b}], phases: [{length: 8, rows: 8}]}]", "the bin .*b is not there; make it with"),
        ("[{name: a, sources: [{bin: b, weight: 1/0}], phases: [{length: 8, rows: 8}]}]", "weight must be a number"),
        ("[{name: a, sources: [{bin: b, tokens: x}], phases: [{length: 8, rows: 8}]}]", "b, tokens must be a number"),
        (
            "[{name: a, sources: [{bin: b, weight: 0}], phases: [{length: 8, rows: 8}]}]",
            "weight must be above 0; it is 0",
        ),
        ("[{name: a, sources: [{bin: b, tokens: 9}], phases: [{length: 8}]}]", "stage a, phase: rows is missing"),
        ("[{name: a, sources: [{bin: b, tokens: 9}], phases: [{length: 8.5, rows: 8}]}]", "must be a whole number"),
        (
            "[{name: a, sources: [{bin: b, tokens: 9}], phases: [{length: 8, rows: 8, steps: 1, tokens: 1}]}]",
            "length 8: steps and tokens are both given",
        ),
        (f"[{STAGE}, {STAGE}]", "two stages are called 'a'"),
    ],
)
def test_mistakes_are_named_with_stage_and_field(text, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        read_stages(yaml.safe_load(text), tmp_path)
