"""ZeRO 1, 2 and 3 on two CPU processes are DDP: the same losses, files, skipped steps and exit codes."""

from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install deepspeed"),
]

STEPS = 20
COMPARED = 12  # tiny models are chaotic: the first twelve steps
FILES = ("model.safetensors", "optimizer.safetensors")
STAGES = pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
ON_CPU = {"processes": 2, "zero": True, "seconds": 240}  # its first start on a machine compiles for half a minute
UNLIKE_GPUS = {"use_cpu": None}  # accelerate would not have DeepSpeed with it


@pytest.fixture(scope="module")
def ddp(run):
    finished = run()
    assert finished(processes=2) == 0, finished.said()
    return finished


@pytest.fixture(scope="module")
def zero(run):
    """`zero(stage)`: the undisturbed run of that stage."""
    finished = {}

    def make(stage):
        if stage not in finished:
            finished[stage] = run(**UNLIKE_GPUS)
            assert finished[stage](f"parallel={stage}", **ON_CPU) == 0, finished[stage].said()
        return finished[stage]

    return make


def assert_same_tensors(one, other, step, **tolerance):
    """Of weights, moments and step counts, by name."""
    for name in FILES:
        first, second = (load_file(run.folder / f"checkpoints/checkpoint-{step}" / name) for run in (one, other))
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            torch.testing.assert_close(second[key], tensor, msg=lambda text, key=key: f"{key}: {text}", **tolerance)


@STAGES
def test_zero_is_ddp(zero, ddp, stage):
    from yxanul import YxanulForCausalLM

    split = zero(stage)
    assert split.losses()[:COMPARED] == pytest.approx(ddp.losses()[:COMPARED], abs=1e-5)
    for mine, its in zip(split.lines(), ddp.lines(), strict=True):
        assert mine["learning_rate"] == its["learning_rate"] and mine["tokens"] == its["tokens"]
        assert mine["grad_norm"] == pytest.approx(its["grad_norm"], rel=1e-3) or mine["step"] > COMPARED
    first, second = (finished.lines("eval_bits_per_byte")[0] for finished in (split, ddp))
    assert first["step"] == 0 and first == pytest.approx(second, rel=1e-9)
    assert_same_tensors(ddp, split, STEPS, atol=1e-3, rtol=1e-2)
    _, report = YxanulForCausalLM.from_pretrained(split.folder / "final", output_loading_info=True)
    assert not any(report.values())
    assert split(f"parallel={stage}", "--evaluate-only", **ON_CPU) == 0, split.said()
    assert f"{split.lines('eval_bits_per_byte')[-1]['eval_code_loss']:.4f}" in split.said()


@pytest.mark.parametrize("layout", [{}, {"embedding_rank": 16}], ids=["plain", "factorised tied"])
@STAGES
def test_moments_go_there_and_back(run, small_shape, stage, layout):
    shape = {"model_config": small_shape | layout}
    whole, moved = run(**shape, gradient_accumulation_steps=2), run(**shape, **UNLIKE_GPUS)
    assert whole(processes=2) == 0, whole.said()
    stopped = {"signal": {"step": 4, "name": "SIGTERM"}}
    assert moved("use_cpu=true", processes=2, **stopped) == 4, moved.said()
    stopped["signal"]["step"] = 9
    assert moved(f"parallel={stage}", "gradient_accumulation_steps=2", **ON_CPU, **stopped) == 4, moved.said()
    assert moved("use_cpu=true", processes=2) == 0, moved.said()
    assert moved.losses() == pytest.approx(whole.losses(), abs=1e-5)
    assert_same_tensors(whole, moved, 10, atol=1e-6, rtol=1e-4)


@STAGES
def test_killed_and_resumed(run, zero, stage):
    killed = run(**UNLIKE_GPUS)
    assert killed(f"parallel={stage}", **ON_CPU, kill={"step": 8}) == -9
    assert killed.steps() == [5]
    assert killed(f"parallel={stage}", **ON_CPU) == 0, killed.said()
    assert killed.lines() == zero(stage).lines() and killed.digests(STEPS) == zero(stage).digests(STEPS)


@STAGES
def test_stopped_by_a_signal_on_one_rank(run, zero, stage):
    stopped = run(**UNLIKE_GPUS)
    assert stopped(f"parallel={stage}", **ON_CPU, signal={"step": 7, "rank": 1, "name": "SIGTERM"}) == 4
    assert stopped.steps()[-1] == 8 and "stopped at step 8" in stopped.said()
    assert stopped(f"parallel={stage}", **ON_CPU) == 0, stopped.said()
    assert stopped.losses() == zero(stage).losses()


@pytest.mark.parametrize("by", ["nan", "spike"])
@STAGES
def test_a_bad_gradient_on_one_rank_is_skipped_on_all(run, zero, stage, by):
    """As under DDP; a spike comes later than 20 good steps would be known, so it is judged from the first on."""
    both = []
    for words, ways in (((), {"processes": 2}), ((f"parallel={stage}",), ON_CPU)):
        bad = run(**UNLIKE_GPUS if words else {})
        assert bad(*words, **ways, **{by: {"steps": [1, 4], "rank": 1}}) == 0, bad.said()
        both.append(bad)
    assert [line["skipped_steps"] for line in both[1].lines()] == [1, 1, 1] + [2] * 17
    under_ddp, split = (bad.losses()[:COMPARED] for bad in both)
    assert [loss is None for loss in split] == [loss is None for loss in under_ddp] == [True] + [False] * 2 + [True] + [False] * 8
    assert split[4:] == pytest.approx(under_ddp[4:], abs=1e-5)
    assert both[1].lines()[9]["learning_rate"] == both[0].lines()[9]["learning_rate"]


@STAGES
def test_a_run_that_begins_inside_of_its_plan(run, zero, stage):
    begun = run(**UNLIKE_GPUS)
    words = ("--stage", "code", "--init-from", zero("zero1").folder / "final", f"parallel={stage}")
    assert begun(*words, **ON_CPU) == 0, begun.said()
    assert [line["step"] for line in begun.lines()] == list(range(13, 21))
