"""`yxanul data prepare|info|verify|show|publish`: text becomes token bins; look at them, check them, copy them.

    yxanul data prepare --source notes/ --source hf:owner/name --tokenizer gpt2 --out bins/notes --held-out 0.01
    yxanul data info bins/notes         yxanul data show bins/notes/train 3

Not here: the work (prepare.py), how sources are written (sources.py), training tokenizers (`yxanul tokenizer`).
"""

import argparse
import json
import os
from typing import Any

import numpy as np

from yxanul.bad_input import BadInput
from yxanul.data.bins import TokenBin, find_bins, open_bin, verify_bin
from yxanul.data.prepare import prepare
from yxanul.data.tokenizers import Tokenizer, load_tokenizer


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="yxanul data", description=__doc__.partition("\n")[0], allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, (function, about, add_arguments) in VERBS.items():
        verb = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        add_arguments(verb)
        verb.set_defaults(function=function)
    options = parser.parse_args(arguments)
    options.function(options)
    return 0


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", action="append", required=True, help="a path, hf:NAME, raw:FILE, builtin:NAME; again"
    )
    parser.add_argument("--tokenizer", required=True, help="a folder, a tokenizer.json, or a name on the Hub")
    parser.add_argument("--out", required=True, help="a new folder for the bins train and held_out")
    parser.add_argument("--held-out", type=float, default=0.0, help="share of the documents that training never sees")
    parser.add_argument("--pack", type=int, metavar="TOKENS", help="whole documents in rows of this length")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes (default: all cores)")
    parser.add_argument("--min-tokens", type=int, default=0, help="drop shorter documents")
    parser.add_argument(
        "--decontaminate", action="append", default=[], metavar="SOURCE", help="evaluation texts; again"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first document that cannot be decoded")


def usable_cores() -> int:
    """Those that this process may use, where the system tells (Linux), else all."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _prepare(options: argparse.Namespace) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # --workers are the parallelism
    manifests = prepare(
        options.source,
        options.tokenizer,
        options.out,
        held_out=options.held_out,
        pack=options.pack,
        workers=options.workers,
        min_tokens=options.min_tokens,
        decontaminate=options.decontaminate,
        strict=options.strict,
    )
    for name, manifest in manifests.items():
        _print(f"{options.out}/{name}: {_summary(manifest)}")
        if not manifest["documents"]:
            _print(f"{options.out}/{name} is empty: give more documents, or a larger --held-out.")
    dropped = [f"{count:,} {reason}" for reason, count in manifests["train"]["dropped"].items()]
    _print(f"dropped: {', '.join(dropped) or 'nothing'}")


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="a bin, or what `data prepare` wrote")
    parser.add_argument("--json", action="store_true", help="print the manifests")


def _info(options: argparse.Namespace) -> None:
    manifests = {str(folder): open_bin(folder).manifest for folder in find_bins(options.folder)}
    if options.json:
        _print(json.dumps(manifests, indent=2))
        return
    for folder, manifest in manifests.items():
        maker = manifest["tokenizer"]
        layout = manifest["layout"]
        disk = sum(entry["bytes"] for entry in manifest["files"].values())
        _print(f"{folder}: {_summary(manifest)}")
        _print(f"  layout     {layout if layout == 'stream' else _packed_summary(manifest)}")
        _print(f"  on disk    {disk:,} bytes in {len(manifest['files'])} files, ids as {manifest['dtype']}")
        _print(
            f"  tokenizer  {maker['name']}, {maker['vocabulary_size']:,} ids, end of text {maker['end_of_text_id']}, "
            f"fingerprint {maker['fingerprint']}"
        )
        for source in manifest.get("source", []):
            _print(f"  source     {source['spec']}: {source['documents']:,} documents, {source['tokens']:,} tokens")
        for reason, count in manifest.get("dropped", {}).items():
            _print(f"  dropped    {count:,} {reason} (of the whole corpus)")


def _summary(manifest: dict[str, Any]) -> str:
    tokens = manifest["tokens"]
    return (
        f"{tokens:,} tokens, {manifest['documents']:,} documents, {manifest['bytes']:,} bytes of text, "
        f"{manifest['bytes'] / max(tokens, 1):.2f} bytes per token"
    )


def _packed_summary(manifest: dict[str, Any]) -> str:
    places = manifest["rows"] * manifest["layout"]["packed"]
    padding = 1 - manifest["tokens"] / places
    return f"{manifest['rows']:,} rows of {manifest['layout']['packed']:,} tokens, {padding:.3%} padding"


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="a bin, or what `data prepare` wrote")


def _verify(options: argparse.Namespace) -> None:
    for folder in find_bins(options.folder):
        _print(f"{folder}: {verify_bin(folder):,} bytes, every sha256 as its manifest says")


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="one bin")
    parser.add_argument("number", type=int, help="of the document, or of the row of a packed bin, from 0")
    parser.add_argument("--tokenizer", help="where the tokenizer is now (default: where it was)")


def _show(options: argparse.Namespace) -> None:
    manifest = open_bin(options.folder).manifest
    try:
        tokenizer = load_tokenizer(options.tokenizer or manifest["tokenizer"]["name"])
    except BadInput as error:
        raise BadInput(f"{error} Say with --tokenizer where the bin's tokenizer is now.") from None
    token_bin = open_bin(options.folder, tokenizer.fingerprint)
    is_packed = token_bin.row_length is not None
    count = token_bin.rows if is_packed else token_bin.documents
    if not 0 <= options.number < count:
        what = "rows" if is_packed else "documents"
        raise BadInput(f"{options.folder} has {count:,} {what}, numbered from 0: there is no {options.number}.")
    show = show_row if is_packed else show_document
    _print(show(token_bin, options.number, tokenizer))


def _publish_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="one bin")
    parser.add_argument("url", help="where it goes: s3://..., gs://..., anything that fsspec knows")


def _publish(options: argparse.Namespace) -> None:
    from yxanul.data.remote import publish

    publish(options.folder, options.url)
    _print(f"{options.url}: {_summary(open_bin(options.folder).manifest)}")


def show_document(token_bin: TokenBin, number: int, tokenizer: Tokenizer) -> str:
    start = int(token_bin.document_ends[number - 1]) if number else 0
    stop = int(token_bin.document_ends[number])
    size = int(token_bin.document_bytes[number])
    place = (
        f"[document {number:,} of {token_bin.documents:,}: tokens {start:,} to {stop - 1:,}, {size:,} bytes of text]"
    )
    return f"{place}\n{tokenizer.decode(token_bin.read(start, stop).tolist())}"


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


def _print(line: str) -> None:
    print(line)  # noqa: T201 - the command line speaks here


VERBS = {
    "prepare": (_prepare, "from text to token bins; killed, the same command goes on", _prepare_arguments),
    "info": (_info, "what is in a bin", _info_arguments),
    "verify": (_verify, "compare every file of a bin with its sha256", _verify_arguments),
    "show": (_show, "decode a document, or a row of a packed bin", _show_arguments),
    "publish": (_publish, "copy a bin to a URL", _publish_arguments),
}
