"""`yxanul data prepare|info|verify|show|publish`: text becomes token bins; look at them, check them, copy them.

    yxanul data prepare --source notes/ --source hf:owner/name --tokenizer gpt2 --out bins/notes --held-out 0.01
    yxanul data info bins/notes
    yxanul data verify bins/notes --json
    yxanul data show bins/notes/train 3
    yxanul data publish bins/notes/train s3://bucket/notes

Not here: the work (prepare.py), how sources are written (sources.py), training tokenizers (`yxanul tokenizer`).
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from yxanul.bad_input import BadInput
from yxanul.data.bins import BEGINS, LEARNT, TokenBin, find_bins, open_bin, verify_bin
from yxanul.data.conversation_bins import LEARN
from yxanul.data.prepare import prepare
from yxanul.data.progress import answer, answer_json
from yxanul.data.remote import publish
from yxanul.data.tokenizers import Tokenizer, load_tokenizer
from yxanul.shell import command, subcommand


def main(arguments: list[str]) -> int:
    options = vars(parser().parse_args(arguments))
    options.pop("function")(**options)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("data", __doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(verb: str, function: Callable[..., None], about: str) -> Callable[..., Any]:
        own = subcommand(verbs, "data", verb, about, __doc__)
        own.set_defaults(function=function)
        return own.add_argument

    argument = add("prepare", _prepare, "from text to token bins; killed, the same command goes on")
    source: dict[str, Any] = {"action": "append", "metavar": "SOURCE"}
    argument(
        "--source", dest="sources", required=True, help="a path, hf:NAME, raw:FILE, builtin:NAME; again", **source
    )
    argument("--tokenizer", required=True, help="a folder, a tokenizer.json, or a name on the Hub")
    argument("--out", required=True, help="a new folder for the bins train and held_out")
    argument("--held-out", type=float, default=0.0, help="share of the documents that training never sees")
    argument("--pack", type=int, metavar="TOKENS", help="whole documents in rows of this length")
    argument("--conversations", choices=LEARN, help="the sources hold some; learnt of them are the answers, or all")
    argument("--workers", type=int, default=usable_cores(), help="processes (default: all cores)")
    argument("--min-tokens", type=int, default=0, help="drop shorter documents")
    argument("--decontaminate", default=[], help="evaluation texts; again", **source)
    json_flag: dict[str, Any] = {"dest": "as_json", "action": "store_true"}
    argument("--json", help="print the manifests", **json_flag)
    argument("--strict", action="store_true", help="stop at the first document that cannot be decoded")

    argument = add("info", _info, "what is in a bin")
    argument("folder", help="a bin, or what `data prepare` wrote")
    argument("--json", help="print the manifests", **json_flag)

    argument = add("verify", _verify, "compare every file of a bin with its sha256")
    argument("folder", help="a bin, or what `data prepare` wrote")
    argument("--json", help="print JSON", **json_flag)

    argument = add("show", _show, "decode a document, or a row of a packed bin")
    argument("folder", help="one bin")
    argument("number", type=int, help="of the document, or of the row of a packed bin, from 0")
    argument("--tokenizer", help="where the tokenizer is now (default: where it was)")
    argument("--json", help="print JSON", **json_flag)

    argument = add("publish", _publish, "copy a bin to a URL")
    argument("folder", help="one bin")
    argument("url", help="where it goes: s3://..., gs://..., anything that fsspec knows")
    return parser


def usable_cores() -> int:
    """Those that this process may use, where the system tells (Linux), else all."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _prepare(out: str, as_json: bool, **settings: Any) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # --workers are the parallelism
    manifests = prepare(out=out, **settings)
    if as_json:
        answer_json(manifests)
        return
    for name, manifest in manifests.items():
        answer(f"{out}/{name}: {_summary(manifest)}")
        if not manifest["documents"]:
            answer(f"{out}/{name} is empty: give more documents, or a larger --held-out.")
    dropped = [f"{count:,} {reason}" for reason, count in manifests["train"]["dropped"].items()]
    answer(f"dropped: {', '.join(dropped) or 'nothing'}")


def _info(folder: str, as_json: bool) -> None:
    manifests = {str(found): open_bin(found).manifest for found in find_bins(folder)}
    if as_json:
        answer_json(manifests)
        return
    for name, manifest in manifests.items():
        maker = manifest["tokenizer"]
        layout = manifest["layout"]
        if layout != "stream":
            rows, length = manifest["rows"], layout["packed"] + ("learnt" in manifest)
            layout = f"{rows:,} rows of {length:,} tokens, {1 - manifest['tokens'] / (rows * length):.3%} padding"
        if "learnt" in manifest:
            layout += f"; {manifest['learnt']:,} tokens are learnt"
        disk = sum(entry["bytes"] for entry in manifest["files"].values())
        answer(f"{name}: {_summary(manifest)}")
        answer(f"  layout     {layout}")
        answer(f"  on disk    {disk:,} bytes in {len(manifest['files'])} files, ids as {manifest['dtype']}")
        answer(
            f"  tokenizer  {maker['name']}, {maker['vocabulary_size']:,} ids, end of text {maker['end_of_text_id']}, "
            f"fingerprint {maker['fingerprint']}"
        )
        for source in manifest.get("source", []):
            answer(f"  source     {source['spec']}: {source['documents']:,} documents, {source['tokens']:,} tokens")
        for reason, count in manifest.get("dropped", {}).items():
            answer(f"  dropped    {count:,} {reason} (of the whole corpus)")


def _summary(manifest: dict[str, Any]) -> str:
    tokens = manifest["tokens"]
    return (
        f"{tokens:,} tokens, {manifest['documents']:,} documents, {manifest['bytes']:,} bytes of text, "
        f"{manifest['bytes'] / max(tokens, 1):.2f} bytes per token"
    )


def _verify(folder: str, as_json: bool) -> None:
    verified = {}
    for found in find_bins(folder):
        verified[str(found)] = size = verify_bin(found)
        if not as_json:
            answer(f"{found}: {size:,} bytes, every sha256 as its manifest says")
    if as_json:
        answer_json({name: {"bytes": size} for name, size in verified.items()})


def _show(folder: str, number: int, tokenizer: str | None, as_json: bool) -> None:
    maker = open_bin(folder).manifest["tokenizer"]["name"]
    try:
        loaded = load_tokenizer(tokenizer or maker)
    except BadInput as error:
        raise BadInput(f"{error} Say with --tokenizer where the bin's tokenizer is now.") from None
    token_bin = open_bin(folder, loaded.fingerprint)
    show, count, what = show_document, token_bin.documents, "documents"
    if token_bin.row_length is not None:
        show, count, what = show_row, token_bin.rows, "rows"
        show = show_conversations if token_bin.is_conversations else show
    if not 0 <= number < count:
        raise BadInput(f"{folder} has {count:,} {what}, numbered from 0: there is no {number}.")
    text = show(token_bin, number, loaded)
    answer_json({"bin": folder, "number": number, what: count, "text": text}) if as_json else answer(text)


def _publish(folder: str, url: str) -> None:
    publish(folder, url)
    answer(f"{url}: {_summary(open_bin(folder).manifest)}")


def show_document(token_bin: TokenBin, number: int, tokenizer: Tokenizer) -> str:
    start = int(token_bin.document_ends[number - 1]) if number else 0
    stop = int(token_bin.document_ends[number])
    where, size = f"tokens {start:,} to {stop - 1:,}", int(token_bin.document_bytes[number])
    text = tokenizer.decode(token_bin.read(start, stop).tolist())
    return f"[document {number:,} of {token_bin.documents:,}: {where}, {size:,} bytes of text]\n{text}"


def show_row(token_bin: TokenBin, number: int, tokenizer: Tokenizer) -> str:
    """The row's pieces, each under a line of its own."""
    assert token_bin.row_length is not None
    width = token_bin.row_length + 1
    row = token_bin.read(number * width, (number + 1) * width)
    real = int(token_bin.row_lengths[number])
    lines = [f"[row {number:,} of {token_bin.rows:,}: {real:,} of {token_bin.row_length:,} places used]"]
    lines += ["[before the row]", tokenizer.decode(row[:1].tolist())]
    ends = np.flatnonzero(row[1 : real + 1] == token_bin.end_of_text_id) + 2
    starts = [1, *ends.tolist()]
    for start, stop in zip(starts, [*ends.tolist(), real + 1], strict=True):
        if start == stop:
            continue
        begun = "continued: " if row[start - 1] != token_bin.end_of_text_id else ""
        cut = "" if row[stop - 1] == token_bin.end_of_text_id else ", goes on in another row"
        lines += [f"[{begun}places {start - 1:,} to {stop - 2:,}{cut}]", tokenizer.decode(row[start:stop].tolist())]
    return "\n".join(lines + [f"[padding: {token_bin.row_length - real:,}]"])


def show_conversations(token_bin: TokenBin, number: int, tokenizer: Tokenizer) -> str:
    """The row's conversations; what is learnt of them stands between [[ and ]]."""
    assert token_bin.row_length is not None
    width = token_bin.row_length + 1
    row = token_bin.read(number * width, (number + 1) * width)
    marks = token_bin.marks[number * width : (number + 1) * width]
    end = int(np.searchsorted(token_bin.document_ends, (number + 1) * width, "right"))
    last = int(token_bin.document_ends[end - 1]) - number * width
    edges = np.flatnonzero(np.diff(marks[:last] & LEARNT, prepend=0) | (marks[:last] & BEGINS)).tolist()
    text = f"[row {number:,} of {token_bin.rows:,}: {last:,} of {width:,} places used]"
    for start, stop in zip(edges, [*edges[1:], last], strict=True):
        piece = tokenizer.decode(row[start:stop].tolist())
        text += "\n[conversation]\n" if marks[start] & BEGINS else ""
        text += f"[[{piece}]]" if marks[start] & LEARNT else piece
    return text
