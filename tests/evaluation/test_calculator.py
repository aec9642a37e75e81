"""The calculator: right sums, nothing for what is no sum, and its place in a model's writing."""

import pytest
import torch

from yxanul.evaluation.answers import write_answers
from yxanul.evaluation.calculator import CalculatorInTheLoop, result_of
from yxanul.evaluation.generation import Prompt
from yxanul.evaluation.text_model import load


@pytest.mark.parametrize(
    "expression, result",
    [
        ("7+8", "15"), ("7 + 8", "15"), ("2+3*4", "14"), ("(2+3)*4", "20"), ("10/4", "2.5"), ("1/3", "0.3333"),
        ("8-10", "-2"), ("-3*-2", "6"), ("0.1+0.2", "0.3"), (".5*4.", "2"), ("9/3/3", "1"), ("10-3-2", "5"),
        ("100*100", "10000"), ("0-1/100000", "0"), ("2*(3-(4+5))", "-12"), ("1/8", "0.125"),
    ],
)  # fmt: skip
def test_sums_are_right(expression, result):
    assert result_of(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "", " ", "7", "7+", "+7+8", "7++8", "7 8", "(7+8", "7+8)", "()", "1/0", "1/(2-2)", "2**3", "2^3", "7+x",
        "__import__('os')", "open('f')", "9"*200 + "*9", "("*500 + "1" + ")"*500, "-"*500 + "1", "1.2.3+1", "7,000+1",
        "9"*9000 + "+1", "1/" + "0"*90, "<<1+1", "1\u00d72", "1;2", "1+1\x00",
        "1e9+1", "1_0+1", "\u0663+\u0664", "0x10+1", "True+1", "a:=1",
    ],
)  # fmt: skip
def test_what_is_no_sum_gives_nothing(expression):
    assert result_of(expression) is None


def loop_over(tokenizer, texts, begin=0):
    ids = [tokenizer.encode(text) for text in texts]
    width = max(map(len, ids))
    batch = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids])
    return CalculatorInTheLoop(tokenizer, begin), batch


@pytest.fixture
def tokenizer(tokenizer_folders):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folders["bpe"])


def test_malformed_brackets_leave_the_scores_as_they_are(tokenizer):
    texts = ["7+8=", "<7+8=", "<<7+8", "<<7+8==", "<<=", "<<<<=", "<<7+\n8=", "<<x=", "<<1/0=", "<<7+8=15>>=", "<<()="]
    loop, batch = loop_over(tokenizer, texts)
    scores = torch.randn(len(texts), len(tokenizer))
    assert torch.equal(loop(batch, scores.clone()), scores) and loop.used == 0


def test_a_bracket_of_the_prompt_is_not_completed(tokenizer):
    loop, batch = loop_over(tokenizer, ["<<7+8="])
    loop._begin = batch.shape[1]
    scores = torch.randn(1, len(tokenizer))
    assert torch.equal(loop(batch, scores.clone()), scores)


def test_the_result_is_forced_token_by_token_in_its_row_alone(tokenizer):
    loop, batch = loop_over(tokenizer, ["so <<70+85=", "nothing here"])
    before = batch.shape[1]
    for _ in range(len(tokenizer.encode("155>>"))):
        scores = loop(batch, torch.zeros(2, len(tokenizer)))
        assert (scores[1] == 0).all()
        batch = torch.cat([batch, scores.argmax(dim=1, keepdim=True)], dim=1)
    assert tokenizer.decode(batch[0, before:]) == "155>>" and loop.used == 1
    assert (loop(batch, torch.zeros(2, len(tokenizer))) == 0).all()


def test_a_model_with_the_calculator_differs_from_it_alone_only_behind_a_bracket(checkpoint):
    subject = load(str(checkpoint("learnt")))
    prompts = [
        Prompt(f"Question: {question}\nAnswer:", (), 30)
        for question in ("Ann has 3 apples and buys 4. How many?", "Name a")
    ]
    alone = write_answers(subject, prompts)
    helped = write_answers(subject, prompts, calculator=True)
    assert alone[0].text.split("=")[0] == helped[0].text.split("=")[0] and "<<3+4=7>>" in helped[0].text
    assert alone[1] == helped[1] and alone[0].ended
