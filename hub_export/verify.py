"""Is an artefact the model? A second client opens it, and what it computes is compared with the source in fp32.

    reference = Reference(source)
    verdict = judge(reference, artefact, client)       # one row: logits, greedy tokens, bits per byte, tokenizer, chat

Limits come with each artefact, with the reason. Not here: how good the model is (evaluation/).
"""

import math
import sysconfig
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from yxanul.data.whole_files import write_json
from yxanul.hub_export.markdown import grid
from yxanul.hub_export.source import Source

JSON, TABLE = "verification.json", "verification.md"
TEXT_CHARACTERS, TEXTS = 1200, 3
LONGEST_ROW = 256
GREEDY_TOKENS = 24
PROMPTS = ("Question: What is 17 + 25?\nAnswer:", "The function returns", "def main(arguments):\n    ")
HARD_TEXTS = (
    "Plain words, and a sentence more.",
    "def f(x):\n\treturn x**2  # 3.14 != 22/7\n\n\n    if not x:\r\n        pass\r\n",
    " leading,   inner    and trailing spaces   ",
    "\n\n\t\n  \n",
    "1 12 123 1234 12345 123456 1234567 1,000,000 0x1F 1e-6 2024-02-29",
    "It's we'll they've I'M DON'T l'été d’accord",
    "Grüße, naïve café, e\u0301 and \u00e9, İstanbul, ﬁne, ǅ",
    "你好，世界。日本語のテキスト、한국어 문장.",
    "عربي ٠١٢٣٤٥ हिन्दी १२३ ไทย ๔๕๖ ① Ⅷ ½ x²",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪 \u200b\u00a0\u2009\u3000\ufeff ￿",
    "https://example.org/a?b=c&d=%20#e <a href='x'>y</a> {{ z }} \\n \\u0041 C:\\temp",
    "!!! ... --- ??? ([{<>}]) $%^&* ~~~ ``` |||",
    "<|user|>\nSpecial tokens<|endoftext|> in the middle<|assistant|> <|pad|>",
    "CamelCaseAndsnake_case_and-kebab ALLCAPS a1b2c3 AAAAAAAAAAAAAAAAAAAAAAAA",
    "\x00\x01\x7f controls, and \u2028 a line separator",
    "x",
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  What is 2 + 2?\n"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And\n\n3 + 3?"},
]


class Client(Protocol):
    """Opens an artefact.

    May also have `tokenize(text)`, `chat(messages)`, `cpu_seconds` of the last answer, and `excuses`: for "tokenizer"
    or "chat" the client's own fault, which becomes a note and not a failure.
    """

    name: str

    def logits(self, token_ids: list[int]) -> Any: ...

    def greedy(self, token_ids: list[int], count: int) -> list[int]: ...


Opener = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Limits:
    """What an artefact may differ by; None: not asked.

    `logits` is the largest difference, times the logits' spread (standard deviation) where that is above 1; `error` is
    the root mean square of the differences as a share of the spread: it tells damage from rounding in a model that was
    hardly trained, too, which bits per byte do not.
    """

    logits: float | None
    error: float
    bits_per_byte: float  # a share of the reference's
    greedy: bool
    reason: str


@dataclass(frozen=True)
class Artefact:
    path: Path  # a file or a folder
    name: str
    clients: Sequence[Opener]
    limits: Limits
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())


@dataclass
class Verdict:
    """One row of the table."""

    artefact: str
    client: str
    bytes: int
    passed: bool = False
    largest_logit_difference: float | None = None
    logit_error: float | None = None
    top1_agreement: float | None = None
    greedy_equal: int | None = None
    greedy_of: int | None = None
    bits_per_byte: float | None = None
    bits_per_byte_difference: float | None = None
    tokenizer_equal: int | None = None
    tokenizer_of: int | None = None
    chat_equal: bool | None = None
    tokens_per_cpu_second: float | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Reference:
    """What the source says, computed once, in fp32, and before anything is made of it that could share its weights."""

    def __init__(self, source: Source, texts: Sequence[str] | None = None) -> None:
        import torch

        self.tokenizer = tokenizer = source.tokenizer
        self.ids_of = {text: tokenizer(text).input_ids for text in HARD_TEXTS}
        longest = min(LONGEST_ROW, source.config.max_position_embeddings - GREEDY_TOKENS)
        first = next((each for each in (tokenizer.bos_token_id, tokenizer.eos_token_id) if each is not None), 0)
        self.rows: list[list[int]] = []
        self.row_bytes: list[int] = []
        for text in texts or _texts():
            ids = tokenizer(text, add_special_tokens=False).input_ids[: longest - 1]
            self.rows.append([first, *ids])
            self.row_bytes.append(len(tokenizer.decode(ids).encode()))
        hard = [id for text in HARD_TEXTS for id in self.ids_of[text]]
        self.rows.append([first, *hard][:longest])
        self.row_bytes.append(0)  # for the logits alone: its text may be cut inside of a character
        self.prompts = [tokenizer(text).input_ids[:longest] or [first] for text in PROMPTS]

        with torch.no_grad():
            self.logits: list[np.ndarray] = [
                source.model(input_ids=torch.tensor([row])).logits[0].float().numpy() for row in self.rows
            ]
            self.greedy = [_greedy(source.model, prompt) for prompt in self.prompts]
        rows = zip(self.logits, self.rows, self.row_bytes, strict=True)
        self.bits_per_byte = sum(_bits(each, ids) for each, ids, size in rows if size) / sum(self.row_bytes)
        tokens = sum(map(len, self.rows))
        self.spread = math.sqrt(sum(float(each.var(-1, dtype=np.float64).sum()) for each in self.logits) / tokens)

    def allowed(self, limits: Limits) -> float | None:
        return None if limits.logits is None else limits.logits * max(1.0, self.spread)

    def chat(self) -> str | None:
        if not self.tokenizer.chat_template:
            return None
        return self.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)


def _greedy(model: Any, prompt: list[int]) -> list[tuple[int, float]]:
    """Tokens, each with what the second choice lacks in logits; on past an end-of-text token."""
    import torch

    answer: list[tuple[int, float]] = []
    ids, cache = torch.tensor([prompt]), None
    while len(answer) < GREEDY_TOKENS:
        outputs = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, best = outputs.past_key_values, outputs.logits[0, -1].topk(2)
        ids = best.indices[:1].unsqueeze(0)
        answer.append((int(ids), float(best.values[0] - best.values[1])))
    return answer


def judge(reference: Reference, artefact: Artefact, client: Any) -> Verdict:
    limits = artefact.limits
    row = Verdict(artefact.name, client.name, artefact.bytes, limits=asdict(limits), notes=list(artefact.notes))
    _judge_logits(reference, limits, client, row)
    _judge_greedy(reference, limits, client, row)
    excuses: dict[str, str] = getattr(client, "excuses", {})
    tokenize, chat = getattr(client, "tokenize", None), getattr(client, "chat", None)
    if tokenize is not None:
        wrong = [text for text, ids in reference.ids_of.items() if tokenize(text) != ids]
        row.tokenizer_of = len(reference.ids_of)
        row.tokenizer_equal = row.tokenizer_of - len(wrong)
        if wrong:
            failure = f"{len(wrong)} of {row.tokenizer_of} texts become other tokens, first {wrong[0]!r}"
            _fail(row, failure, excuses.get("tokenizer"))
    if chat is not None and (expected := reference.chat()) is not None:
        row.chat_equal = chat(MESSAGES) == expected
        if not row.chat_equal:
            _fail(row, "the chat template gives another text", excuses.get("chat"))
    row.passed = not row.failures
    return row


def _fail(row: Verdict, failure: str, excuse: str | None) -> None:
    if excuse is None:
        row.failures.append(failure)
    else:
        row.notes.append(f"{failure}: {excuse}")


def _judge_logits(reference: Reference, limits: Limits, client: Any, row: Verdict) -> None:
    largest, agree, bits, squares, tokens = 0.0, 0, 0.0, 0.0, sum(map(len, reference.rows))
    for ids, size, expected in zip(reference.rows, reference.row_bytes, reference.logits, strict=True):
        found = np.asarray(client.logits(ids), dtype=np.float32)
        if found.shape[0] != expected.shape[0] or found.shape[1] < expected.shape[1]:
            row.failures.append(f"logits of shape {found.shape}, not {expected.shape}")
            return
        found = found[:, : expected.shape[1]].copy()
        if not np.isfinite(found).all():
            row.failures.append("logits are not finite")
            return
        agree += int((found.argmax(-1) == expected.argmax(-1)).sum())
        bits += _bits(found, ids) if size else 0.0
        found -= expected
        largest = max(largest, float(np.abs(found).max()))
        squares += float(np.square(found).mean(-1, dtype=np.float64).sum())
    row.largest_logit_difference = largest
    row.logit_error = math.sqrt(squares / tokens) / reference.spread
    row.top1_agreement = agree / tokens
    row.bits_per_byte = bits / sum(reference.row_bytes)
    row.bits_per_byte_difference = row.bits_per_byte / reference.bits_per_byte - 1
    allowed = reference.allowed(limits)
    if allowed is not None and largest > allowed:
        row.failures.append(f"logits differ by {largest:.2g}, more than {allowed:.2g}")
    if not row.logit_error <= limits.error:
        row.failures.append(f"logits err by {row.logit_error:.2%} of their spread, more than {limits.error:.2%}")
    if not abs(row.bits_per_byte_difference) <= limits.bits_per_byte:
        row.failures.append(
            f"bits per byte differ by {row.bits_per_byte_difference:+.3%}, more than {limits.bits_per_byte:.3%}"
        )


def _judge_greedy(reference: Reference, limits: Limits, client: Any, row: Verdict) -> None:
    """Where the reference's two best tokens are nearer than twice the limit, either is right, and counting ends."""
    row.greedy_equal = row.greedy_of = 0
    seconds = 0.0
    for prompt, answer in zip(reference.prompts, reference.greedy, strict=True):
        began = time.process_time()
        found = client.greedy(prompt, GREEDY_TOKENS)
        seconds += getattr(client, "cpu_seconds", None) or time.process_time() - began
        near = 2 * (reference.allowed(limits) or 0.0)
        decided = next((n for n, (_, margin) in enumerate(answer) if margin <= near), len(answer))
        expected = [token for token, _ in answer[:decided]]
        row.greedy_of += decided
        row.greedy_equal += next((n for n in range(decided) if found[n : n + 1] != expected[n : n + 1]), decided)
    row.tokens_per_cpu_second = round(len(reference.prompts) * GREEDY_TOKENS / max(seconds, 1e-9), 2)
    if limits.greedy and row.greedy_equal != row.greedy_of:
        row.failures.append(f"only {row.greedy_equal} of {row.greedy_of} greedy tokens are equal")


def _bits(logits: np.ndarray, ids: list[int]) -> float:
    """Of all tokens but the first."""
    total = 0.0
    for start in range(0, len(ids) - 1, 64):  # a vocabulary of 200,000 in fp64 is 1.6 MB a token
        part = logits[start : min(start + 64, len(ids) - 1)].astype(np.float64)
        part -= part.max(-1, keepdims=True)
        targets = ids[start + 1 : start + 1 + len(part)]
        total += float((np.log(np.exp(part).sum(-1)) - part[np.arange(len(part)), targets]).sum())
    return total / math.log(2)


def _texts() -> list[str]:
    """English and code that every Python carries, and problems."""
    from yxanul.data.builtin import prose
    from yxanul.data.problems import generate

    code = Path(sysconfig.get_path("stdlib"), "argparse.py").read_text(encoding="utf-8")
    questions = "\n\n".join(f"Question: {each[0]}\nAnswer: {each[1]}" for each in generate("math", 12, 3, "hard"))
    return [prose(code)[:TEXT_CHARACTERS], code[-TEXT_CHARACTERS:], questions[:TEXT_CHARACTERS]]


def write_table(folder: Path, rows: list[Verdict], about: dict[str, Any]) -> None:
    write_json(folder / JSON, about | {"rows": [asdict(row) for row in rows]})
    (folder / TABLE).write_text(table(rows) + "\n", encoding="utf-8")


def table(rows: list[Verdict]) -> str:
    """Markdown."""
    heads = "artefact", "client", "MB", "largest logit difference", "error", "top-1", "greedy", "bits/byte"
    cells = [
        (
            row.artefact,
            row.client,
            f"{row.bytes / 1e6:.1f}",
            _number(row.largest_logit_difference, ".1e"),
            _number(row.logit_error, ".2%"),
            _number(row.top1_agreement, ".3f"),
            "-" if row.greedy_of is None else f"{row.greedy_equal}/{row.greedy_of}",
            f"{_number(row.bits_per_byte, '.4f')} ({_number(row.bits_per_byte_difference, '+.3%')})",
            "-" if row.tokenizer_of is None else f"{row.tokenizer_equal}/{row.tokenizer_of}",
            {True: "equal", False: "differs", None: "-"}[row.chat_equal],
            _number(row.tokens_per_cpu_second, ".1f"),
            "passed" if row.passed else "; ".join(row.failures),
        )
        for row in rows
    ]
    return "\n".join(grid((*heads, "tokenizer", "chat", "tokens/CPU s", "verdict"), cells))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
