"""One process, two, FSDP2, other accumulation: the same run, to rounding, and every way from one to the other."""

import pytest
from safetensors import safe_open

STEPS = 20
COMPARED = 12  # tiny models are chaotic: the first twelve steps, at the small recipe's tame learning rate


@pytest.fixture
def one(undisturbed):
    return undisturbed(1)


@pytest.fixture
def two(undisturbed):
    return undisturbed(2)


@pytest.fixture(scope="module")
def sharded(run):
    finished = run(parallel="fsdp2")
    assert finished(processes=2, fsdp2=True) == 0, finished.said()
    return finished


def assert_close(one, other, steps=COMPARED):
    assert one.losses()[:steps] == pytest.approx(other.losses()[:steps], abs=1e-5)
    assert len(one.losses()) == STEPS


def test_two_processes_are_one(one, two):
    assert_close(two, one)


def test_gradients_of_two_processes_exist_once(run):
    """They lie in the buckets that DDP reduces, with accumulation too."""
    parts = run(gradient_accumulation_steps=2)
    assert parts(processes=2, places=True) == 0, parts.said()
    with safe_open(parts.folder / "final/model.safetensors", "pt") as weights:
        numbers = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118 - no dictionary
    assert f"gradients: 1 pieces, {4 * numbers} bytes" in parts.said()


def test_evaluation_is_the_same_on_two_processes(one, two):
    """Before the first step, of the same weights; 3 rows of its last batch of 4 are missing in one domain."""
    first, second = (finished.lines("eval_bits_per_byte")[0] for finished in (one, two))
    assert first["step"] == 0 and first == pytest.approx(second, rel=1e-9)
    for processes in (1, 2):
        assert one("--evaluate-only", processes=processes) == 0
        assert f"{one.lines('eval_bits_per_byte')[-1]['eval_code_loss']:.4f}" in one.said()


@pytest.mark.parametrize("changes", [{"gradient_accumulation_steps": 2}, {"max_micro_batch_tokens": 64}])
def test_accumulation_changes_nothing(run, one, changes):
    parts = run(**changes)
    assert parts() == 0, parts.said()
    assert_close(parts, one)


def test_from_one_process_to_two_and_back(run, one):
    moved = run()
    for processes, step in ((1, 4), (2, 9)):
        assert moved(processes=processes, signal={"step": step, "name": "SIGTERM"}) == 4, moved.said()
    assert moved("gradient_accumulation_steps=2") == 0, moved.said()
    assert_close(moved, one)


def moments(run):
    """Names of what the optimizer knows at each stage's end, where an evaluation comes before the save."""
    return [sorted(safe_open(file, "pt").keys()) for file in sorted(run.folder.glob("stages/*/optimizer.safetensors"))]


@pytest.mark.parametrize(
    "layout",
    [{}, {"embedding_rank": 16}, {"embedding_rank": 16, "tie_word_embeddings": False}],
    ids=["plain", "factorised tied", "factorised untied"],
)
def test_fsdp2_is_ddp_and_moments_go_there_and_back(run, small_shape, layout):
    ddp, fsdp, moved = (run(model_config=small_shape | layout) for _ in range(3))
    assert ddp(processes=2) == 0, ddp.said()
    assert fsdp("parallel=fsdp2", processes=2, fsdp2=True) == 0, fsdp.said()
    assert_close(fsdp, ddp)
    assert moments(fsdp) == moments(ddp)
    assert moved(processes=2, signal={"step": 5, "name": "SIGTERM"}) == 4, moved.said()
    assert moved("parallel=fsdp2", processes=2, fsdp2=True, signal={"step": 9, "name": "SIGTERM"}) == 4, moved.said()
    assert moved(processes=2) == 0, moved.said()
    assert_close(moved, ddp, steps=STEPS)


def test_bf16_is_the_same_under_ddp_fsdp2_and_in_an_evaluation_alone(run, two):
    """Under the run's own autocast: no wrapper computes, sums or evaluates in another precision."""
    ddp, fsdp = run(), run()
    assert ddp(processes=2, bf16=True) == 0, ddp.said()
    assert fsdp("parallel=fsdp2", processes=2, fsdp2=True, bf16=True) == 0, fsdp.said()
    assert_close(fsdp, ddp)
    assert ddp.losses()[0] != two.losses()[0]
    assert ddp("--evaluate-only", bf16=True) == 0
    assert f"{ddp.lines('eval_bits_per_byte')[-1]['eval_code_loss']:.4f}" in ddp.said()


def test_muon_is_the_same_everywhere_and_its_momentum_travels(run):
    """Under FSDP2 each rank holds a part of a matrix, whose singular values are not the part's."""
    muon = {"optimizer": "muon", "matrix_learning_rate": 0.01}
    alone, ddp, fsdp, moved = (run(**muon) for _ in range(4))
    assert alone() == 0, alone.said()
    assert ddp(processes=2) == 0, ddp.said()
    assert fsdp("parallel=fsdp2", processes=2, fsdp2=True) == 0, fsdp.said()
    assert_close(ddp, alone)
    assert_close(fsdp, ddp)
    assert moved(signal={"step": 5, "name": "SIGTERM"}) == 4, moved.said()
    assert moved("parallel=fsdp2", processes=2, fsdp2=True) == 0, moved.said()
    assert_close(moved, alone)


def test_weights_of_another_run_begin_the_same_run_on_one_process_and_on_two(run, one):
    """Loaded models are in evaluation mode, and so is what DDP wraps."""
    first, second = run(init_from=str(one.folder / "final")), run(init_from=str(one.folder / "final"))
    assert first() == 0, first.said()
    assert second(processes=2) == 0, second.said()
    assert_close(first, second)
    assert first.losses()[0] < one.losses()[0] - 0.3


def test_fsdp2_resumes_to_the_bit(run, sharded):
    killed = run(parallel="fsdp2")
    assert killed(processes=2, fsdp2=True, kill={"step": 8}) == -9
    assert killed(processes=2, fsdp2=True) == 0, killed.said()
    assert killed.losses() == sharded.losses() and killed.digests(STEPS) == sharded.digests(STEPS)


def test_what_fsdp2_saves_loads_in_transformers(sharded):
    from yxanul import YxanulForCausalLM

    model, report = YxanulForCausalLM.from_pretrained(sharded.folder / "final", output_loading_info=True)
    assert not any(report.values()) and model.config.architectures == ["YxanulForCausalLM"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_gradient_on_one_rank_is_skipped_on_all(run, processes):
    """The run goes on as if that step had learnt nothing, and its losses stay sound."""
    bad = run()
    assert bad(processes=processes, nan={"steps": [4], "rank": processes - 1}) == 0, bad.said()
    lines = bad.lines()
    assert [line["skipped_steps"] for line in lines] == [0, 0, 0] + [1] * 17
    assert lines[3]["loss"] is None and all(line["loss"] for line in lines[:3] + lines[4:])
    assert bad.digests(STEPS).keys() >= {"model.safetensors"}


def test_a_run_that_only_skips_saves_its_last_good_weights_and_stops(run, one):
    bad = run(max_bad_steps=3)
    assert bad(nan={"steps": list(range(7, 21)), "rank": 0}) == 5, bad.said()
    assert bad.steps()[-1] == 9 and "3 steps in a row" in bad.said()
    assert bad.losses()[:6] == one.losses()[:6]


def test_a_lost_rank_ends_the_other(run):
    lost = run()
    codes = lost(processes=2, kill={"step": 8, "rank": 1}, seconds=60)
    assert codes == [5, -9] and "another process" in lost.said()
    assert lost(processes=2) == 0, lost.said()


def test_a_full_disk_loses_nothing(run, two):
    full = run()
    assert full(processes=2, fail_write={"step": 10}) == 5
    assert "No space left" in full.said() and full.steps() == [5]
    assert full(processes=2) == 0, full.said()
    assert full.lines() == two.lines() and full.digests(STEPS) == two.digests(STEPS)
