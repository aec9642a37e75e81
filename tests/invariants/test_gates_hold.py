"""A stage that fails its gate stops the run on every rank, and no restart walks past it."""

import json

import pytest


@pytest.fixture
def gated(run, bins):
    """`gated(language, code, **changes)`: the small recipe with a gate at the end of each stage."""

    def make(language, code, **changes):
        stages = [
            {
                "name": "language",
                "sources": [{"bin": str(bins / "language/train")}],
                "phases": [{"length": 16, "rows": 16, "steps": 12}],
                "gate": language,
            },
            {
                "name": "code",
                "sources": [{"bin": str(bins / "code/train")}],
                "phases": [{"length": 64, "rows": 4, "steps": 8}],
                "gate": code,
            },
        ]
        return run(stages=stages, **changes)

    return make


def verdicts(run):
    return json.loads((run.folder / "gates.json").read_text())


@pytest.mark.parametrize("processes", [1, 2])
def test_passed_gates_let_the_run_finish(gated, processes):
    passing = gated({"falls": 0.02}, {"falls": 0.02, "keeps": 0.05})
    assert passing(processes=processes) == 0, passing.said()
    assert [verdict["passed"] for verdict in verdicts(passing).values()] == [True, True]
    kept, taught = verdicts(passing)["code"]["findings"]
    assert (kept["domain"], kept["role"], taught["domain"], taught["role"]) == ("language", "kept", "code", "taught")
    line = next(line for line in passing.lines("eval_code_loss") if line["step"] == 12)
    assert taught["before"] == pytest.approx(line["eval_code_bits_per_byte"])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failed_gate_stops_and_stays_stopped_until_it_is_accepted(gated, processes):
    failing = gated({"falls": 0.9}, {"falls": 0.02})
    assert failing(processes=processes) == 3, failing.said()
    assert "gate of language: language" in failing.said() and failing.steps()[-1] == 12
    assert len(failing.lines()) == 12 and not (failing.folder / "final").exists()
    assert failing(processes=processes) == 3 and "--accept-gate language" in failing.said()
    assert len(failing.lines()) == 12
    accepting = "--accept-gate", "language", "--reason", "a test of gates"
    assert failing(*accepting, processes=processes) == 0, failing.said()
    assert verdicts(failing)["language"]["accepted"]["reason"] == "a test of gates"
    assert len(failing.lines()) == 20


def test_a_kill_before_the_save_judges_again(gated):
    killed = gated({"falls": 0.9}, {"falls": 0.02})
    assert killed(kill_in_save={"step": 12, "files": 1}) == -9
    assert killed() == 3 and killed.steps()[-1] == 12


def test_a_stage_that_damages_what_was_learnt_is_caught(gated, bins):
    """So high a rate unlearns everything within eight steps."""
    damaged = gated({"falls": 0.02}, {"stays": 0.9, "keeps": 0.05})
    stages = "stages.code.learning_rate=3.0", "stages.code.warmup_steps=0", "skip_above=0"
    assert damaged(*stages) == 3, damaged.said()
    kept = verdicts(damaged)["code"]["findings"][0]
    assert kept["domain"] == "language" and not kept["passed"]


def test_a_zero_shot_task_is_asked_at_every_stages_end_and_can_shut_the_gate(gated):
    """Its errors rise from stage to stage, as the trouble of the test wants it."""
    holding = gated({"falls": 0.02, "holds": {"quiz": 0.1}}, {"falls": 0.02, "keeps": 0.9, "holds": {"quiz": 0.1}})
    assert holding(quiz={"errors": [0.75, 0.5, 0.6]}) == 3, holding.said()
    found = verdicts(holding)
    assert found["language"]["passed"] and not found["code"]["passed"]
    assert {finding["domain"]: finding["passed"] for finding in found["code"]["findings"]} == {
        "language": True,
        "quiz": False,
        "code": True,
    }
    assert [line["eval_quiz_errors"] for line in holding.lines("eval_quiz_errors")] == [0.75, 0.5, 0.6]


def test_a_task_that_nobody_brings_is_refused_before_any_work(gated):
    missing = gated({"falls": 0.02, "holds": {"helaswag": 0.1}}, {"falls": 0.02})
    assert missing() == 2 and "unknown zero-shot task 'helaswag': did you mean hellaswag?" in missing.said()
    offline = gated({"falls": 0.02, "holds": {"hellaswag": 0.1}}, {"falls": 0.02})
    assert offline() == 2 and "Rowan/hellaswag cannot be read from the Hub" in offline.said()


def test_a_task_in_words_needs_a_tokenizer(gated, tmp_path):
    sums = tmp_path / "sums.jsonl"
    sums.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    mute = gated({"falls": 0.02, "holds": {f"gsm8k_bits={sums}": 0.1}}, {"falls": 0.02})
    assert mute() == 2 and "is asked in words: set tokenizer, as the bins' was." in mute.said()
    assert not mute.folder.exists()


def test_a_gate_with_a_handful_of_documents_is_refused_before_any_work(gated):
    few = gated({"falls": 0.02}, {"falls": 0.02}, validation_tokens=100)
    assert few() == 2 and "a gate needs 8 at least" in few.said() and not few.folder.exists()


def test_a_run_that_begins_behind_a_gated_stage_judges_what_it_trains(gated, tmp_path):
    """The stage before was somebody else's; starting again changes nothing about that."""
    whole = gated({"falls": 0.02}, {"falls": 0.02, "keeps": 0.9})
    assert whole() == 0, whole.said()
    later = gated({"falls": 0.02}, {"falls": 0.9})
    begin = "--stage", "code", "--init-from", whole.folder / "stages/1-language"
    assert [later(*begin), later(*begin)] == [3, 3], later.said()
    assert list(verdicts(later)) == ["code"]


def test_the_checkpoint_of_a_run_whose_gate_failed_does_not_go_on_in_another_folder(gated):
    failed, other = (gated({"falls": 0.9}, {"falls": 0.02}) for _ in range(2))
    assert failed() == 3
    other.recipe = failed.recipe
    resume = "--resume", failed.folder / "stages/1-language"
    assert other(*resume) == 3 and "--accept-gate language" in other.said()
    assert other(*resume, "--accept-gate", "language", "--reason", "a test") == 0, other.said()
    assert verdicts(other)["language"]["accepted"]["reason"] == "a test"


def test_other_held_out_text_in_the_middle_of_a_gated_run_is_refused(gated):
    changed = gated({"falls": 0.02}, {"falls": 0.02, "keeps": 0.9})
    assert changed("--stage", "language") == 0, changed.said()
    assert changed("validation_tokens=2000") == 2 and "other held-out text of language" in changed.said()
    assert changed() == 0, changed.said()
