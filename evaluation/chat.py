"""`yxanul chat MODEL`: talk to a model, word by word as it writes; /reset forgets, /save FILE keeps, /quit ends.

    yxanul chat runs/sft/final --system "Answer briefly."
    yxanul chat runs/sft/final --temperature 0.7 --top-p 0.9
    printf 'Hello!\\nAnd again?\\n' | yxanul chat runs/sft/final          # each line is a turn

Every turn encodes the whole conversation with the tokenizer's chat template, so the model sees what one encoding of it
would give. What no longer fits loses its oldest turns, and that is said. Our models on a CPU decode by decoding.py,
others by `generate`. Not here: files (generate_command.py), several conversations at once.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import say
from yxanul.shell import command

Message = dict[str, str]


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    # Threads that spin while they wait for each other's next small product take the time of those that work
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    how = sampling(options)

    from yxanul.evaluation.text_model import load

    subject = load(options.model)
    if not subject.tokenizer.chat_template:
        raise BadInput(f"the tokenizer of {options.model} has no chat template: set one, or fine-tune the model.")
    names = {name: getattr(options, name) for name in ("new_tokens", "system", "calculator", "int8")}
    at_terminal = sys.stdin.isatty()
    chat = Chat(subject, **names, interruptible=at_terminal, how=how)
    if at_terminal:
        say("/reset begins anew, /save FILE writes the conversation, /quit ends.")
    return talk(chat, iter(lambda: input("> "), None) if at_terminal else sys.stdin)


def parser() -> argparse.ArgumentParser:
    parser = command("chat", __doc__)
    parser.add_argument("model", help="a folder, or a name on the Hub")
    parser.add_argument("--system", default="", metavar="TEXT", help="the system prompt")
    parser.add_argument("--int8", action="store_true", help="our models on a CPU: weights in int8, faster and coarser")
    add_sampling(parser)
    return parser


def add_sampling(parser: argparse.ArgumentParser) -> None:
    argument = parser.add_argument
    argument("--new-tokens", type=int, default=256, metavar="N", help="of an answer, at most (default: 256)")
    argument("--temperature", type=float, default=0.0, metavar="X", help="0, the default, is greedy")
    argument("--top-p", type=float, default=1.0, metavar="X", help="sample from the likeliest, of so much probability")
    argument("--top-k", type=int, default=1000, metavar="N", help="sample from the N likeliest (default: 1000)")
    argument("--seed", type=int, default=0, metavar="N", help="of what is sampled")
    argument("--calculator", action="store_true", help="<<7+8= is completed by arithmetic, not by the model")


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """As `generate` takes it; seeds torch."""
    for name, fits, limits in (
        ("new_tokens", options.new_tokens >= 1, "at least 1"),
        ("top_k", options.top_k >= 1, "at least 1"),
        ("temperature", 0 <= options.temperature < math.inf, "at least 0"),
        ("top_p", 0 < options.top_p <= 1, "above 0 and at most 1"),
    ):
        if not fits:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(options, name)} must be {limits}.")
    import torch

    torch.manual_seed(options.seed)
    if not options.temperature:
        return {"do_sample": False}
    return {"do_sample": True} | {name: getattr(options, name) for name in ("temperature", "top_k", "top_p")}


def in_template(tokenizer: Any, messages: list[Message], **how: Any) -> Any:
    """Up to where the model goes on; templates may refuse roles, and their order."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **how)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise BadInput(f"the model's chat template refuses these roles ({roles}): {error}.") from None


def talk(chat: "Chat", lines: Iterable[str]) -> int:
    try:
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word == "/quit":
                break
            if word == "/reset":
                chat.reset()
                say("The conversation begins anew.")
            elif word == "/save" and rest:
                try:
                    with Path(rest).open("x", encoding="utf-8") as file:
                        file.write(json.dumps(chat.saved(), ensure_ascii=False) + "\n")
                    say(f"{rest}: {len(chat.messages)} messages.")
                except FileExistsError:
                    say(f"not saved: {rest} is there already; name another file.")
                except OSError as error:
                    say(f"not saved: {error}")
            elif word.startswith("/"):
                say("There are /reset, /save FILE and /quit.")
            elif word:
                chat.turn(line.strip())
    except EOFError:
        pass  # Ctrl-D
    return 0


class Chat:
    """A conversation; `turn` says something and writes the answer to standard output as it comes.

    `interruptible`: Ctrl-C ends an answer, and not the chat.
    """

    def __init__(
        self,
        subject: Any,
        *,
        new_tokens: int = 256,
        system: str = "",
        calculator: bool = False,
        int8: bool = False,
        interruptible: bool = False,
        how: dict[str, Any] | None = None,
    ) -> None:
        from yxanul.evaluation.decoding import Decoder, is_supported
        from yxanul.evaluation.generation import ends_of

        self.subject, self._calculator, self._how = subject, calculator, how or {}
        self._interruptible, self._interrupted = interruptible, False
        self.new_tokens = min(new_tokens, subject.longest // 2)
        self._beginning = [{"role": "system", "content": system}] if system else []
        self._ends = ends_of(subject)
        self._decoder = Decoder(subject.model.eval(), int8=int8) if is_supported(subject.model) else None
        if int8 and self._decoder is None:
            raise BadInput("--int8 is for our models on a CPU: leave it out.")
        self.reset()

    def reset(self) -> None:
        self.messages: list[Message] = list(self._beginning)

    def saved(self) -> dict[str, Any]:
        """A row to fine-tune on."""
        return {"messages": self.messages} | ({"calculator": True} if self._calculator else {})

    def turn(self, text: str) -> str:
        """The answer; "" where even the last message alone does not fit, or where it was interrupted at once."""
        self.messages.append({"role": "user", "content": text})
        ids = self._fitting()
        if not ids:
            self.messages.pop()
            return ""
        said = self._written(ids)
        if not said and self._interrupted:
            self.messages.pop()
            return ""
        self.messages.append({"role": "assistant", "content": said})
        return said

    def encoded(self) -> list[int]:
        """The conversation so far, up to where the model goes on."""
        return in_template(self.subject.tokenizer, self.messages, return_dict=False)

    def _fitting(self) -> list[int]:
        room, dropped, first = self.subject.longest - self.new_tokens, 0, len(self._beginning)
        while len(ids := self.encoded()) > room and len(self.messages) > first + 1:
            del self.messages[first : first + 2]  # a question and its answer
            dropped += 2
        if dropped:
            say(f"[the oldest {dropped} messages were dropped: {self.subject.longest:,} tokens are all that fit]")
        if len(ids) > room:
            say(f"[not answered: {len(ids):,} tokens, and {room:,} fit before an answer of {self.new_tokens:,}]")
            return []
        return ids

    def _written(self, ids: list[int]) -> str:
        import torch
        from transformers import LogitsProcessorList

        from yxanul.evaluation.calculator import CalculatorInTheLoop

        tokenizer = self.subject.tokenizer
        stream = _stream(tokenizer, skip_prompt=self._decoder is None)
        helpers: list[Any] = [CalculatorInTheLoop(tokenizer, len(ids))] if self._calculator else []
        self._interrupted = False
        try:
            if self._decoder:
                self._decoder.generate(
                    ids,
                    self.new_tokens,
                    ends=self._ends,
                    processors=[*_warpers(**self._how), *helpers],
                    sample=self._how.get("do_sample", False),
                    on_token=stream.put,
                )
                stream.end()
            else:
                row = torch.tensor([ids], device=self.subject.device)
                self.subject.model.generate(
                    row,
                    attention_mask=torch.ones_like(row),
                    max_new_tokens=self.new_tokens,
                    eos_token_id=sorted(self._ends),
                    pad_token_id=self.subject.end_id,
                    logits_processor=LogitsProcessorList(helpers),
                    streamer=stream,
                    **({"do_sample": False} | self._how),
                )
        except KeyboardInterrupt:
            if not self._interruptible:
                raise
            self._interrupted = True
            stream.end()
            say("[stopped]")
        made = stream.tokens
        if made and made[-1] not in self._ends and not self._interrupted:
            say(f"[cut after {self.new_tokens:,} tokens]")
        if self._calculator and helpers[0].used:
            results = "1 result is" if helpers[0].used == 1 else f"{helpers[0].used} results are"
            say(f"[with the calculator: {results} not the model's]")
        return tokenizer.decode(made, skip_special_tokens=True).strip()


def _stream(tokenizer: Any, skip_prompt: bool) -> Any:
    """To standard output; `tokens` are what came, also where an interrupt cut the rest off."""
    from transformers import TextStreamer

    class Stream(TextStreamer):
        tokens: list[int] = []  # of this class, which is this answer's

        def put(self, value: Any) -> None:
            if not (self.skip_prompt and self.next_tokens_are_prompt):
                self.tokens += value.flatten().tolist()
            super().put(value)

    return Stream(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True)


def _warpers(do_sample: bool = False, temperature: float = 1.0, top_k: int = 1, top_p: float = 1.0) -> list[Any]:
    """The library's own, in its order."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    return (
        [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)] if do_sample else []
    )
