"""Greedy generation in batches, as lm-eval does it: padded on the left, ended by stop strings, cut at each in turn.

    writer = Writer(subject, [Prompt("Question: 1+1?\nAnswer:", ("\n", "."), 256)])
    for batch in writer.batches: writer.run(batch)      # (number of the prompt, text)

A prompt loses its beginning until `tokens` more fit into the model. A row that is done costs nothing but padding, and
the longest prompts come first. Not here: sampling, chat.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from yxanul.bad_input import BadInput
from yxanul.evaluation.text_model import TextModel, evaluating

ROWS = {"cpu": 16}
ROWS_ELSEWHERE = 128


class Prompt(NamedTuple):
    text: str
    stops: tuple[str, ...]
    tokens: int


class Writer:
    """As scoring.Scorer: `batches` in a fixed order, `run` makes the texts of one of them."""

    def __init__(self, subject: TextModel, prompts: Sequence[Prompt], *, rows: int | None = None) -> None:
        self.subject, self.prompts = subject, prompts
        self._ids = [subject.encode(prompt.text) for prompt in prompts]
        self.cut: set[int] = set()
        for number, prompt in enumerate(prompts):
            room = subject.longest - prompt.tokens
            if room < 1:
                raise BadInput(f"the model takes {subject.longest} tokens, and {prompt.tokens} are to be generated.")
            if len(self._ids[number]) > room:
                self.cut.add(number)
                self._ids[number] = self._ids[number][-room:]
        order = sorted(range(len(prompts)), key=lambda number: (-len(self._ids[number]), prompts[number].text))
        alike: dict[tuple, list[int]] = {}
        for number in order:
            alike.setdefault(prompts[number][1:], []).append(number)
        rows = rows or ROWS.get(subject.device.type, ROWS_ELSEWHERE)
        self.batches = [own[start : start + rows] for own in alike.values() for start in range(0, len(own), rows)]

    def run(self, numbers: list[int]) -> list[tuple[int, str]]:
        """Halves a batch that does not fit into memory."""
        try:
            with evaluating(self.subject.model):
                return self._run(numbers)
        except torch.OutOfMemoryError:
            if len(numbers) == 1:
                raise
        torch.cuda.empty_cache()
        middle = len(numbers) // 2
        return [found for half in (numbers[:middle], numbers[middle:]) for found in self.run(half)]

    def _run(self, numbers: list[int]) -> list[tuple[int, str]]:
        subject, prompt = self.subject, self.prompts[numbers[0]]
        width = max(len(self._ids[number]) for number in numbers)
        ids = torch.full((len(numbers), width), subject.end_id)
        mask = torch.zeros_like(ids)
        for row, number in enumerate(numbers):
            ids[row, width - len(self._ids[number]) :] = torch.tensor(self._ids[number])
            mask[row, width - len(self._ids[number]) :] = 1
        made: Any = subject.model.generate(
            input_ids=ids.to(subject.device),
            attention_mask=mask.to(subject.device),
            max_length=width + prompt.tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=subject.end_id,
            stopping_criteria=StoppingCriteriaList([_AtStops(subject, prompt.stops, width)]),
        )
        return [
            (number, self._text(row, prompt)) for number, row in zip(numbers, made[:, width:].tolist(), strict=True)
        ]

    def _text(self, ids: list[int], prompt: Prompt) -> str:
        end = self.subject.end_id
        text = self.subject.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids, skip_special_tokens=True)
        for stop in (*prompt.stops, self.subject.tokenizer.decode(end)):
            text = text.split(stop)[0]
        return text


class _AtStops(StoppingCriteria):
    """Which rows are done; the others go on. A stop is looked for in the last tokens that can hold it."""

    def __init__(self, subject: TextModel, stops: tuple[str, ...], begin: int) -> None:
        self._subject, self._stops, self._begin = subject, stops, begin
        self._tail = 1 + max((len(stop.encode()) for stop in stops), default=0)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> torch.Tensor:
        tail = input_ids[:, max(self._begin, input_ids.shape[1] - self._tail) :]
        texts = self._subject.tokenizer.batch_decode(tail)
        done = [any(stop in text for stop in self._stops) for text in texts]
        return torch.tensor(done, device=input_ids.device) | (input_ids[:, -1] == self._subject.end_id)
