"""Paired comparisons: intervals that cover, McNemar by hand, changed samples, refusals in one sentence, the page."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from yxanul.__main__ import main
from yxanul.evaluation.compare import (
    Difference,
    agresti_min,
    bootstrap,
    compare,
    mcnemar,
    paired_difference,
    read_result,
)

EVIL = "</pre><script>alert('x')</script>"


def write(folder, samples, *, task="quiz", version=1, shots=0, status="done", higher_is_better=True, value=None):
    """A result with one task; `samples`: id -> (output, metrics)."""
    folder.mkdir(exist_ok=True)
    names = list(dict.fromkeys(name for _, metrics in samples.values() for name in metrics))
    means = {name: float(np.mean([metrics[name] for _, metrics in samples.values()])) for name in names}
    found = {
        name: {"value": means[name] if value is None else value, "higher_is_better": higher_is_better}
        for name in names
    }
    entry = {"version": version, "shots": shots, "n": len(samples), "status": status, "metrics": found}
    facts = {"format": 1, "model": folder.name, "revision": None, "date": "2026-11-22", "tasks": {task: entry}}
    (folder / "results.json").write_text(json.dumps(facts))
    lines = [
        {"id": name, "prompt": f"prompt {name}", "output": output, "expected": "x", "metrics": metrics}
        for name, (output, metrics) in samples.items()
    ]
    (folder / f"samples-{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def right(values, metric="acc"):
    return {f"q{number}": (f"out {value}", {metric: value}) for number, value in enumerate(values)}


def compared(*folders):
    return compare([read_result(folder, folder.name) for folder in folders])


@pytest.mark.parametrize(
    "gained, lost, p",
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),  # by hand: none, one or two of ten
        (6, 4, 2 * (1 + 10 + 45 + 120 + 210) / 1024),
    ],
)
def test_mcnemar_is_the_two_sided_binomial_test(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_many_changes_is_a_number():
    assert 0 < mcnemar(5200, 4800) < 1e-4 and mcnemar(5000, 5000) == 1.0


def test_the_bootstrap_interval_covers_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        differences = generator.exponential(size=120) - 0.7  # skewed; its mean is 0.3
        low, high = bootstrap(differences, seed)
        hits += low <= 0.3 <= high
    assert 0.915 <= hits / 400 <= 0.98


@pytest.mark.parametrize("gain, loss, n", [(0.05, 0.05, 164), (0.1, 0.02, 100), (0.01, 0.01, 300), (0.2, 0.1, 50)])
def test_the_interval_of_right_and_wrong_covers_the_true_difference(gain, loss, n):
    generator = np.random.default_rng(1)
    drawn = generator.multinomial(n, [gain, loss, 1 - gain - loss], size=4000)
    bounds = [agresti_min(int(gained), int(lost), n) for gained, lost, _ in drawn]
    hits = np.mean([low <= gain - loss <= high for low, high in bounds])
    assert 0.94 <= hits <= 0.995


def test_no_change_at_all_still_has_an_interval_with_width():
    low, high = agresti_min(0, 0, 100)
    assert low < 0 < high and high - low > 0.02


def test_the_difference_is_the_other_less_the_first_and_its_verdict_knows_which_way_is_better():
    values = np.array([[1.30, 1.20, 1.10, 1.25] * 20, [1.20, 1.12, 1.00, 1.11] * 20])
    lower = paired_difference("bits_per_byte", values, higher_is_better=False)
    assert lower.value == pytest.approx(-0.105) and lower.low < -0.105 < lower.high < 0
    assert lower.p is None and lower.verdict == "better"
    assert paired_difference("f1", values).verdict == "worse"
    assert paired_difference("f1", values[::-1].repeat(1, 0)).verdict == "better"
    noise = np.stack([values[0], np.roll(values[0], 1)])
    assert paired_difference("f1", noise).verdict == "not shown"


def test_enough_samples_give_no_warning(tmp_path):
    (pair,), _ = compared(*(write(tmp_path / name, right([1, 0] * 15)) for name in "ab"))
    assert not pair.notes


def test_what_an_interval_with_0_in_it_says_is_never_better_or_worse():
    for n in range(1, 40):
        for gained in range(n + 1):
            values = np.zeros((2, n))
            values[1, :gained] = 1
            values[0, gained : gained + n // 5] = 1
            found = paired_difference("acc", values)
            assert found.verdict == "not shown" or not found.low <= 0 <= found.high
    assert Difference("acc", 9, 0.1, 0.2, -0.1, 0.3, p=0.01).verdict == "not shown"


def test_pairing_finds_what_two_separate_intervals_would_miss():
    generator = np.random.default_rng(0)
    first = generator.normal(size=200)
    difference = paired_difference("f1", np.stack([first, first + 0.05 + generator.normal(size=200) * 0.1]))
    assert difference.verdict == "better" and first.std() / np.sqrt(200) > 0.05  # less than one standard error


def test_changed_samples_are_counted_and_listed_and_unchanged_ones_are_not(tmp_path):
    first = write(tmp_path / "a", right([1, 0, 1, 0, 1]))
    other = write(tmp_path / "b", right([1, 1, 0, 1, 1]))
    (pair,), refusals = compared(first, other)
    (difference,) = pair.differences
    assert (difference.gained, difference.lost, difference.n) == (2, 1, 5) and not refusals
    assert {name for name, _, _ in pair.changed} == {"q1", "q2", "q3"}
    assert pair.notes == ["only 5 samples: the intervals of so few are rough"]


def test_without_right_and_wrong_the_largest_changes_come_first(tmp_path):
    first = write(tmp_path / "a", right([1.0, 1.0, 1.5], "bits_per_byte"), higher_is_better=False)
    other = write(tmp_path / "b", right([1.1, 0.5, 1.5], "bits_per_byte"), higher_is_better=False)
    (pair,), _ = compared(first, other)
    assert [name for name, _, _ in pair.changed] == ["q1", "q0"]


def test_samples_are_paired_by_id_not_by_line_and_the_common_ones_alone(tmp_path):
    samples = right([1, 0, 1, 0])
    first = write(tmp_path / "a", samples)
    other = write(tmp_path / "b", dict(reversed(samples.items())) | {"q9": ("new", {"acc": 1})})
    (pair,), _ = compared(first, other)
    assert pair.differences[0].n == 4 and not pair.changed
    assert pair.notes[0] == "4 samples in common, of 4 and 5; the others are left out"


def test_another_prompt_under_the_same_id_is_said(tmp_path):
    first, other = write(tmp_path / "a", right([1, 0])), write(tmp_path / "b", right([1, 0]))
    file = other / "samples-quiz.jsonl"
    file.write_text(file.read_text().replace("prompt q1", "another prompt"))
    (pair,), _ = compared(first, other)
    assert pair.notes[0] == "1 samples have another prompt in b"


def test_a_figure_that_is_no_mean_of_its_samples_is_said(tmp_path):
    folders = [write(tmp_path / name, right([1.0, 1.5], "bits_per_byte"), value=1.1) for name in "ab"]
    (pair,), _ = compared(*folders)
    assert "the mean over samples; the result's own figure, 1.1000, is weighted" in pair.notes[0]


def test_three_results_are_each_compared_with_the_first(tmp_path):
    folders = [
        write(tmp_path / name, right(values)) for name, values in zip("abc", ([1, 0], [1, 1], [0, 0]), strict=True)
    ]
    pairs, _ = compared(*folders)
    assert [(pair.other.label, pair.differences[0].value) for pair in pairs] == [("b", 0.5), ("c", -0.5)]


def test_json_holds_the_figures_of_the_table_and_a_pipe_whole_names(tmp_path, capsys):
    name = "a-name-that-is-long-" * 10
    folders = [str(write(tmp_path / each, right(values))) for each, values in (("a", [1, 0]), (name, [1, 1]))]
    page = ["--html", str(tmp_path / "page.html")]
    assert main(["compare", *folders, *page]) == 0
    assert name in capsys.readouterr().out
    assert main(["compare", *folders, *page, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["differences"]
    assert row["difference"] == 0.5 and row["verdict"] == "not shown" and row["result"].endswith(name)


def bad(tmp_path, capsys, first, other):
    code = main(["compare", str(first), str(other), "--html", str(tmp_path / "page.html")])
    printed = capsys.readouterr().err
    assert code == 2 and printed.count("\n") == 1 and not (tmp_path / "page.html").exists()
    return printed


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"version": 2}, "nothing to compare: quiz: version 1 in .*a, 2 in .*b"),
        ({"shots": 5}, "nothing to compare: quiz: shots 0 in .*a, 5 in .*b"),
        ({"status": "not run: no sandbox"}, "nothing to compare: quiz: not run: no sandbox in .*b"),
        ({"task": "other"}, "nothing to compare: quiz: not run in .*b; other: not run in .*a"),
    ],
)
def test_tasks_that_are_not_alike_are_refused_in_one_sentence(changes, sentence, tmp_path, capsys):
    first, other = write(tmp_path / "a", right([1, 0])), write(tmp_path / "b", right([1, 0]), **changes)
    assert re.search(sentence, bad(tmp_path, capsys, first, other))


def test_bad_folders_and_files_are_one_sentence_that_names_them(tmp_path, capsys):
    first, other = write(tmp_path / "a", right([1, 0])), write(tmp_path / "b", right([1, 0]))
    assert "results.json does not exist: name a folder" in bad(tmp_path, capsys, first, tmp_path / "nowhere")
    assert "two different results or more" in _one(capsys, first)

    samples = other / "samples-quiz.jsonl"
    text = samples.read_text()
    samples.write_text(text.replace('"q1"', '"q0"'))
    assert "line 2: the id 'q0' is there twice" in bad(tmp_path, capsys, first, other)
    samples.write_text(text[:-9])
    assert "line 2 is no sample" in bad(tmp_path, capsys, first, other)
    samples.write_text(text.replace('"metrics"', '"m"'))
    assert "line 1 is no sample: KeyError: 'metrics'" in bad(tmp_path, capsys, first, other)
    samples.write_text(text.replace('"q', '"z'))
    assert "have no sample in common" in bad(tmp_path, capsys, first, other)
    samples.unlink()
    assert "samples-quiz.jsonl does not exist" in bad(tmp_path, capsys, first, other)
    (other / "results.json").write_text("{}")
    assert "is no result of `yxanul evaluate`: KeyError: 'tasks'" in bad(tmp_path, capsys, first, other)


def _one(capsys, folder):
    assert main(["compare", str(folder)]) == 2
    return capsys.readouterr().err


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_holds_figures_chart_and_samples_and_nothing_from_elsewhere(tmp_path, capsys):
    first = write(tmp_path / "a", {f"q{n}": ("fine", {"acc": n % 2}) for n in range(20)})
    other = write(tmp_path / "b", {f"q{n}": (EVIL, {"acc": 1}) for n in range(20)})
    assert main(["compare", str(first), str(other), "--html", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr()
    assert "+0.5000" in printed.out and "10/0" in printed.out and "better" in printed.out
    text = (tmp_path / "page.html").read_text()
    page = Reader(text)
    assert "script" not in page.tags and not page.links and "http" not in text
    assert page.tags.count("title") == page.tags.count("svg") + 1 and page.tags.count("desc") == 1
    assert "Differences of acc" in page.words and "quiz, " in " ".join(page.words) and "95 % from +0.2" in text
    assert page.tags.count("svg") == 1 and page.tags.count("circle") == 1 and page.tags.count("details") == 10
    words = " ".join(page.words)
    assert EVIL in words and "prompt q2" in words and "+0.5000 better" in words and "10 samples changed." in words
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_numbers_of_samples_have_their_units(tmp_path):
    for name, bits in (("a", 1.0), ("b", 1.5)):
        folder = write(tmp_path / name, right([bits] * 2, "bits_per_byte"), higher_is_better=False)
        file = folder / "samples-quiz.jsonl"
        file.write_text(
            file.read_text().replace(f'"out {bits}"', "[-30.5]").replace('"expected": "x"', '"expected": 44')
        )
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--html", str(tmp_path / "page.html")]) == 0
    words = "".join(Reader((tmp_path / "page.html").read_text()).words)
    assert "log-likelihood, nats[-30.5]" in words and "bytes of the text44" in words and "expected" not in words
    assert "bits per byte 1 \N{RIGHTWARDS ARROW} 1.5" in words


def test_a_long_list_of_changed_samples_is_cut_and_says_so(tmp_path):
    first, other = write(tmp_path / "a", right([0] * 130)), write(tmp_path / "b", right([1] * 130))
    assert main(["compare", str(first), str(other), "--html", str(tmp_path / "page.html")]) == 0
    page = Reader((tmp_path / "page.html").read_text())
    assert page.tags.count("details") == 100 and "130 samples changed, the first 100 are shown." in "".join(page.words)
