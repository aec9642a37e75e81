"""Micro-batches by number: any rank and any step at once, so a resume has nothing to read over.

`MicroBatches(...)[n]` would be micro-batch n of this rank, counted from the run's first step. The loader's batch
sampler is a plain range, which accelerate skips through at 20 million a second.
"""

import signal
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments

from yxanul.data.stream import Stream, micro_batch_rows

TOKENS_PER_DOCUMENT = 256  # more of them in a batch than one of so many each: its bounds take twice the room


class MicroBatches(Dataset):
    def __init__(self, stream: Stream, rank: int, processes: int, accumulation: int, document_mask: bool) -> None:
        self.stream, self.document_mask = stream, document_mask
        self.rank, self.processes, self.accumulation = rank, processes, accumulation

    def __len__(self) -> int:
        return self.stream.plan.steps * self.accumulation

    def __getitems__(self, number: int) -> dict[str, Any]:
        step, micro = divmod(number, self.accumulation)
        rows = micro_batch_rows(self.stream.plan.at(step).rows, micro, self.rank, self.processes, self.accumulation)
        batch = self.stream.batch(step, rows.start, rows.stop)
        inputs: dict[str, Any] = {
            "input_ids": torch.from_numpy(batch.input_ids),
            "shift_labels": torch.from_numpy(batch.targets),
            "targets_in_step": self.stream.targets(step),
        }
        if self.document_mask:
            bounds = torch.from_numpy(document_bounds(batch.begins))
            length = batch.input_ids.shape[1]  # of no document more; the very longest would be another graph each time
            inputs |= {
                "cu_seq_lens_q": bounds,
                "cu_seq_lens_k": bounds,
                "max_length_q": length,
                "max_length_k": length,
            }
        return inputs


def document_bounds(begins: np.ndarray) -> np.ndarray:
    """Where documents begin, counted through all rows end to end, and at last where the rows end.

    A row begins one, whatever it is. The end is repeated until batches of one
    shape have, as a rule, bounds of one shape: compiled code is made anew for another.
    """
    rows, length = begins.shape
    begins[:, 0] = True
    places = np.flatnonzero(begins)
    room = rows * -(-length // TOKENS_PER_DOCUMENT)
    while room < len(places):
        room *= 2
    bounds = np.full(room + 1, rows * length, np.int32)
    bounds[: len(places)] = places
    return bounds


def loader(batches: MicroBatches, args: TrainingArguments) -> DataLoader:
    numbers: Any = range(len(batches))  # to the loader each is a batch of indices; only `__getitems__` looks into it
    return DataLoader(
        batches,
        batch_sampler=numbers,
        collate_fn=_as_it_is,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global one, which dropout uses
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        worker_init_fn=_leave_signals_to_the_run,
    )


def _leave_signals_to_the_run(worker: int) -> None:
    """A terminal's Ctrl-C, and what launchers send, reach the workers too, whose batches the last step still needs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
