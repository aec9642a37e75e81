"""The demo asks what training never showed, and counts what is right."""

import subprocess
import sys

import pytest

from yxanul import demo_problems
from yxanul.__main__ import main
from yxanul.data.builtin import ProblemReader
from yxanul.data.problems import generate


def test_no_question_is_in_the_training_text_and_the_last_sums_have_pairs_that_are_not_there_either():
    asked = demo_problems.new_problems()
    assert [len(problems) > 20 for problems in asked.values()] == [True] * 3
    for kind, level in (("math", "easy"), ("reasoning", "hard")):
        reader = ProblemReader(kind, level=level)
        documents = {document.text for document in reader.findings()}
        for problems in asked.values():
            assert not any(problem.question in text for problem in problems[:3] for text in documents)
    known, _, unknown = asked.values()
    trained = {
        problem.group
        for problem in generate("math", 20_000, 7, "easy")
        if not demo_problems.is_held_out(problem.group, 0.05)
    }
    assert all(problem.group in trained for problem in known)
    assert not any(problem.group in trained for problem in unknown)


@pytest.mark.parametrize(
    "answer, wanted",
    [(" <<3+4=7>>7 coins.\n#### 7", "7"), ("#### office ", "office"), ("no mark 7", "none"), ("", "none")],
)
def test_a_result_stands_behind_the_mark(answer, wanted):
    assert demo_problems.result(answer) == wanted


@pytest.mark.parametrize("flag", [["--plain"], []])
def test_a_model_is_loaded_in_a_fresh_process_by_transformers_alone(flag, tmp_path, monkeypatch):
    """One that has learnt nothing solves nothing, and says so."""
    from transformers import AutoTokenizer

    from yxanul import YxanulConfig, YxanulForCausalLM

    monkeypatch.chdir(tmp_path)
    words = "--kind bpe --vocabulary 400 --source builtin:math,count=500 --out final"
    assert main(["tokenizer", "train", *words.split()]) == 0
    AutoTokenizer.from_pretrained("final").save_pretrained("final")
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = YxanulConfig(vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=1, **heads)
    YxanulForCausalLM(config).save_pretrained("final")
    solving = subprocess.run(
        [sys.executable, "-m", "yxanul.demo_problems", "final", *flag], capture_output=True, text=True
    )
    assert solving.returncode == 0, solving.stderr
    assert "sums, new questions: 0 of 40 right" in solving.stdout
