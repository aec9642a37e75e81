"""Tokens per CPU second of `data prepare`, of a bare encoding loop, and of datasets.map, on the same documents.

Run: python benchmarks/tokenization.py [--megabytes 12] [--repeats 3] [--vocabulary 32768]
One process, one thread; the ways take turns, on whole source files and on their paragraphs.
The bare loop holds all texts in memory, encodes them and keeps nothing. `data prepare` does all of its work: it reads
jsonl, encodes, hashes, writes parts, drops duplicates, writes bins with their sha256. datasets.map starts from an open
data set and writes its Arrow cache: with the same call of `tokenizers`, and as its documentation has it, where the
tokenizer of transformers adds an attention mask.
Encoding takes nearly all of the time, and company on the machine changes it by half from turn to turn. Two figures are
free of that: the share of its own time that a way spends inside the encoding calls, and the speeds of the two calls,
which take turns every few documents. The last columns compare the products of both.
Not here: several processes (no ids pass between ours, so CPU seconds add up), text other than Python's own library.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from measuring import print_header, print_table, summary, use_one_thread  # noqa: E402  after the environment is set

BARE, OURS = "bare encode_batch_fast loop", "data prepare"
THROUGH_TRANSFORMERS = "datasets.map, transformers"
HEADINGS = [
    "way, medians (ranges)",
    "thousand tokens per CPU s",
    "share of its time in encoding",
    "speed of its call",
    "of the bare loop",
    "data prepare against it",
]
DOCUMENTS_BY_TURNS = 20
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


class Stopwatch:
    """CPU seconds inside the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def timed(argument: Any) -> Any:
            began = time.process_time()
            result = function(argument)
            self.seconds += time.process_time() - began
            return result

        return timed


def ways(texts: list[str], folder: Path, tokenizer_folder: Path, watch: Stopwatch) -> dict[str, Callable[[], int]]:
    """Each encodes all texts once and returns how many tokens that were."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    from yxanul.data import prepare as prepare_module
    from yxanul.data.tokenizers import Tokenizer, load_tokenizer

    def fresh() -> Tokenizer:
        tokenizer = load_tokenizer(tokenizer_folder)
        tokenizer.encode_batch = watch.wrap(tokenizer.encode_batch)  # type: ignore[method-assign]
        return tokenizer

    prepare_module.load_tokenizer = lambda name: fresh()  # type: ignore[assignment,misc]
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(folder / "data_set")
    data_set = datasets.load_from_disk(folder / "data_set")

    def bare() -> int:
        tokens, encode = 0, fresh().encode_batch
        for start in range(0, len(texts), DOCUMENTS_AT_ONCE):
            tokens += sum(map(len, encode(texts[start : start + DOCUMENTS_AT_ONCE])))
        return tokens

    def ours() -> int:
        shutil.rmtree(folder / "bins", ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()):
            manifest = prepare_module.prepare([str(source)], str(tokenizer_folder), folder / "bins")["train"]
        assert manifest["documents"] == len(texts)
        return manifest["tokens"] - manifest["documents"]

    def mapped(encode: Callable[[Any], Any]) -> int:
        cache = folder / "cache.arrow"
        cache.unlink(missing_ok=True)
        made = data_set.map(
            encode, batched=True, remove_columns="text", cache_file_name=str(cache), load_from_cache_file=False
        )
        return sum(len(chunk.flatten()) for chunk in made.data.column("input_ids").chunks)

    def mapped_plain() -> int:
        encode = fresh().encode_batch
        return mapped(lambda rows: {"input_ids": encode(rows["text"])})

    def mapped_transformers() -> int:
        wrapped = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
        wrapped.model_input_names = ["input_ids", "attention_mask"]
        encode = watch.wrap(wrapped)
        return mapped(lambda rows: encode(rows["text"]))

    return {
        BARE: bare,
        OURS: ours,
        "datasets.map, encode_batch_fast": mapped_plain,
        THROUGH_TRANSFORMERS: mapped_transformers,
    }


def transformers_call_speed(texts: list[str], tokenizer_folder: Path) -> float:
    """Of the call of transformers against encode_batch_fast, both on the same few documents by turns."""
    from transformers import PreTrainedTokenizerFast

    from yxanul.data.tokenizers import load_tokenizer

    plain, wrapped = load_tokenizer(tokenizer_folder), PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    wrapped.model_input_names = ["input_ids", "attention_mask"]
    calls: list[Callable[[list[str]], Any]] = [plain.encode_batch, wrapped]
    seconds = [0.0, 0.0]
    for first in range(0, len(texts), DOCUMENTS_BY_TURNS):
        batch = texts[first : first + DOCUMENTS_BY_TURNS]
        for number in (0, 1) if first // DOCUMENTS_BY_TURNS % 2 else (1, 0):
            began = time.process_time()
            calls[number](batch)
            seconds[number] += time.process_time() - began
    return seconds[0] / seconds[1]


def compare(name: str, texts: list[str], folder: Path, tokenizer_folder: Path, repeats: int) -> list[list[str]]:
    watch = Stopwatch()
    works = ways(texts, folder, tokenizer_folder, watch)
    counts = {way: work() for way, work in works.items()}  # the first round also pays for imports
    tokens = counts[BARE]
    assert set(counts.values()) == {tokens}, counts
    speeds: dict[str, list[float]] = {way: [] for way in works}
    shares: dict[str, list[float]] = {way: [] for way in works}
    for _ in range(repeats):
        for way, work in works.items():
            watch.seconds, began = 0.0, time.process_time()
            work()
            seconds = time.process_time() - began
            speeds[way].append(tokens / seconds)
            shares[way].append(watch.seconds / seconds)
    call_speeds = dict.fromkeys(works, 1.0) | {THROUGH_TRANSFORMERS: transformers_call_speed(texts, tokenizer_folder)}
    products = {way: statistics.median(shares[way]) * call_speeds[way] for way in works}
    text_bytes = sum(len(text.encode()) for text in texts)
    print(f"{name}: {len(texts):,} documents, {text_bytes / 1e6:.1f} MB, {tokens:,} tokens")
    return [
        [
            way,
            summary(values, 1e-3),
            summary(shares[way], digits=3),
            f"{call_speeds[way]:.2f}",
            f"{products[way] / products[BARE]:.2f}",
            f"{products[OURS] / products[way]:.2f}",
        ]
        for way, values in speeds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--megabytes", type=float, default=12)
    parser.add_argument("--repeats", type=int, default=3)
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
