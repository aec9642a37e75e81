"""`yxanul tokenizer train ...` makes a tokenizer from any source, `yxanul tokenizer compare A B ...` measures some.

    yxanul tokenizer train --kind superbpe --vocabulary 32000 --source notes/ --held-out 0.01 --out tokenizers/notes
    yxanul tokenizer compare tokenizers/notes gpt2 --source notes/ --held-out 0.01

Exact duplicates are left out of the training, for superwords learn what repeats. Not here: bits per byte, the only
figure that compares models of two vocabularies; fewer tokens are not better by themselves.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.documents import Document, check_share, is_held_out
from yxanul.data.grouping import grouped
from yxanul.data.progress import answer, answer_json, say
from yxanul.data.sources import open_source
from yxanul.data.tokenizers import Tokenizer, check_free, gguf_pre_tokenizer, load_tokenizer, save_tokenizer
from yxanul.data.train_tokenizer import check_sizes, default_transition, train_bpe, train_superbpe
from yxanul.shell import command, subcommand

DEFAULT_DIGITS = {"bpe": "single", "superbpe": "groups"}


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    check_share(options.held_out)
    if options.action == "train":
        facts = train(options)
        if options.json:
            answer_json(facts)
    else:
        compare(options)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("tokenizer", __doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    source: dict[str, Any] = {"required": True, "action": "append", "help": "text, as `data prepare` takes it; again"}
    held_out: dict[str, Any] = {"type": float, "default": 0.0, "metavar": "SHARE"}

    argument = subcommand(actions, "tokenizer", "train", "train and save a tokenizer", __doc__).add_argument
    argument("--kind", required=True, choices=sorted(DEFAULT_DIGITS))
    argument("--vocabulary", required=True, type=int, metavar="N", help="tokens, special ones included")
    argument("--transition", type=int, metavar="T", help="superbpe: tokens that are words (default 0.4 N)")
    digits = "bpe: single by default, or as learnt; superbpe: threes, or single"
    argument("--digits", choices=("single", "groups"), help=digits)
    argument("--source", **source)
    argument("--limit-bytes", type=int, metavar="N", help="train on the first N bytes, the same of each source")
    argument("--held-out", help="leave out what `data prepare` holds out", **held_out)
    argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    argument("--json", action="store_true", help="print JSON")

    about = "bytes and characters per token, time"
    argument = subcommand(actions, "tokenizer", "compare", about, __doc__).add_argument
    argument("tokenizers", nargs="+", metavar="TOKENIZER", help="a folder, a tokenizer.json, a Hub name")
    argument("--source", **source)
    argument("--held-out", help="only what `data prepare` holds out", **held_out)
    argument("--json", action="store_true", help="print JSON")
    return parser


def train(options: argparse.Namespace) -> dict[str, Any]:
    sizes = [options.vocabulary]
    if options.kind == "superbpe":
        sizes.append(default_transition(*sizes) if options.transition is None else options.transition)
    elif options.transition is not None:
        raise BadInput("--transition belongs to --kind superbpe: a bpe has words alone.")
    check_sizes(*sizes)
    check_free(options.out)

    texts = read_texts(options.source, options.limit_bytes, options.held_out)
    size = sum(len(text.encode()) for text in texts)
    say(f"{options.kind} of {options.vocabulary:,} tokens on {len(texts):,} different documents, {size:,} bytes")
    began = time.process_time()
    make: Callable[..., Any] = train_superbpe if options.kind == "superbpe" else train_bpe
    save_tokenizer(make(texts, *sizes, digits=options.digits or DEFAULT_DIGITS[options.kind]), options.out)
    tokenizer = load_tokenizer(options.out)
    seconds = time.process_time() - began
    pre_tokenizer, fingerprint = gguf_pre_tokenizer(tokenizer), tokenizer.fingerprint
    say(f"{options.out}: pre-tokenizer {pre_tokenizer} in GGUF, fingerprint {fingerprint[:12]}, {seconds:.1f} CPU s")
    return {
        "folder": str(options.out),
        "documents": len(texts),
        "bytes": size,
        "pre_tokenizer": pre_tokenizer,
        "fingerprint": fingerprint,
        "cpu_seconds": seconds,
    }


def compare(options: argparse.Namespace) -> None:
    tokenizers = [load_tokenizer(name) for name in options.tokenizers]
    sources = [measure(tokenizers, spec, options.held_out) for spec in options.source]
    if options.json:
        answer_json(sources)
        return
    for facts in sources:
        _print_source(facts)


def read_texts(specs: list[str], limit_bytes: int | None = None, held_out: float = 0.0) -> list[str]:
    """The different documents of the sources; of each source the same share of the bytes, its last document cut."""
    texts: dict[str, None] = {}  # in their order
    if limit_bytes is not None and limit_bytes < len(specs):
        raise BadInput(f"--limit-bytes {limit_bytes} must be at least 1 for each source.")
    for spec in specs:
        room = limit_bytes // len(specs) if limit_bytes else sys.maxsize
        for document in _documents(spec, held_out, keep_held_out=False):
            content = document.text.encode()[:room]
            text = content.decode(errors="ignore")  # the cut may have gone through a character
            if text not in texts:
                texts[text] = None
                room -= len(content)
                if room <= 0:
                    break
    return list(texts)


@dataclass
class Measured:
    """What one tokenizer makes of the documents of a source."""

    tokenizer: Tokenizer
    tokens: int = 0
    changed: int = 0
    cpu_seconds: float = 0.0  # of encoding, all threads of this process
    used: set[int] = field(default_factory=set)

    def add(self, texts: list[str]) -> None:
        began = time.process_time()
        encoded = self.tokenizer.encode_batch(texts)
        self.cpu_seconds += time.process_time() - began
        self.tokens += sum(map(len, encoded))
        self.used.update(*encoded)
        self.changed += sum(self.tokenizer.decode(ids) != text for ids, text in zip(encoded, texts, strict=True))

    def row(self, size: int, characters: int) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer.name,
            "vocabulary_size": self.tokenizer.vocabulary_size,
            "tokens": self.tokens,
            "bytes_per_token": size / self.tokens,
            "characters_per_token": characters / self.tokens,
            "used_share": len(self.used) / self.tokenizer.vocabulary_size,
            "changed_documents": self.changed,
            "cpu_seconds": self.cpu_seconds,
        }


def measure(tokenizers: list[Tokenizer], spec: str, held_out: float = 0.0) -> dict[str, Any]:
    """The tokenizers take turns, batch by batch, so that a slow minute of the machine meets all of them."""
    measured = [Measured(tokenizer) for tokenizer in tokenizers]
    documents = size = characters = 0
    for texts in grouped((document.text for document in _documents(spec, held_out, keep_held_out=True)), len):
        documents += len(texts)
        size += sum(len(text.encode()) for text in texts)
        characters += sum(map(len, texts))
        for one in measured:
            one.add(texts)
    if not documents:
        raise BadInput(f"{spec}: none of its documents are held out at {held_out}; give a larger share or more text.")
    rows = [one.row(size, characters) for one in measured]
    return {"source": spec, "documents": documents, "bytes": size, "characters": characters, "tokenizers": rows}


def _documents(spec: str, held_out: float, keep_held_out: bool) -> Iterator[Document]:
    source = open_source(spec)
    if source.is_tokens:
        raise BadInput(f"{spec} holds token ids: a tokenizer needs text.")
    for part in source.parts():
        for document in part.documents():
            if not held_out or is_held_out(document.group, held_out) == keep_held_out:
                yield document


def _print_source(facts: dict[str, Any]) -> None:
    answer(f"{facts['source']}: {facts['documents']:,} documents, {facts['bytes']:,} bytes")
    width = max(len(row["tokenizer"]) for row in facts["tokenizers"])
    for row in facts["tokenizers"]:
        text = (
            f"  {row['tokenizer']:{width}}  {row['bytes_per_token']:6.3f} bytes and "
            f"{row['characters_per_token']:6.3f} characters per token, {row['cpu_seconds']:.2f} CPU s, "
            f"{row['used_share']:.1%} of {row['vocabulary_size']:,} used"
        )
        changed = row["changed_documents"]
        answer(f"{text}, {changed:,} documents not given back exactly" if changed else text)
