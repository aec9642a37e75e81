"""Peak memory of `data prepare` on a corpus of gigabytes, and of opening a bin of many.

Run: python benchmarks/prepare_memory.py [--gigabytes 2] [--workers 2] [--bin-gigabytes 20] [--document-megabytes 100]
The corpus is lines of Python's own documentation, drawn at random into documents of about 3 kB; every tenth document
is there twice. `data prepare` runs as the command that a user gives. Its memory is the sum over all its processes of
what is theirs (PSS: what several share counts once), looked at every 50 ms. The large bin is a sparse file.
Not here: the page cache, which takes what is free and gives it back.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from measuring import MEGABYTE, in_own_process, peak_growth, print_header, print_table, use_one_thread

READS = 1000
SECONDS_BETWEEN_LOOKS = 0.05


def write_corpus(file: Path, size: int) -> int:
    """Returns the number of documents."""
    lines = sorted({line for text in library_texts() for line in text.splitlines()})
    draws = random.Random(0)
    written = documents = 0
    with file.open("w", encoding="utf-8") as handle:
        while written < size:
            record = json.dumps({"text": "\n".join(draws.choices(lines, k=draws.randint(10, 140)))}) + "\n"
            copies = 1 + (documents % 10 == 0)
            handle.write(record * copies)
            written += len(record) * copies
            documents += copies
    return documents


def library_texts() -> list[str]:
    from yxanul.data.sources import open_source

    return [
        document.text for part in open_source("builtin:language").parts() for document in part.documents(Counter())
    ]


def write_tokenizer(folder: Path) -> None:
    from yxanul.data.tokenizers import save_tokenizer
    from yxanul.data.train_tokenizer import train_bpe

    save_tokenizer(train_bpe(library_texts(), 16_384), folder)


def prepare_and_watch(source: Path, tokenizer: Path, out: Path, workers: int, pack: int | None) -> list[str]:
    """A row of the table: peak memory, seconds, what was made."""
    command = [
        sys.executable,
        "-m",
        "yxanul",
        "data",
        "prepare",
        "--source",
        str(source),
        "--tokenizer",
        str(tokenizer),
    ]
    command += ["--out", str(out), "--workers", str(workers)]
    command += ["--pack", str(pack)] if pack else []
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak, most_processes = 0, 0
    reader = threading.Thread(target=process.wait)
    reader.start()
    while reader.is_alive():
        sizes = [_own_bytes(number) for number in _tree(process.pid)]
        peak, most_processes = max(peak, sum(sizes)), max(most_processes, len(sizes))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    assert process.stdout is not None
    output = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"data prepare ended with {process.returncode}: {output}")
    train = json.loads((out / "train" / "manifest.json").read_text())
    dropped = train["dropped"].get("duplicate", 0)
    made = f"{train['documents']:,} documents, {train['tokens']:,} tokens, {dropped:,} duplicates dropped"
    return [f"{peak / MEGABYTE:,.0f}", f"{most_processes}", f"{time.monotonic() - began:,.0f}", made]


def _tree(root: int) -> list[int]:
    """The process and all that come from it; some may be gone before they are looked at."""
    found = [root]
    for number in found:
        try:
            found += map(int, Path(f"/proc/{number}/task/{number}/children").read_text().split())
        except OSError:
            continue
    return found


def _own_bytes(number: int) -> int:
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def write_sparse_bin(folder: Path, size: int) -> None:
    """A bin of zeros that takes no room: a manifest, and files that are only as long as it says."""
    from yxanul.data.bins import BYTES, DOCUMENTS, FORMAT, MANIFEST, VERSION, token_file
    from yxanul.data.prepare import SHARD_TOKENS

    folder.mkdir()
    tokens, documents = size // 2, size // 1000
    shards = [min(SHARD_TOKENS, tokens - first) for first in range(0, tokens, SHARD_TOKENS)]
    sizes = {token_file(number): 2 * count for number, count in enumerate(shards)}
    sizes |= {DOCUMENTS: 8 * documents, BYTES: 4 * documents}
    for name, length in sizes.items():
        with (folder / name).open("wb") as file:
            file.truncate(length)
    maker = {"name": "t", "fingerprint": "f", "vocabulary_size": 50_257, "end_of_text_id": 0}
    manifest = {"format": FORMAT, "version": VERSION, "dtype": "uint16", "layout": "stream", "tokens": tokens}
    manifest |= {"documents": documents, "bytes": 0, "tokenizer": maker, "source": [], "dropped": {}}
    manifest["files"] = {name: {"bytes": length, "sha256": ""} for name, length in sizes.items()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def open_and_read(folder: Path) -> tuple[float, float, float]:
    """Milliseconds to open, megabytes that opening takes, megabytes after reading from everywhere."""
    from yxanul.data.bins import open_bin

    began = time.perf_counter()
    opened = open_bin(folder)
    milliseconds = (time.perf_counter() - began) * 1e3
    opening = peak_growth(lambda: open_bin(folder))
    draws = random.Random(0)

    def read() -> None:
        for _ in range(READS):
            start = draws.randrange(opened.tokens - 2049)
            opened.read(start, start + 2049).sum()
        opened.document_ends[:: opened.documents // READS].sum()

    return milliseconds, opening, peak_growth(read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bin-gigabytes", type=float, default=20)
    parser.add_argument("--document-megabytes", type=float, default=100)
    parser.add_argument("--pack", type=int, help="row length (default: a stream)")
    arguments = parser.parse_args()

    use_one_thread()
    print_header()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_tokenizer(root / "tokenizer")
        rows = []
        documents = write_corpus(root / "corpus.jsonl", int(arguments.gigabytes * 1e9))
        size = os.path.getsize(root / "corpus.jsonl")
        row = prepare_and_watch(
            root / "corpus.jsonl", root / "tokenizer", root / "corpus", arguments.workers, arguments.pack
        )
        rows.append([f"{size / 1e9:.2f} GB in {documents:,} documents, {arguments.workers} workers", *row])
        (root / "corpus.jsonl").unlink()

        text = "\n".join(random.Random(0).choices(library_texts(), k=20_000))[
            : int(arguments.document_megabytes * 1e6)
        ]
        (root / "long").mkdir()
        (root / "long" / "1.txt").write_text(text)
        row = prepare_and_watch(root / "long", root / "tokenizer", root / "long-bins", 1, None)
        rows.append([f"one document of {len(text) / 1e6:,.0f} MB, 1 worker", *row])
        print_table(["data prepare", "peak MB, all processes", "processes", "seconds", "made"], rows)

        write_sparse_bin(root / "large", int(arguments.bin_gigabytes * 1e9))
        milliseconds, opening, reading = in_own_process(open_and_read, root / "large")
        print_table(
            ["a bin", "ms to open", "MB to open", f"MB with {READS:,} rows of 2,048 read from everywhere"],
            [[f"{arguments.bin_gigabytes:g} GB", f"{milliseconds:.1f}", f"{opening:.1f}", f"{reading:.1f}"]],
        )


if __name__ == "__main__":
    main()
