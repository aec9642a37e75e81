"""Answers to many prompts, in the batches of generation.py: each with whether it came to its end by itself.

    answers = write_answers(subject, [Prompt("Question: 1+1?\nAnswer:", ("\nQuestion:",), 16)], calculator=True)

`how` goes to the model's `generate` (do_sample, temperature, ...). With `calculator` what stands between << and = is
worked out by arithmetic while the model writes. Not here: conversations (chat.py).
"""

from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessorList

from yxanul.data.progress import Progress, say
from yxanul.evaluation.calculator import CalculatorInTheLoop
from yxanul.evaluation.generation import Prompt, Writer
from yxanul.evaluation.text_model import TextModel


class Answer(NamedTuple):
    text: str
    ended: bool  # by an end-of-text token, before the tokens ran out


def ends_of(subject: TextModel) -> set[int]:
    """The tokenizer's end of text, and those of the model: some end a turn by one and a text by another."""
    ends = subject.model.generation_config.eos_token_id
    return {subject.end_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])}


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
    writer = Writer(TextModel(model, subject.tokenizer, subject.device), prompts, rows=rows)
    if writer.cut:
        say(f"{len(writer.cut):,} prompts are too long for {subject.longest:,} tokens, and lost their beginnings.")
    found: dict[int, str] = {}
    with Progress(title, len(writer.batches), 0) as progress:
        for batch in writer.batches:
            found |= dict(writer.run(batch))
            progress.end_part()
    ended = dict(zip(found, model.ended, strict=True))  # both in the order of the rows
    return [Answer(found[number], ended[number]) for number in range(len(prompts))]


class _Generating:
    """The model, whose `generate` is given more than greedy generation gives it, and which remembers what ended."""

    def __init__(self, subject: TextModel, calculator: bool, how: dict[str, Any]) -> None:
        self._subject, self._calculator, self._how = subject, calculator, how
        self._ends = torch.tensor(sorted(ends_of(subject)), device=subject.device)
        self.ended: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject.model, name)

    def generate(self, **given: Any) -> Any:
        begin = given["input_ids"].shape[1]
        if self._calculator:
            loop = CalculatorInTheLoop(self._subject.tokenizer, begin)
            given["logits_processor"] = LogitsProcessorList([loop])
        made = self._subject.model.generate(**given | self._how)
        self.ended += torch.isin(made[:, begin:], self._ends).any(dim=1).tolist()
        return made
