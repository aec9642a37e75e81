"""A gate lets pass what is proved, and nothing else; its verdicts stay."""

import math

import numpy as np
import pytest

from yxanul.bad_input import BadInput
from yxanul.run_folder import RunFolder
from yxanul.training.gates import Evidence, Gates, judge, load_scores, read_gate, save_scores, student_95

DOCUMENTS = 60


def score(bits_per_byte=1.0, seed=0, documents=DOCUMENTS, noise=0.0, noise_seed=1):
    """Documents of many sizes, some harder than others; `noise` is what two checkpoints of one quality differ by."""
    random = np.random.default_rng(seed)
    sizes = random.integers(200, 4000, documents)
    hardness = random.normal(1, 0.2, documents).clip(0.3)
    jitter = np.random.default_rng(noise_seed).normal(0, noise, documents)
    return Evidence(sizes * (hardness * bits_per_byte + jitter), sizes)


def test_a_change_and_its_interval_are_those_of_the_documents():
    """Against the bootstrap of documents."""
    before, after = score(1.0), score(0.9, noise=0.05)
    found = judge("math", "taught", before, after, -0.05)
    random = np.random.default_rng(3)
    drawn = random.integers(0, DOCUMENTS, (20_000, DOCUMENTS))
    differences = (after.losses - before.losses)[drawn].sum(1) / before.weights[drawn].sum(1)
    assert found.after - found.before == pytest.approx(differences.mean(), abs=1e-3)
    assert found.upper == pytest.approx(np.quantile(differences, 0.95), abs=2e-3)
    assert found.limit == pytest.approx(-0.05 * before.figure)


@pytest.mark.parametrize("degrees, quantile", [(7, 1.8946), (19, 1.7291), (59, 1.6711), (10**6, 1.6449)])
def test_students_quantile(degrees, quantile):
    assert student_95(degrees) == pytest.approx(quantile, rel=2e-3)


def rate(share_passed, change, limit, trials=400):
    passed = [
        judge("d", "kept", score(1.0), score(1.0 + change, noise=0.05, noise_seed=trial), limit).passed
        for trial in range(trials)
    ]
    assert share_passed(sum(passed) / trials), sum(passed) / trials


def test_noise_alone_passes_where_the_tolerance_is_three_errors_wide():
    """60 documents of noise 0.05 give an error of about 0.007; 3 % of 1.0 are four of them."""
    rate(lambda share: share > 0.98, change=0.0, limit=0.03)


def test_damage_at_the_limit_passes_in_five_of_a_hundred_at_most():
    rate(lambda share: share <= 0.075, change=0.03, limit=0.03)


def test_damage_of_twice_the_tolerance_never_passes():
    rate(lambda share: share == 0, change=0.06, limit=0.03)


def test_a_fall_must_be_proved():
    assert judge("d", "taught", score(1.0), score(0.80, noise=0.05), -0.15).passed
    assert not judge("d", "taught", score(1.0), score(0.86, noise=0.05), -0.15).passed


def test_too_little_text_fails_and_says_how_much_would_do():
    small = {"documents": 10}
    found = judge("d", "kept", score(1.0, **small), score(1.0, noise=0.15, noise_seed=4, **small), 0.03)
    assert not found.passed and found.needed is not None and found.needed > 10
    assert f"about {found.needed:,} would do" in found.sentence()
    enough = judge(
        "d", "kept", score(1.0, documents=4 * found.needed), score(1.0, noise=0.15, documents=4 * found.needed), 0.03
    )
    assert enough.passed


@pytest.mark.parametrize("documents", [1, 7])
def test_a_handful_of_documents_proves_nothing(documents):
    found = judge("d", "kept", score(1.0, documents=documents), score(0.5, documents=documents), 0.03)
    assert not found.passed and found.needed == 8 and found.upper == math.inf


def test_what_is_not_a_number_does_not_pass():
    broken = score(1.0)
    assert not judge("d", "kept", score(1.0), Evidence(broken.losses * math.nan, broken.weights), 0.5).passed


def test_documents_without_text_count_in_the_sums_alone():
    before, after = score(1.0), score(0.9)
    bits = np.append(before.losses, 3.0), np.append(after.losses, 2.0)
    sizes = np.append(before.weights, 0)
    found = judge("d", "taught", Evidence(bits[0], sizes), Evidence(bits[1], sizes), -0.05)
    assert found.passed and math.isfinite(found.upper)


@pytest.mark.parametrize(
    "entry, says",
    [
        ({"fals": 0.1}, "did you mean falls"),
        ({}, "give falls or stays"),
        ({"falls": 0.1, "stays": 0.1}, "give falls or stays"),
        ({"falls": "much"}, "must be a share"),
        ({"falls": 1.5}, "from 0 to below 1"),
        ({"falls": 0.1, "domain": "maths"}, "did you mean math"),
        ({"falls": 0.1, "known": ["cod"]}, "did you mean code"),
        ({"falls": 0.1, "known": "code"}, "known is a list"),
        ({"falls": 0.1, "holds": ["hellaswag"]}, "holds a mapping"),
        ({"falls": 0.1, "holds": {"hellaswag": "well"}}, "hellaswag must be a share"),
        ({"falls": 0.1, "holds": {"code": 0.1}}, "code is a domain"),
        (3, "key: value"),
    ],
)
def test_a_bad_gate_is_refused(entry, says):
    with pytest.raises(BadInput, match=says):
        read_gate(entry, "math", ["math", "code"])


def test_a_gate_without_held_out_text_is_refused():
    with pytest.raises(BadInput, match="no held-out text"):
        read_gate({"falls": 0.1}, "math", [])


@pytest.fixture
def gates(tmp_path):
    run = RunFolder(tmp_path)
    stages = [("language", 0, 10), ("math", 10, 30)]
    two = {name: read_gate({"falls": 0.05}, name, ["language", "math"]) for name in ("language", "math")}
    save_scores(run, 0, {"language": score(3.0), "math": score(3.0, seed=5)})
    save_scores(run, 10, {"language": score(2.0), "math": score(2.9, seed=5)})
    return lambda: Gates(run, two, stages)


def test_scores_come_back(gates, tmp_path):
    assert np.array_equal(load_scores(RunFolder(tmp_path), 10, "math").losses, score(2.9, seed=5).losses)
    with pytest.raises(BadInput, match="step-20"):
        load_scores(RunFolder(tmp_path), 20, "math")


def test_a_stage_is_judged_by_what_it_teaches_and_by_what_was_learnt_before(gates):
    findings = gates().judge(30, {"language": score(2.2), "math": score(1.0, seed=5)})
    assert [(found.domain, found.role, found.passed) for found in findings] == [
        ("language", "kept", False),
        ("math", "taught", True),
    ]
    assert findings[0].before == pytest.approx(score(2.0).figure)  # after its own stage, not at the beginning


def test_a_failed_gate_stays_failed_until_somebody_accepts_it_with_a_reason(gates):
    first = gates()
    first.record(30, first.judge(30, {"language": score(2.2), "math": score(1.0, seed=5)}))
    first.write()
    assert gates().failed_at(30) == "math" and gates().failed_at(10) is None
    with pytest.raises(BadInput, match="failed are: math"):
        gates().accept("language", "why not")
    accepting = gates()
    accepting.accept("math", "it is a test")
    accepting.write()
    assert gates().failed_at(30) is None
    assert gates().verdicts["math"]["accepted"]["reason"] == "it is a test" and not gates().verdicts["math"]["passed"]


def test_what_was_known_before_the_run_is_compared_with_the_model_as_it_began(tmp_path):
    """In the second stage too: small losses of several stages cannot add up."""
    run, names = RunFolder(tmp_path), ["old", "one", "two"]
    entries = {name: read_gate({"falls": 0.05, "keeps": 0.03, "known": ["old"]}, name, names) for name in names[1:]}
    save_scores(run, 0, {"old": score(1.00), "one": score(3.0), "two": score(3.0)})
    save_scores(run, 10, {"old": score(1.02), "one": score(2.0), "two": score(3.0)})
    gates = Gates(run, entries, [("one", 0, 10), ("two", 10, 20)])
    findings = gates.judge(20, {"old": score(1.04), "one": score(2.0), "two": score(2.0)})
    assert [(found.domain, found.role, found.passed) for found in findings] == [
        ("one", "kept", True),
        ("old", "known", False),
        ("two", "taught", True),
    ]


def test_a_zero_shot_task_must_hold_against_its_best_stage(tmp_path):
    def wrong(share, questions=400):
        errors = (np.arange(questions) < share * questions).astype(float)
        return {"quiz": Evidence(errors, np.ones(questions)), "text": score(3.0 - share)}

    run = RunFolder(tmp_path)
    gate = read_gate({"stays": 0.9, "holds": {"quiz": 0.05}}, "text", ["text"])
    for step, share in ((0, 0.75), (10, 0.50), (20, 0.60)):
        save_scores(run, step, wrong(share))
    gates = Gates(run, {"last": gate}, [("first", 0, 10), ("second", 10, 20), ("last", 20, 30)])
    held = [gates.judge(30, wrong(share))[0] for share in (0.60, 0.50)]
    assert [(found.domain, found.role, found.before, found.passed) for found in held] == [
        ("quiz", "held", 0.5, False),
        ("quiz", "held", 0.5, True),
    ]


def test_going_back_forgets_what_was_found_later(gates, tmp_path):
    run, later = RunFolder(tmp_path), gates()
    save_scores(run, 30, {"language": score(2.2), "math": score(1.0, seed=5)})
    for step in (10, 30):
        later.record(step, [])
    later.write()
    back = gates()
    back.go_back_to(12)
    assert list(gates().verdicts) == ["language"]
    assert {file.name for file in run.scores.iterdir()} == {"step-0.safetensors", "step-10.safetensors"}
