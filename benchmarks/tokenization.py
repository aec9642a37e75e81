"""Tokens per CPU second of `data prepare`, of a bare encoding loop, and of datasets.map, on the same documents.

Run: python benchmarks/tokenization.py [--megabytes 6] [--repeats 12] [--vocabulary 32768]
One process, one thread; the ways take turns and are compared turn by turn, for whole source files and for paragraphs.
On a machine that others use too, each way's best turn says more than its median: company only slows.
The bare loop holds all texts in memory, encodes them and keeps nothing. `data prepare` does all of its work: it reads
jsonl, encodes, hashes, writes parts, drops duplicates, writes bins with their sha256. datasets.map starts from an open
data set and writes its Arrow cache: with the same call of `tokenizers`, and as its documentation has it, where the
tokenizer of transformers adds an attention mask.
Not here: several processes (no ids pass between ours, so CPU seconds add up), text other than Python's own library.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from measuring import (  # noqa: E402  after the environment is set
    print_header,
    print_table,
    ratios,
    seconds_in_turns,
    summary,
    use_one_thread,
)

BARE, OURS = "bare encode_batch_fast loop", "data prepare"
HEADINGS = [
    "way, medians (ranges)",
    "thousand tokens per CPU s",
    "of the bare loop",
    "data prepare against it",
    "best turns: of the bare loop",
    "best turns: data prepare against it",
]
DOCUMENTS_AT_ONCE = 1000  # in the bare loop, and datasets.map's default


def library_texts(split: str, characters: int) -> list[str]:
    """Sources of Python's standard library, each text once, until they have that many characters."""
    from yxanul.data.sources import open_source

    texts: dict[str, None] = {}
    total = 0
    pattern = os.path.join(sysconfig.get_paths()["stdlib"], "[a-z]*", "**", "*.py")
    for part in open_source(f"{pattern}{split}").parts():
        for document in part.documents(Counter()):
            if document.text not in texts and total < characters:
                texts[document.text] = None
                total += len(document.text)
    return list(texts)


def ways(texts: list[str], folder: Path, tokenizer_folder: Path) -> dict[str, Callable[[], int]]:
    """Each encodes all texts once and returns how many tokens that were."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    from yxanul.data.prepare import prepare
    from yxanul.data.tokenizers import load_tokenizer

    wrapped = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    wrapped.model_input_names = ["input_ids", "attention_mask"]
    datasets.disable_progress_bars()
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data_set = datasets.Dataset.from_dict({"text": texts})
    data_set.save_to_disk(folder / "data_set")
    data_set = datasets.load_from_disk(folder / "data_set")

    def bare() -> int:
        tokens, tokenizer = 0, load_tokenizer(tokenizer_folder)
        for start in range(0, len(texts), DOCUMENTS_AT_ONCE):
            batch = texts[start : start + DOCUMENTS_AT_ONCE]
            encodings = tokenizer.backend.encode_batch_fast(batch, add_special_tokens=False)
            tokens += sum(len(encoding.ids) for encoding in encodings)
        return tokens

    def ours() -> int:
        shutil.rmtree(folder / "bins", ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()):
            manifest = prepare([str(source)], str(tokenizer_folder), folder / "bins")["train"]
        assert manifest["documents"] == len(texts)
        return manifest["tokens"] - manifest["documents"]

    def mapped(encode: Callable[[Any], Any]) -> int:
        cache = folder / "cache.arrow"
        cache.unlink(missing_ok=True)
        made = data_set.map(
            encode,
            batched=True,
            remove_columns="text",
            cache_file_name=str(cache),
            load_from_cache_file=False,
        )
        return sum(len(chunk.flatten()) for chunk in made.data.column("input_ids").chunks)

    return {
        BARE: bare,
        OURS: ours,
        "datasets.map, encode_batch_fast": lambda: mapped(ids_of(load_tokenizer(tokenizer_folder))),
        "datasets.map, transformers": lambda: mapped(lambda rows: wrapped(rows["text"])),
    }


def ids_of(tokenizer: Any) -> Callable[[Any], Any]:
    return lambda rows: {"input_ids": tokenizer.encode_batch(rows["text"])}


def compare(name: str, texts: list[str], folder: Path, tokenizer_folder: Path, repeats: int) -> list[list[str]]:
    works = ways(texts, folder, tokenizer_folder)
    counts = {way: work() for way, work in works.items()}
    tokens = counts[BARE]
    assert set(counts.values()) == {tokens}, counts
    seconds = seconds_in_turns(works, repeats)
    speeds = {way: [tokens / value for value in values] for way, values in seconds.items()}
    text_bytes = sum(len(text.encode()) for text in texts)
    print(f"{name}: {len(texts):,} documents, {text_bytes / 1e6:.1f} MB, {tokens:,} tokens")
    return [
        [
            way,
            summary(values, 1e-3),
            summary(ratios(values, speeds[BARE]), digits=2),
            summary(ratios(speeds[OURS], values), digits=2),
            f"{max(values) / max(speeds[BARE]):.2f}",
            f"{max(speeds[OURS]) / max(values):.2f}",
        ]
        for way, values in speeds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--megabytes", type=float, default=6)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    arguments = parser.parse_args()

    use_one_thread()
    print_header()
    import datasets
    import tokenizers

    from yxanul.data.tokenizers import save_tokenizer
    from yxanul.data.train_tokenizer import train_bpe

    print(f"datasets {datasets.__version__}, tokenizers {tokenizers.__version__}\n")
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer_folder = Path(scratch, "tokenizer")
        save_tokenizer(train_bpe(library_texts("", 20_000_000), arguments.vocabulary), tokenizer_folder)
        for name, split in {"whole files": "", "paragraphs": ",split=blank-lines"}.items():
            texts = library_texts(split, int(arguments.megabytes * 1e6))
            folder = Path(scratch, name)
            folder.mkdir()
            rows = compare(name, texts, folder, tokenizer_folder, arguments.repeats)
            print_table(
                HEADINGS,
                rows,
            )


if __name__ == "__main__":
    main()
