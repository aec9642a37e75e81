"""`yxanul tokenizer train ...` makes a tokenizer from any source, `yxanul tokenizer compare A B ...` measures some.

    yxanul tokenizer train --kind superbpe --vocabulary 32000 --source notes/ --held-out 0.01 --out tokenizers/notes
    yxanul tokenizer compare tokenizers/notes gpt2 --source notes/ --held-out 0.01

Exact duplicates are left out of the training, for superwords learn what repeats. Not here: bits per byte, the only
figure that compares models of two vocabularies; fewer tokens are not better by themselves.
"""

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yxanul.bad_input import BadInput

if TYPE_CHECKING:
    from yxanul.data.documents import Document
    from yxanul.data.tokenizers import Tokenizer

DEFAULT_DIGITS = {"bpe": "single", "superbpe": "groups"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="yxanul tokenizer", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True)
    _add_train(actions.add_parser("train", help="train and save a tokenizer", allow_abbrev=False))
    _add_compare(actions.add_parser("compare", help="bytes and characters per token, time", allow_abbrev=False))
    options = parser.parse_args(arguments)
    if not 0 <= options.held_out < 1:
        raise BadInput(f"--held-out {options.held_out:g} must be a share from 0 to below 1, such as 0.01.")
    return train(options) if options.action == "train" else compare(options)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", required=True, choices=sorted(DEFAULT_DIGITS))
    parser.add_argument("--vocabulary", required=True, type=int, metavar="N", help="tokens, special ones included")
    parser.add_argument("--transition", type=int, metavar="T", help="superbpe: tokens that are words (default 0.4 N)")
    parser.add_argument(
        "--digits",
        choices=("single", "groups"),
        help="bpe: single by default, or as learnt; superbpe: threes, or single",
    )
    parser.add_argument("--source", required=True, action="append", help="text, as `data prepare` takes it; again")
    parser.add_argument(
        "--limit-bytes", type=int, metavar="N", help="train on the first N bytes, the same of each source"
    )
    parser.add_argument(
        "--held-out", type=float, default=0.0, metavar="SHARE", help="leave out what `data prepare` holds out"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizers", nargs="+", metavar="TOKENIZER", help="a folder, a tokenizer.json, a Hub name")
    parser.add_argument("--source", required=True, action="append", help="text, as `data prepare` takes it; again")
    parser.add_argument(
        "--held-out", type=float, default=0.0, metavar="SHARE", help="only what `data prepare` holds out"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def train(options: argparse.Namespace) -> int:
    from yxanul.data.tokenizers import check_free, gguf_pre_tokenizer, load_tokenizer, save_tokenizer
    from yxanul.data.train_tokenizer import check_sizes, default_transition, train_bpe, train_superbpe

    digits = options.digits or DEFAULT_DIGITS[options.kind]
    if options.kind == "superbpe":
        transition = options.transition if options.transition is not None else default_transition(options.vocabulary)
        check_sizes(options.vocabulary, transition)
    elif options.transition is not None:
        raise BadInput("--transition belongs to --kind superbpe: a bpe has words alone.")
    else:
        check_sizes(options.vocabulary)
    check_free(options.out)

    texts = read_texts(options.source, options.limit_bytes, options.held_out)
    size = sum(len(text.encode()) for text in texts)
    _say(f"{options.kind} of {options.vocabulary:,} tokens on {len(texts):,} different documents, {size:,} bytes")
    began = time.process_time()
    if options.kind == "superbpe":
        backend = train_superbpe(texts, options.vocabulary, transition, digits)
    else:
        backend = train_bpe(texts, options.vocabulary, digits)
    save_tokenizer(backend, options.out)
    tokenizer = load_tokenizer(options.out)
    _say(
        f"{options.out}: pre-tokenizer {gguf_pre_tokenizer(tokenizer)} in GGUF, fingerprint "
        f"{tokenizer.fingerprint[:12]}, {time.process_time() - began:.1f} CPU s"
    )
    return 0


def compare(options: argparse.Namespace) -> int:
    from yxanul.data.tokenizers import load_tokenizer

    tokenizers = [load_tokenizer(name) for name in options.tokenizers]
    sources = [measure(tokenizers, spec, options.held_out) for spec in options.source]
    if options.json:
        _say(json.dumps(sources, indent=2))
    else:
        for facts in sources:
            _print_source(facts)
    return 0


def read_texts(specs: list[str], limit_bytes: int | None = None, held_out: float = 0.0) -> list[str]:
    """The different documents of the sources; of each source the same share of the bytes, its last document cut."""
    seen: set[bytes] = set()
    texts = []
    if limit_bytes is not None and limit_bytes < len(specs):
        raise BadInput(f"--limit-bytes {limit_bytes} must be at least 1 for each source.")
    for spec in specs:
        room = limit_bytes // len(specs) if limit_bytes is not None else None
        for document in _documents(spec, held_out, keep_held_out=False):
            content = document.text.encode()[:room]
            key = hashlib.blake2b(content, digest_size=16).digest()
            if key in seen:
                continue
            seen.add(key)
            texts.append(content.decode(errors="ignore"))  # the cut may have gone through a character
            if room is not None:
                room -= len(content)
                if room <= 0:
                    break
    return texts


@dataclass
class Measured:
    """What one tokenizer makes of the documents of a source."""

    tokenizer: "Tokenizer"
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


def measure(tokenizers: list["Tokenizer"], spec: str, held_out: float = 0.0) -> dict[str, Any]:
    """The tokenizers take turns, batch by batch, so that a slow minute of the machine meets all of them."""
    from yxanul.data.tokenizers import batches

    measured = [Measured(tokenizer) for tokenizer in tokenizers]
    documents = size = characters = 0
    for texts in batches(document.text for document in _documents(spec, held_out, keep_held_out=True)):
        documents += len(texts)
        size += sum(len(text.encode()) for text in texts)
        characters += sum(map(len, texts))
        for one in measured:
            one.add(texts)
    if not documents:
        raise BadInput(f"{spec}: none of its documents are held out at {held_out}; give a larger share or more text.")
    rows = [one.row(size, characters) for one in measured]
    return {"source": spec, "documents": documents, "bytes": size, "characters": characters, "tokenizers": rows}


def _documents(spec: str, held_out: float, keep_held_out: bool) -> Iterator["Document"]:
    from yxanul.data.documents import is_held_out
    from yxanul.data.sources import open_source

    source = open_source(spec)
    if source.is_tokens:
        raise BadInput(f"{spec} holds token ids: a tokenizer needs text.")
    for part in source.parts():
        for document in part.documents(Counter()):
            if not held_out or is_held_out(document.group, held_out) == keep_held_out:
                yield document


def _print_source(facts: dict[str, Any]) -> None:
    _say(f"{facts['source']}: {facts['documents']:,} documents, {facts['bytes']:,} bytes")
    width = max(len(row["tokenizer"]) for row in facts["tokenizers"])
    for row in facts["tokenizers"]:
        text = (
            f"  {row['tokenizer']:{width}}  {row['bytes_per_token']:6.3f} bytes and "
            f"{row['characters_per_token']:6.3f} characters per token, {row['cpu_seconds']:.2f} CPU s, "
            f"{row['used_share']:.1%} of {row['vocabulary_size']:,} used"
        )
        changed = row["changed_documents"]
        _say(f"{text}, {changed:,} documents not given back exactly" if changed else text)


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the command line speaks here
