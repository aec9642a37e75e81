"""A plan's YAML: the curricula of the five systems are a few lines each, and every mistake is named."""

import numpy as np
import pytest
import yaml

from yxanul.bad_input import BadInput
from yxanul.data.bin_writer import BinWriter, PackedBinWriter
from yxanul.data.bins import open_bin
from yxanul.data.plan import Plan
from yxanul.data.stages import read_stages
from yxanul.data.stream import Stream

SYSTEM_1 = """
- name: language
  sources: [{bin: wikipedia, tokens: 0.96e9}]
  epochs: 15
  phases:
    - {length: 512, rows: 64, steps: 5000}    # batch 8, accumulation 8
    - {length: 1024, rows: 48, steps: 5000}
    - {length: 1536, rows: 32, steps: 5000}
    - {length: 2048, rows: 32}
"""
SYSTEM_2_TEN_STAGES = """
- name: growing
  sources: [{bin: fineweb-edu, tokens: 4.1e9}]
  epochs: 1
  phases:  # only the first and the last three are the source's
    - {length: 8, rows: 8192, tokens: 0.2e9}
    - {length: 16, rows: 4096, tokens: 0.2e9}
    - {length: 32, rows: 2048, tokens: 0.2e9}
    - {length: 64, rows: 1024, tokens: 0.3e9}
    - {length: 128, rows: 1024, tokens: 0.3e9}
    - {length: 256, rows: 512, tokens: 0.4e9}
    - {length: 512, rows: 256, tokens: 0.4e9}
    - {length: 768, rows: 256, tokens: 0.5e9}
    - {length: 1536, rows: 128, tokens: 0.6e9}
    - {length: 2048, rows: 64}
"""
SYSTEM_2_SIX_STAGES = """
- name: growing
  sources: [{bin: parquet-file, tokens: 1.0e9}]
  steps: 40000
  phases:  # accumulation 32
    - {length: 128, rows: 256, steps: 3000}
    - {length: 256, rows: 128, steps: 3000}
    - {length: 512, rows: 64, steps: 4000}
    - {length: 768, rows: 64, steps: 5000}
    - {length: 1024, rows: 32, steps: 10000}
    - {length: 2048, rows: 32}
"""
SYSTEM_4 = """
- name: growing
  sources: [{bin: text, tokens: 1.0e9}]
  epochs: 1
  phases:
    - {length: 256, rows: 256, tokens: 0.1e9}
    - {length: 512, rows: 128, tokens: 0.2e9}
    - {length: 1024, rows: 64, tokens: 0.3e9}
    - {length: 2048, rows: 32}
"""


def plan_from(text, folder):
    return Plan(read_stages(yaml.safe_load(text), folder))


@pytest.mark.parametrize(
    "text, block, lengths",
    [
        (SYSTEM_1, 6144, [512, 2048]),
        (SYSTEM_2_TEN_STAGES, 6144, [8, 2048]),
        (SYSTEM_2_SIX_STAGES, 6144, [128, 2048]),
        (SYSTEM_4, 2048, [256, 2048]),
    ],
)
def test_the_curricula_of_the_systems_can_be_planned_before_their_data_is_there(text, block, lengths, tmp_path):
    plan = plan_from(text, tmp_path)
    assert plan.block == block
    assert [plan.at(0).length, plan.at(plan.steps - 1).length] == lengths
    assert all(0 <= rounding.steps - rounding.asked < 3 for rounding in plan.roundings)


def test_budgets_come_out_as_asked(tmp_path):
    assert 15 * 0.96e9 <= plan_from(SYSTEM_1, tmp_path).tokens + 15 * 6144 < 15 * 0.96e9 + 2**18
    assert plan_from(SYSTEM_2_SIX_STAGES, tmp_path).steps - 40_000 in range(3)


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
        (SYSTEM_4 + SYSTEM_4, "two stages are called 'growing'"),
    ],
)
def test_mistakes_are_named_with_stage_and_field(text, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        read_stages(yaml.safe_load(text), tmp_path)
