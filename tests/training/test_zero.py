"""ZeRO 1, 2 and 3 on two CPU processes are DDP: the same losses, files, skipped steps and exit codes."""

from importlib.util import find_spec

import pytest
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


def assert_same_tensors(one, other, step):
    """Weights, moments and step counts, by name; an error is measured by a tensor's largest value."""
    for name in FILES:
        first, second = (load_file(run.folder / f"checkpoints/checkpoint-{step}" / name) for run in (one, other))
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            error = (second[key] - tensor).abs().max() / tensor.abs().max()
            assert error <= (0 if key.endswith(".step") else 1e-5), key


@STAGES
def test_zero_is_ddp(zero, ddp, stage):
    from yxanul import YxanulForCausalLM

    split = zero(stage)
    assert f"{stage} holds 50% of the moments" in split.said()
    assert split.losses()[:COMPARED] == pytest.approx(ddp.losses()[:COMPARED], abs=1e-5)
    for mine, its in zip(split.lines(), ddp.lines(), strict=True):
        assert mine["learning_rate"] == its["learning_rate"] and mine["tokens"] == its["tokens"]
        assert mine["grad_norm"] == pytest.approx(its["grad_norm"], rel=1e-3) or mine["step"] > COMPARED
    first, second = (finished.lines("eval_bits_per_byte")[0] for finished in (split, ddp))
    assert first["step"] == 0 and first == pytest.approx(second, rel=1e-9)
    assert_same_tensors(ddp, split, STEPS)
    _, report = YxanulForCausalLM.from_pretrained(split.folder / "final", output_loading_info=True)
    assert not any(report.values())
    assert split(f"parallel={stage}", "--evaluate-only", **ON_CPU) == 0, split.said()
    assert f"{split.lines('eval_bits_per_byte')[-1]['eval_code_loss']:.4f}" in split.said()


@pytest.mark.parametrize("layout", [{}, {"embedding_rank": 16}], ids=["plain", "factorised tied"])
@STAGES
def test_moments_go_there_and_back(run, small_shape, stage, layout):
    shape = {"model_config": small_shape | layout, "save_total_limit": 9}
    whole, moved = run(**shape, gradient_accumulation_steps=2), run(**shape, **UNLIKE_GPUS)
    assert whole(processes=2) == 0, whole.said()
    assert moved("use_cpu=true", processes=2, signal={"step": 4, "name": "SIGTERM"}) == 4, moved.said()
    words = (f"parallel={stage}", "gradient_accumulation_steps=2")
    assert moved(*words, **ON_CPU, signal={"step": 9, "name": "SIGTERM"}) == 4, moved.said()
    assert moved("use_cpu=true", processes=2) == 0, moved.said()
    assert moved.losses() == pytest.approx(whole.losses(), abs=1e-5)
    for step in (10, 15, STEPS):  # the first is ZeRO's own
        assert_same_tensors(whole, moved, step)


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
    assert stopped.steps()[-1] == 9 and "stopped at step 9" in stopped.said()
    assert stopped(f"parallel={stage}", **ON_CPU) == 0, stopped.said()
    assert stopped.losses() == zero(stage).losses()


@pytest.mark.parametrize("trouble", [{"nan": [1, 4]}, {"spike": [4]}], ids=["nan", "spike"])
@STAGES
def test_a_bad_gradient_on_one_rank_is_skipped_on_all(run, stage, trouble):
    """DeepSpeed skips what is not finite itself, in the first step before there are moments."""
    [(name, steps)] = trouble.items()
    bad = {name: {"steps": steps, "rank": 1}}
    ddp, split = run(), run(**UNLIKE_GPUS)
    assert ddp(processes=2, **bad) == 0, ddp.said()
    assert split(f"parallel={stage}", **ON_CPU, **bad) == 0, split.said()
    skipped = [line["skipped_steps"] for line in split.lines()]
    assert skipped == [line["skipped_steps"] for line in ddp.lines()] and skipped[3:] == [len(steps)] * 17
    for mine, its in list(zip(split.lines(), ddp.lines(), strict=True))[:COMPARED]:
        assert mine["loss"] == (None if mine["step"] in steps else pytest.approx(its["loss"], abs=1e-5))
        assert mine["learning_rate"] == its["learning_rate"]


@STAGES
def test_a_run_that_begins_inside_of_its_plan(run, zero, stage):
    begun = run(**UNLIKE_GPUS)
    words = ("--stage", "code", "--init-from", zero("zero1").folder / "final", f"parallel={stage}")
    assert begun(*words, **ON_CPU) == 0, begun.said()
    assert [line["step"] for line in begun.lines()] == list(range(13, 21))
