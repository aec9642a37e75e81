"""Tokens per second from a bin to tensors: our stream against a per-sample Dataset with default_collate, one core.

    python benchmarks/loader.py [--tokens 100000000] [--repeats 5]

Both read the same uint16 bin from the page cache and give int64 inputs and targets of 65,536 tokens a batch. A memcpy
of the same int64 bytes stands beside them as the bound. It does not time worker processes or a copy to a GPU.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from yxanul.data.bin_writer import BinWriter  # noqa: E402
from yxanul.data.bins import open_bin  # noqa: E402
from yxanul.data.plan import Phase, Plan, Source, Stage  # noqa: E402
from yxanul.data.stream import Stream  # noqa: E402

BATCH_TOKENS = 65_536
LENGTHS = (2048, 256, 64, 8)


class PerSample(Dataset):
    """What a tutorial does: a row is a slice of the memmap, a batch is collated from rows."""

    def __init__(self, path: Path, length: int) -> None:
        self.ids, self.length = np.memmap(path, dtype=np.uint16, mode="r"), length

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(self.ids[index * self.length : (index + 1) * self.length + 1].astype(np.int64))
        return {"input_ids": row[:-1], "labels": row[1:]}


def our_batches(folder: Path, tokens: int, length: int):
    """A curriculum of all lengths, so that blocks are as long as in a real plan; the phase of `length` is read."""
    source = Source(str(folder), tokens)
    phases = [Phase(other, BATCH_TOKENS // other, 60) for other in sorted(LENGTHS, key=lambda other: other != length)]
    plan = Plan([Stage("one", (source,), tuple(phases))])
    stream = Stream(plan, {str(folder): open_bin(folder)}, seed=0)
    for step in range(60):
        batch = stream.batch(step, 0, BATCH_TOKENS // length)
        yield torch.from_numpy(batch.input_ids), torch.from_numpy(batch.targets)


def per_sample_batches(folder: Path, length: int):
    rows = PerSample(folder / "tokens-00000.bin", length)
    for batch in DataLoader(rows, batch_size=BATCH_TOKENS // length, shuffle=True):
        yield batch["input_ids"], batch["labels"]


def tokens_per_second(batches, budget_seconds: float) -> float:
    """Of CPU time, over as many batches as fit into the budget, after one that is not counted."""
    first_inputs, _ = next(batches)
    assert first_inputs.numel() == BATCH_TOKENS and first_inputs.dtype == torch.int64
    count, began = 0, time.process_time()
    for _ in batches:
        count += 1
        if time.process_time() - began > budget_seconds:
            break
    return count * BATCH_TOKENS / (time.process_time() - began)


def memcpy_tokens_per_second() -> float:
    """Writing two int64 arrays of a batch from two others."""
    source, target = np.ones((2, BATCH_TOKENS), np.int64), np.empty((2, BATCH_TOKENS), np.int64)
    began = time.process_time()
    for _ in range(300):
        np.copyto(target, source)
    return 300 * BATCH_TOKENS / (time.process_time() - began)


def write_bin(folder: Path, tokens: int) -> None:
    ids = np.random.default_rng(0).integers(1, 50_000, tokens, dtype=np.uint16)
    writer = BinWriter(folder, ids.dtype, shard_tokens=2**28)
    writer.add_tokens(ids)
    writer.add_documents(np.array([tokens]), np.array([tokens]))
    writer.finish(tokenizer={"name": "", "fingerprint": "", "vocabulary_size": 50_000, "end_of_text_id": 0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, numpy {np.__version__}, {options.tokens:,} tokens, 65,536 a batch, one thread")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "bin")
        write_bin(folder, options.tokens)
        for length in LENGTHS:
            rounds = [
                (
                    tokens_per_second(our_batches(folder, options.tokens, length), 0.5),
                    tokens_per_second(per_sample_batches(folder, length), 0.5),
                    memcpy_tokens_per_second(),
                )
                for _ in range(options.repeats)
            ]
            ours, theirs, copy = (statistics.median(figures) / 1e6 for figures in zip(*rounds, strict=True))
            print(
                f"length {length:5}: ours {ours:7.1f} M tokens per CPU s, per sample {theirs:7.2f} "
                f"({ours / theirs:6.0f}x), memcpy {copy:6.0f} (ours is {ours / copy:.0%} of it)"
            )


if __name__ == "__main__":
    main()
