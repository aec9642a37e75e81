"""Whole runs in te, on a stand-in for Transformer Engine: files as in fp32, exact resumes with scales, DDP, FSDP2."""

import pytest
import torch
from safetensors.torch import load_file

STEPS = 20
TE = {"precision": "te"}
SCALES = "scales.safetensors"
WARMED = "FP8's scales were warmed up"


@pytest.fixture(scope="module")
def one(run):
    """On one process, undisturbed."""
    whole = run(**TE)
    assert whole(te=True) == 0, whole.said()
    return whole


@pytest.fixture
def plain(undisturbed):
    return undisturbed(1)


def assert_near(found, expected, most):
    assert len(found.losses()) == len(expected.losses()) == STEPS
    for one, other in zip(found.losses(), expected.losses(), strict=True):
        assert abs(one - other) < most


def test_a_run_leaves_what_one_in_fp32_leaves_and_its_scales_and_learns_the_same(one, plain):
    found, expected = one.files(), plain.files()
    scales = {name: found.pop(name) for name in list(found) if name.endswith(SCALES)}
    assert found == expected
    assert {name.partition("/")[0] for name in scales} == {"checkpoints", "stages"} and len(scales) == 4
    assert one.losses() != plain.losses() and one.losses()[-1] < one.losses()[0] - 0.3
    assert_near(one, plain, most=0.05)
    assert [line.keys() for line in one.lines()] == [line.keys() for line in plain.lines()]
    for found, expected in zip(one.lines(), plain.lines(), strict=True):
        assert found["gradient/norm/mlp"] == pytest.approx(expected["gradient/norm/mlp"], rel=0.2)
    # 20 micro-batches and 3 of the warm-up in two layers, none of them with a cache or a mask
    assert "'regions': 23" in one.said() and "'DotProductAttention': 46" in one.said()
    assert one.said().count(WARMED) == 1 and "its largest entry in the last 16 uses" in one.said()


def test_the_scales_are_plain_numbers_of_every_module_and_direction(one):
    scales = load_file(one.folder / f"checkpoints/checkpoint-{STEPS}" / SCALES)
    modules = {"input_layernorm": (3, 2), "self_attn.o_proj": (3, 2), "mlp": (6, 4)}
    expected = {}
    for layer in range(2):
        for module, tensors in modules.items():
            for direction, count in zip(("scaling_fwd", "scaling_bwd"), tensors, strict=True):
                name = f"model.layers.{layer}.{module}.{direction}"
                expected |= {f"{name}.scale": (count,), f"{name}.amax_history": (16, count)}
    assert {name: tuple(tensor.shape) for name, tensor in scales.items()} == expected
    assert {tensor.dtype for tensor in scales.values()} == {torch.float32}
    used = scales["model.layers.1.mlp.scaling_bwd.scale"]
    assert (used[[0, 2]] > 100).all()  # gradients, far below 1


def test_it_resumes_to_the_bit_with_its_scales(run, one):
    killed = run(**TE)
    assert killed(te=True, kill={"step": 8}) == -9
    assert killed(te=True) == 0, killed.said()
    assert WARMED not in killed.said()
    assert killed.losses() == one.losses() and killed.digests(STEPS) == one.digests(STEPS)
    assert SCALES in one.digests(STEPS)


def test_a_resume_may_change_the_precision_and_back_again(run, one, plain):
    moved = run(**TE)
    assert moved(te=True, signal={"step": 7, "name": "SIGTERM"}) == 4, moved.said()
    assert moved("precision=fp32", signal={"step": 13, "name": "SIGTERM"}) == 4, moved.said()
    assert WARMED not in moved.said()
    assert not (moved.folder / f"checkpoints/checkpoint-{max(moved.steps())}" / SCALES).exists()
    assert moved(te=True) == 0, moved.said()
    assert moved.said().count(WARMED) == 1
    assert moved.losses()[:7] == one.losses()[:7] and moved.losses()[7:] != one.losses()[7:]
    assert_near(moved, plain, most=0.05)


def test_a_warm_up_leaves_weights_random_state_and_data_alone(run):
    """Against a run that has none, for its scaling has no state."""
    first, second = run(**TE, save_steps=1), run(**TE, save_steps=1, precision_policy={"scaling": "current"})
    for each in (first, second):
        assert each(te=True, signal={"step": 1, "name": "SIGTERM"}) == 4, each.said()
    states = [load_file(each.folder / "checkpoints/checkpoint-1/rank-00000.safetensors") for each in (first, second)]
    assert torch.equal(states[0]["cpu"], states[1]["cpu"])
    assert (WARMED in first.said(), WARMED in second.said()) == (True, False)
    moments = [load_file(each.folder / "checkpoints/checkpoint-1/optimizer.safetensors") for each in (first, second)]
    for name, value in moments[0].items():  # of one gradient, not of four
        assert (value - moments[1][name]).norm() <= 0.2 * value.norm(), name
    assert abs(first.losses()[0] - second.losses()[0]) < 0.02


def test_two_processes_are_near_one_and_fsdp2_is_ddp(run, one):
    ddp, fsdp = run(**TE, optimizer="adamw"), run(**TE)
    assert ddp(te=True, processes=2) == 0, ddp.said()
    assert_near(ddp, one, most=0.02)
    assert "'reductions'" in ddp.said()
    assert fsdp("parallel=fsdp2", te=True, processes=2, fsdp2=True) == 0, fsdp.said()
    assert_near(fsdp, ddp, most=1e-3)
    assert fsdp.files().keys() == ddp.files().keys()
    assert ddp(f"--resume={STEPS - 5}", te=True) == 0, ddp.said()  # on one process
    assert WARMED not in ddp.said() and abs(ddp.losses()[-1] - one.losses()[-1]) < 0.02


def test_beside_autocast_with_muon_and_accumulation_as_on_a_gpu(run):
    mixed, bf16 = run(**TE, optimizer="muon", gradient_accumulation_steps=2), run(optimizer="muon")
    assert mixed(te=True, bf16=True) == 0, mixed.said()
    assert bf16(bf16=True) == 0, bf16.said()
    assert_near(mixed, bf16, most=0.1)
    weights = load_file(mixed.folder / "final/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_fused_accumulation_and_cached_weights_learn_the_same(run):
    policy = {"scaling": "current", "weight_cache": True}
    clean = run(**TE, precision_policy=policy, gradient_accumulation_steps=2)
    fused = run(**TE, precision_policy=policy | {"fuse_accumulation": True}, gradient_accumulation_steps=2)
    assert clean(te=True) == 0, clean.said()
    assert fused(te=True) == 0, fused.said()
    assert fused.losses() == clean.losses() and fused.digests(STEPS) == clean.digests(STEPS)
    assert SCALES not in fused.digests(STEPS)


def test_evaluation_is_that_of_the_plain_weights(one):
    assert one("--evaluate-only", te=True) == 0
    in_te, _, used = one.said().partition("of Transformer Engine: ")
    assert one("--evaluate-only", "precision=fp32") == 0
    assert in_te == one.said()
    assert "LayerNormMLP" in used and "regions" not in used and "DotProductAttention" not in used


def test_a_dry_run_tells_the_formats(bins, tmp_path, capsys, monkeypatch):
    from small_runs.fixture import write_recipe

    from yxanul.training import pretrain
    from yxanul.training.precision import te_layers

    monkeypatch.setattr(te_layers, "load", lambda on_gpu: None)
    recipe = write_recipe(bins, tmp_path / "recipe.yaml", TE | {"precision_policy": {"gradients": "e4m3"}})
    assert pretrain.main([str(recipe), "--dry-run"]) == 0
    said = "".join(capsys.readouterr())
    assert "q, k, v, o, gate, up, down in FP8: E4M3 forward, E4M3 gradients" in said and "FLOPs run in FP8" in said
    assert "parameters, te; nothing was trained" in said


@pytest.mark.parametrize(
    "changes, processes, message",
    [
        ({"precision_policy": {"fuse_accumulation": True}}, 2, "precision_policy.fuse_accumulation hides gradients"),
        ({"precision_policy": {"scaling": "block"}}, 1, "block scaling needs multiples of 128"),
    ],
)
def test_refusals_of_a_start(run, changes, processes, message):
    refused = run(**TE | changes)
    assert refused(te=True, processes=processes) == 2, refused.said()
    assert message in refused.said() and not refused.folder.exists()
