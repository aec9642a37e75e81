"""What the device of a run is and does: its peak, its memory, its power, and clocks that nobody waits for.

    device = Device(torch.device("cuda"))
    device.peak_flops        dense bf16, None where it is not known;  device.memory(), device.power() for a log
    mark = device.mark()     a moment on the device's time line; seconds(mark, later) once it has passed both

Not here: what a run computes in that time (health.py).
"""

import re
import resource
import time
from contextlib import suppress
from typing import Any

import psutil
import torch

NEEDED_BY_FP8 = (8, 9)  # compute capability: Ada, Hopper and what came after
# Teraflops in bf16 on dense matrices, fp32 accumulation: data sheets of NVIDIA (where they print the figure for 2:4
# sparsity, its half) and AMD, for the consumer cards the tables in NVIDIA's architecture papers.
# Slices of a GPU (MIG) and laptop cards, whose clocks differ, are not known.
PEAK_TERAFLOPS = {
    r"NVIDIA B200": 2250,
    r"NVIDIA H(100 80GB HBM3|200)": 989,
    r"NVIDIA H(100|200) NVL": 835,
    r"NVIDIA H100 PCIe": 756,
    r"NVIDIA A100[ -](SXM4|PCIE|PCIe|80GB)([ -](40GB|80GB|PCIe))?": 312,
    r"NVIDIA A30": 165,
    r"NVIDIA A40": 150,
    r"NVIDIA A10": 125,
    r"NVIDIA L40S": 362,
    r"NVIDIA L40": 181,
    r"NVIDIA L4": 121,
    r"NVIDIA RTX A6000": 155,
    r"NVIDIA RTX 6000 Ada Generation": 364,
    r"NVIDIA GeForce RTX 3090": 71,
    r"NVIDIA GeForce RTX 4090": 165,
    r"NVIDIA GeForce RTX 5090": 210,
    r"AMD Instinct MI300X": 1307,
}


def peak_flops(name: str) -> float | None:
    return next((peak * 1e12 for pattern, peak in PEAK_TERAFLOPS.items() if re.fullmatch(pattern, name)), None)


class Device:
    def __init__(self, device: torch.device) -> None:
        self.device, self.is_cuda = device, device.type == "cuda"
        self.peak_flops = peak_flops(torch.cuda.get_device_name(device)) if self.is_cuda else None
        self._has_power = self.is_cuda
        self._process = psutil.Process()

    def mark(self) -> Any:
        if not self.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def memory(self) -> dict[str, int]:
        """Bytes now and at their highest. Of the process without file pages, which memory maps fill and give back."""
        info = self._process.memory_info()._asdict()
        found = {"host": info["rss"] - info.get("shared", 0)}  # only Linux tells what is shared
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["host_peak"] = peak if psutil.MACOS else peak * 1024
        if self.is_cuda:
            found["device"] = torch.cuda.memory_allocated(self.device)
            found["device_peak"] = torch.cuda.max_memory_allocated(self.device)
        return found

    def power(self) -> float | None:
        """Watts; None where the driver, or the package that asks it, is not there. Asked in vain once."""
        if self._has_power:
            with suppress(Exception):  # each vendor's library has errors of its own
                return torch.cuda.power_draw(self.device) / 1000
            self._has_power = False
        return None


def seconds(mark: Any, later: Any) -> float:
    return later - mark if isinstance(mark, float) else mark.elapsed_time(later) / 1000
