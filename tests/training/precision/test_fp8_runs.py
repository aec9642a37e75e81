"""Whole runs in FP8: files as in fp32, exact resumes, DDP, FSDP2, a change of precision on the way, refusals."""

import pytest
import torch
from safetensors.torch import load_file

STEPS = 20
FP8 = {"precision": "fp8"}


@pytest.fixture(scope="module")
def one(run):
    """On one process, undisturbed."""
    whole = run(**FP8)
    assert whole() == 0, whole.said()
    return whole


def assert_near(found, expected, most=0.01):
    """FP8's scales are those of a process's own rows, so another division rounds elsewhere."""
    assert len(found.losses()) == len(expected.losses()) == STEPS
    for one, other in zip(found.losses(), expected.losses(), strict=True):
        assert abs(one - other) < most


def test_a_run_leaves_what_one_in_fp32_leaves_and_learns_the_same(undisturbed, one):
    plain = undisturbed(1)
    assert one.files() == plain.files()
    assert one.losses() != plain.losses() and one.losses()[-1] < one.losses()[0] - 0.3
    assert_near(one, plain, most=0.05)
    assert one.said().count("FP8 ON A CPU IS FOR TESTS") == 1 and "of the training FLOPs run in FP8" in one.said()


def test_it_resumes_to_the_bit(run, one):
    killed = run(**FP8)
    assert killed(kill={"step": 8}) == -9
    assert killed() == 0, killed.said()
    assert killed.losses() == one.losses() and killed.digests(STEPS) == one.digests(STEPS)


def test_a_resume_may_change_the_precision(run, one):
    moved = run(**FP8)
    assert moved(signal={"step": 10, "name": "SIGTERM"}) == 4, moved.said()
    assert moved("precision=fp32", "precision_policy.down=bf16") == 0, moved.said()
    assert moved.losses()[:10] == one.losses()[:10] and moved.losses()[10:] != one.losses()[10:]
    assert_near(moved, one, most=0.05)


def test_evaluation_is_that_of_the_plain_weights(one):
    assert one("--evaluate-only") == 0
    in_fp8 = one.said()
    assert one("--evaluate-only", "precision=fp32") == 0
    assert in_fp8 == one.said()


def test_two_processes_are_near_one_and_fsdp2_is_ddp(run, one):
    ddp, fsdp = run(**FP8), run(**FP8)
    assert ddp(processes=2) == 0, ddp.said()
    assert_near(ddp, one)
    assert fsdp("parallel=fsdp2", processes=2, fsdp2=True) == 0, fsdp.said()
    assert_near(fsdp, ddp, most=1e-5)
    assert fsdp.files().keys() == ddp.files().keys()


def test_beside_autocast_as_on_a_gpu_under_fsdp2(run):
    """The rest in bf16, the layers in FP8, master weights and moments in fp32."""
    mixed, bf16 = run(**FP8), run()
    assert mixed("parallel=fsdp2", processes=2, fsdp2=True, bf16=True) == 0, mixed.said()
    assert bf16(processes=2, bf16=True) == 0, bf16.said()
    assert_near(mixed, bf16, most=0.05)
    weights = load_file(mixed.folder / "final/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_the_launchers_own_fp8_is_refused_with_our_switch_named(bins, tmp_path, monkeypatch):
    from small_runs.fixture import write_recipe

    from yxanul.bad_input import BadInput
    from yxanul.training import pretrain

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    recipe = write_recipe(bins, tmp_path / "recipe.yaml", {})
    with pytest.raises(BadInput, match="the launcher set mixed_precision=fp8: leave it out, and set precision=fp8"):
        pretrain.main([str(recipe), "--out", str(tmp_path / "run")])


def test_a_dry_run_tells_the_formats(bins, tmp_path, capsys):
    from small_runs.fixture import write_recipe

    from yxanul.training import pretrain

    recipe = write_recipe(bins, tmp_path / "recipe.yaml", FP8 | {"precision_policy": {"v": "bf16"}})
    assert pretrain.main([str(recipe), "--dry-run"]) == 0
    said = "".join(capsys.readouterr())
    assert "q, k, o, gate, up, down in FP8" in said and "parameters, fp8; nothing was trained" in said
