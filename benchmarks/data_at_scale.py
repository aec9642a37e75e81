"""What a corpus of 10^12 tokens takes: speeds and sizes are measured here, in small, and multiplied.

Run: python benchmarks/data_at_scale.py [--megabytes 12] [--vocabulary 32768]      (a few CPU minutes, Linux)
Text is the built-in one (Python's own library), the tokenizer is trained on it. The large bin is made of sparse files:
opening it is real, reading it meets no disk. Not here: the network, the disk, many machines at once.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np  # noqa: E402
from measuring import MEGABYTE, in_own_process, peak_growth, print_header, print_table, use_one_thread  # noqa: E402

from yxanul.data import assembly  # noqa: E402
from yxanul.data.bins import BYTES, DOCUMENTS, FORMAT, MANIFEST, VERSION, open_bin, token_file  # noqa: E402
from yxanul.data.documents import Finding, Part  # noqa: E402
from yxanul.data.part_files import DIGEST, Job, Preparer, Task  # noqa: E402
from yxanul.data.prepare import SHARD_TOKENS  # noqa: E402
from yxanul.data.sources import open_source  # noqa: E402
from yxanul.data.tokenizers import load_tokenizer, save_tokenizer  # noqa: E402
from yxanul.data.train_tokenizer import train_bpe  # noqa: E402

TRILLION = 10**12
TOKENS_PER_DOCUMENT = 1000  # an assumption


def built_in_texts(megabytes: int) -> list[str]:
    texts, total = [], 0
    for spec in ("builtin:language", "builtin:code"):
        for part in open_source(spec).parts():
            for document in part.documents(Counter()):
                texts.append(document.text)
                total += len(document.text)
                if total >= megabytes * MEGABYTE:
                    return texts
    return texts


def part_speed(texts: list[str], tokenizer: str, folder: Path) -> tuple[float, int]:
    """Tokens per CPU second of writing one part, and its tokens."""
    job = Job(load_tokenizer(tokenizer), 0.0, 0, None)
    reader = SimpleNamespace(findings=lambda: (Finding(text, "") for text in texts))
    began = time.process_time()
    Preparer(job).write(Task("part", "", Part(reader), None), folder, lambda documents, tokens: None)
    seconds = time.process_time() - began
    tokens = (folder / "tokens.bin").stat().st_size // job.dtype.itemsize
    return tokens / seconds, tokens


def assembly_speed(part: Path, tokenizer: str, out: Path, times: int) -> float:
    """Tokens per CPU second of laying the same part one behind the other, with duplicates let through."""
    job = Job(load_tokenizer(tokenizer), 0.0, 0, None)
    progress = SimpleNamespace(end_part=lambda: None)
    found, assembly._repeated = assembly._repeated, lambda digests: digests[:0]
    out.mkdir()
    began = time.process_time()
    try:
        manifests = assembly.assemble([("", [part] * times)], out, job, None, SHARD_TOKENS, progress)
    finally:
        assembly._repeated = found
    return manifests["train"]["tokens"] / (time.process_time() - began)


def sorting_seconds(digests: int) -> float:
    values = np.frombuffer(np.random.default_rng(0).bytes(digests * DIGEST.itemsize), DIGEST).copy()
    began = time.process_time()
    values.sort()
    return time.process_time() - began


def make_large_bin(folder: Path, tokens: int, dtype: str) -> None:
    """Sparse: it takes room for file names only."""
    width, documents = np.dtype(dtype).itemsize, tokens // TOKENS_PER_DOCUMENT
    counts = [min(SHARD_TOKENS, tokens - first) for first in range(0, tokens, SHARD_TOKENS)]
    sizes = {token_file(number): count * width for number, count in enumerate(counts)}
    sizes |= {DOCUMENTS: 8 * documents, BYTES: 4 * documents}
    for name, size in sizes.items():
        with (folder / name).open("wb") as file:
            file.truncate(size)
    maker = {"name": "none", "fingerprint": "none", "vocabulary_size": 32768, "end_of_text_id": 0}
    counted = {"tokens": tokens, "documents": documents, "bytes": 0, "dtype": dtype, "layout": "stream"}
    files = {name: {"bytes": size, "sha256": "0" * 64} for name, size in sizes.items()}
    manifest = {"format": FORMAT, "version": VERSION, "tokenizer": maker, "files": files} | counted
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


def opening(folder: str) -> dict[str, float]:
    """Seconds and memory to open the bin, then to read a row from every one of its files."""
    opened = []
    began = time.perf_counter()
    open_bin(folder)
    seconds = time.perf_counter() - began
    open_memory = peak_growth(lambda: opened.append(open_bin(folder)))
    token_bin = opened[0]
    starts = range(0, token_bin.tokens - 2049, SHARD_TOKENS)
    began = time.perf_counter()
    read_memory = peak_growth(lambda: [token_bin.read(start, start + 2049) for start in starts])
    return {
        "open, s": seconds,
        "open, MB": open_memory,
        "a row of every file, s": time.perf_counter() - began,
        "a row of every file, MB": read_memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--megabytes", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32768)
    options = parser.parse_args()
    use_one_thread()
    print_header()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        texts = built_in_texts(options.megabytes)
        save_tokenizer(train_bpe(texts, options.vocabulary), root / "tokenizer")
        speeds = [part_speed(texts, str(root / "tokenizer"), root / f"part{turn}") for turn in range(3)]
        speed, tokens = sorted(speeds)[1]
        size = sum(len(text.encode()) for text in texts)
        rows.append(["text to part, tokens per core second", f"{speed:,.0f}", f"{size / tokens:.2f} bytes per token"])
        copied = assembly_speed(root / "part0", str(root / "tokenizer"), root / "bins", 40)
        rows.append(["parts to bin, tokens per core second", f"{copied:,.0f}", "uint16, one process"])
    for digests in (10**6, 10**7):
        rows.append([f"sorting {digests:,} digests, core seconds", f"{sorting_seconds(digests):.2f}", "16 bytes each"])
    for dtype in ("uint16", "uint32"):
        with tempfile.TemporaryDirectory() as scratch:
            make_large_bin(Path(scratch), TRILLION, dtype)
            size = (Path(scratch) / MANIFEST).stat().st_size
            rows.append([f"manifest of {TRILLION:,} tokens, {dtype}", f"{size:,}", "bytes"])
            for name, value in in_own_process(opening, scratch).items():
                rows.append([f"{TRILLION:,} tokens, {dtype}: {name}", f"{value:.2f}", ""])
    print_table(["measured", "value", "of"], rows)


if __name__ == "__main__":
    main()
