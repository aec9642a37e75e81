"""Answers to many prompts, in the batches of generation.py: each with whether it came to its end by itself.

    answers = write_answers(subject, [Prompt("Question: 1+1?\nAnswer:", ("\nQuestion:",), 16)], calculator=True)

`how` goes to the model's `generate` (do_sample, temperature, ...). With `calculator` what stands between << and = is
worked out by arithmetic while the model writes. Not here: conversations (chat.py).
"""

from typing import Any, NamedTuple

from transformers import LogitsProcessorList

from yxanul.data.progress import Progress, say
from yxanul.evaluation.calculator import CalculatorInTheLoop
from yxanul.evaluation.generation import Prompt, Writer
from yxanul.evaluation.text_model import TextModel


class Answer(NamedTuple):
    text: str
    ended: bool  # by an end-of-text token, before the tokens ran out


def write_answers(
    subject: TextModel,
    prompts: list[Prompt],
    *,
    calculator: bool = False,
    rows: int | None = None,
    title: str = "answers",
    **how: Any,
) -> list[Answer]:
    model = _Generating(subject, calculator, how)
    whole = TextModel(model, subject.tokenizer, subject.device)
    writer = Writer(whole, prompts, rows=rows, refills=not calculator)  # which must see all that a row has written
    if writer.cut:
        say(f"{len(writer.cut):,} prompts are too long for {subject.longest:,} tokens, and lost their beginnings.")
    found: dict[int, str] = {}
    with Progress(title, len(writer.batches), 0) as progress:
        for batch in writer.batches:
            found |= dict(writer.run(batch))
            progress.end_part()
    return [Answer(found[number], number in writer.ended) for number in range(len(prompts))]


class _Generating:
    """The model, whose `generate` is given more than greedy generation gives it."""

    def __init__(self, subject: TextModel, calculator: bool, how: dict[str, Any]) -> None:
        self._subject, self._calculator, self._how = subject, calculator, how

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject.model, name)

    def generate(self, **given: Any) -> Any:
        if self._calculator:
            loop = CalculatorInTheLoop(self._subject.tokenizer, given["input_ids"].shape[1])
            given["logits_processor"] = LogitsProcessorList([loop])
        return self._subject.model.generate(**given | self._how)
