"""`yxanul plan` shows what a run would eat, before its data is there."""

import json

import pytest

from yxanul.__main__ import main
from yxanul.catalog import load_shape, training_flops_per_token

RECIPE = """
model: tiny
warmup_steps: 10
stages:
  - name: language
    sources: [{bin: bins/a/very/long/path/to/the/text/of/wikipedia, tokens: 100_001, weight: 3}, {bin: bins/b, tokens: 1e5, weight: 1}]
    tokens: 200_000
    phases: [{length: 48, rows: 4, steps: 101}, {length: 128, rows: 8}]
  - name: "math [x]"
    sources: [{bin: bins/math, tokens: 50_000}]
    epochs: 2
    phases: [{length: 128, rows: 8}]
"""  # noqa: E501


@pytest.fixture
def plan(tmp_path, capsys):
    """`plan(*words)`: what `yxanul plan` of the recipe above prints; not on a terminal."""
    (tmp_path / "run.yaml").write_text(RECIPE)

    def run(*words):
        assert main(["plan", str(tmp_path / "run.yaml"), *words]) == 0
        return capsys.readouterr().out

    return run


def test_json_agrees_with_the_plans_own_arithmetic(plan):
    facts = json.loads(plan("--json"))
    first, second, third = facts["phases"]
    assert facts["block"] == 384 and facts["steps"] == third["last_step"] + 1
    assert (first["first_step"], first["last_step"], second["first_step"]) == (0, 101, 102), "102: a block's multiple"
    assert facts["roundings"][0] == {"stage": "language", "length": 48, "asked": 101, "steps": 102}
    assert facts["tokens"] == sum(phase["tokens"] for phase in facts["phases"])
    assert first["tokens"] == 102 * 4 * 48 and third["epochs"] == {"bins/math": 264 / 130}, "2 epochs, rounded up"
    assert first["epochs"]["bins/b"] == pytest.approx(0.5, abs=0.01)
    flops = training_flops_per_token(load_shape("tiny").config, 48)
    assert first["attention_share"] == flops["attention"] / sum(flops.values()) < second["attention_share"]
    assert first["training_flops"] == first["tokens"] * sum(flops.values())
    assert first["learning_rates"] == pytest.approx([1e-4, 1e-3, 1e-3]) and facts["tails"]["bins/math"] == 49_999 % 384


def test_in_a_pipe_the_table_is_plain_and_whole(plan):
    out = plan()
    assert "\x1b" not in out and "…" not in out
    assert "1.51 x bins/a/very/long/path/to/the/text/of/wikipedia" in out
    assert "math [x]" in out and "rounded: language, length 48: 101 steps were asked for" in out
    assert "block: 384 tokens" in out and "together: " in out and "tail: no block reaches the last 79 tokens" in out


def test_bad_input_is_one_sentence(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(RECIPE)
    assert main(["plan", str(tmp_path / "run.yaml"), "stages.language.tokens=10"]) == 2
    assert capsys.readouterr().err.endswith("raise it, or shorten the phases before.\n")
    assert main(["plan", "dmo"]) == 2
    assert "unknown recipe or file 'dmo'" in capsys.readouterr().err


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    out = capsys.readouterr().out
    assert "save_total_limit" in out and "ddp_bucket_cap_mb" in out
