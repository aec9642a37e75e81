"""The five modules: by path through `evaluate.load`, as classes, by hand, and what they refuse."""

import math
from pathlib import Path

import numpy as np
import pytest

import yxanul.evaluation.metrics as metrics
from yxanul.evaluation.metrics import CLASSES, load_metric

FOLDER = Path(metrics.__file__).parent
INPUTS = {
    "multiple_choice": {
        "predictions": [[-4.0, -6.0], [-3.0, -2.9], [-8.0, -8.0]],
        "references": [1, 1, 0],
        "choices": [["ab", "abcd"], ["a", "b"], ["x", "\u00e9"]],
    },
    "exact_match": {
        "predictions": ["The Beatles", "paris!", "an apple_pie", "no"],
        "references": [["Beatles"], ["Paris"], ["apple pie"], ["yes", "of course"]],
    },
    "gsm8k": {
        "predictions": ["#### 1,200", "it is $12.50 in all", "#### 7\n#### 9", "none"],
        "references": ["a\n#### 1200", "b\n#### 12.50", "c\n#### 7", "d\n#### 5"],
    },
    "pass_at_k": {"predictions": [[True, False, False], [False, False, False]], "references": ["a", "b"], "k": [1, 2]},
    "bits_per_byte": {"predictions": [-8.0, -2.0], "references": [4, 2], "words": [2, 1]},
}
WANTED = {
    "multiple_choice": {"acc": 2 / 3, "acc_norm": 1.0, "acc_bytes": 2 / 3},
    "exact_match": {"exact_match": 1 / 4, "exact_match_official": 3 / 4},
    "gsm8k": {"strict_match": 2 / 4, "flexible_extract": 2 / 4},
    "pass_at_k": {"pass@1": 1 / 6, "pass@2": 1 / 3},
    "bits_per_byte": {
        "bits_per_byte": 10 / math.log(2) / 6,
        "byte_perplexity": math.exp(10 / 6),
        "word_perplexity": math.exp(10 / 3),
    },
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` with its copies of modules in a folder of the test; one, for they are imported from there."""
    import evaluate

    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder)
        yield lambda name: evaluate.load(str(FOLDER / name), cache_dir=str(folder))


@pytest.mark.parametrize("name", CLASSES)
def test_figures_by_path_and_as_a_class_are_those_worked_out_by_hand(name, load):
    by_path = load(name)
    assert type(by_path).__name__ == CLASSES[name]
    for metric in (by_path, load_metric(name)):
        found = metric.compute(**INPUTS[name])
        assert {key: found[key] for key in WANTED[name]} == pytest.approx(WANTED[name])
        assert found["n"] == len(INPUTS[name]["predictions"]) and "per_sample" not in found


@pytest.mark.parametrize("name", ["multiple_choice", "exact_match", "gsm8k", "pass_at_k"])
def test_standard_errors_are_those_of_a_mean_of_the_samples(name):
    found = load_metric(name).compute(**INPUTS[name], per_sample=True)
    assert found["per_sample"]
    for figure, values in found["per_sample"].items():
        assert found[figure] == pytest.approx(np.mean(values))
        assert found[f"{figure}_stderr"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))


def test_the_error_of_a_ratio_is_that_of_many_resamplings():
    draw = np.random.default_rng(0)
    sizes = draw.integers(50, 500, 400)
    nats = -sizes * draw.normal(0.8, 0.2, 400).clip(0.1)
    found = load_metric("bits_per_byte").compute(predictions=nats, references=sizes, words=sizes // 5)
    again = [draw.integers(0, 400, 400) for _ in range(600)]
    figures = [-nats[some].sum() / math.log(2) / sizes[some].sum() for some in again]
    assert found["bits_per_byte_stderr"] == pytest.approx(np.std(figures), rel=0.1)
    spread = np.std([math.exp(-nats[some].sum() / sizes[some].sum()) for some in again])
    assert found["byte_perplexity_stderr"] == pytest.approx(spread, rel=0.1)


def test_one_sample_has_no_standard_error():
    found = load_metric("gsm8k").compute(predictions=["#### 1"], references=["#### 1"])
    assert found["strict_match"] == 1 and found["strict_match_stderr"] is None


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_is_no_score(name):
    empty = {key: value if key == "k" else [] for key, value in INPUTS[name].items()}
    with pytest.raises((ValueError, IndexError)):
        load_metric(name).compute(**empty)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("multiple_choice", {"references": [2, 1, 0]}),
        ("multiple_choice", {"predictions": [[-1.0, math.nan], [0.0, 0.0], [0.0, 0.0]]}),
        ("bits_per_byte", {"predictions": [-math.inf, -1.0]}),
        ("bits_per_byte", {"references": [0, 2]}),
        ("pass_at_k", {"k": [4]}),
    ],
)
def test_what_cannot_be_scored_is_refused(name, changes):
    with pytest.raises(ValueError):
        load_metric(name).compute(**INPUTS[name] | changes)
