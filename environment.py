"""`yxanul env`: what this machine can do for a run, and what each thing that is missing costs.

    yxanul env                      # a table; takes two seconds, one of them to measure the threads
    yxanul env --need gpu,te        # exit code 2 unless all of these are here: for scripts
    yxanul env --json

Not here: how fast a recipe would train (`yxanul plan`), what a run was started with (its environment.json).
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.progress import answer_json, answer_table
from yxanul.shell import command

# What runs without a package do without. An extra of setup.cfg installs it: pip install "yxanul[extra]".
OPTIONAL = {
    "datasets": ("data", "data sets of the Hub cannot be read"),
    "pyarrow": ("data", "parquet and jsonl.zst files cannot be read"),
    "datatrove": ("scale", "no preparation on a cluster"),
    "peft": ("lora", "no adapters"),
    "bitsandbytes": ("qlora", "no adapters on a quantised base, no `yxanul export --to int4`"),
    "gguf": ("export", "no `yxanul export --to gguf`"),
    "onnx": ("export", "no `yxanul export --to onnx, mobile or web`"),
    "onnxruntime": ("export", "no `yxanul export --to onnx, mobile or web`"),
    "torchao": ("int8", "no `yxanul export --to int8`"),
    "trl": ("trl", "no trainers of TRL; `yxanul sft` needs nothing"),
    "evaluate": ("evaluate", "the metrics are plain classes, not modules of `evaluate`"),
    "lm_eval": ("evaluate", "no --harness: the built-in tasks alone"),
    "deepspeed": ("deepspeed", "no parallel=zero1 to zero3; fsdp2 needs nothing"),
    "transformer_engine": ("te", "no precision=te; precision=fp8 needs nothing"),
    "tensorboard": ("trackers", "no report_to=tensorboard; metrics.jsonl is always written"),
    "trackio": ("trackers", "no report_to=trackio; metrics.jsonl is always written"),
    "wandb": ("trackers", "no report_to=wandb; metrics.jsonl is always written"),
}
PROGRAMS = {
    "docker": "no --sandbox container, unless podman is here",
    "podman": "no --sandbox container, unless docker is here",
    "node": "exported pages cannot be tried outside of a browser",
    "npm": "`yxanul export --to web` finds its run-time files only in its cache",
}
REQUIRED = ("torch", "transformers", "accelerate", "huggingface_hub", "tokenizers", "safetensors", "numpy")
GIB = 2**30
HUB_SECONDS = 3
PRODUCTS = 20  # a sixth of a second of one core


@dataclass(frozen=True)
class Finding:
    group: str
    name: str
    is_here: bool
    text: str


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    needed = [] if options.need is None else [name.strip() for name in options.need.split(",")]
    if "" in needed:
        raise BadInput(f"--need {options.need!r} holds an empty name: write names, such as gpu,te.")
    findings = look()
    known = {finding.name: finding for finding in findings}
    for name in needed:
        if name not in known:
            raise unknown_name("thing to need", name, known)
    if options.json:
        answer_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    missing = [known[name] for name in needed if not known[name].is_here]
    if missing:
        raise BadInput("; ".join(f"needed, and not here: {finding.name} ({finding.text})" for finding in missing))
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("env", __doc__)
    parser.add_argument("--need", metavar="NAME,NAME", help="exit code 2 unless these are here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def look() -> list[Finding]:
    return [*_machine(), *_packages(), *_gpu(), *_ways_to_train(), _sandbox(), *_optional(), _hub()]


def _machine() -> list[Finding]:
    import psutil

    cores, memory = len(psutil.Process().cpu_affinity()), psutil.virtual_memory()
    caches = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return [
        Finding("machine", "system", True, f"{platform.platform()}, {platform.machine()}"),
        Finding("machine", "memory", True, f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"),
        *(
            Finding("machine", name, True, f"{shutil.disk_usage(_existing(place)).free / GIB:.1f} GiB free at {place}")
            for name, place in (("disk", Path.cwd()), ("cache", caches))
        ),
        Finding("machine", "threads", True, threads(cores)),
    ]


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if folder.exists())


def threads(cores: int) -> str:
    """Measured: threads that wait in a loop take the time of those that work, on cores that others use too."""
    import torch

    asked, count = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    said = f"{cores} cores, torch takes {count} threads (OMP_NUM_THREADS {asked or 'not set'})"
    if count == 1:
        return said
    alone, together = _seconds_of_products(1), _seconds_of_products(count)
    torch.set_num_threads(count)
    said += f"; they are {alone[0] / together[0]:.2f}x as fast as one, for {together[1] / alone[1]:.2f}x its CPU time"
    if together[0] > alone[0] / 1.2:
        said += ". TAKE OMP_NUM_THREADS=1: the cores are busy, or the threads spin (OMP_WAIT_POLICY=passive)"
    return said


def _seconds_of_products(count: int) -> tuple[float, float]:
    """Wall and CPU seconds of what a training step of a small model does most."""
    import torch

    torch.set_num_threads(count)
    left, right = torch.randn(256, 768), torch.randn(768, 2048)
    left @ right
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(PRODUCTS):
        left @ right
    return time.perf_counter() - wall, time.process_time() - cpu


def _packages() -> list[Finding]:
    versions = [("python", platform.python_version())]
    versions += [(name, importlib.metadata.version(name)) for name in REQUIRED]
    return [Finding("packages", name, True, version) for name, version in versions]


def _gpu() -> list[Finding]:
    import torch

    from yxanul.training.device import peak_flops

    if not torch.cuda.is_available():
        built = (
            "this torch is built for CPUs" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        )
        return [Finding("GPU", "gpu", False, f"none that torch {torch.__version__} can use; {built}")]
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        peak = peak_flops(properties.name)
        found.append(
            f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, compute capability {properties.major}."
            f"{properties.minor}, " + (f"{peak / 1e12:,.0f} TFLOP/s in bf16" if peak else "its peak is not known here")
        )
    return [Finding("GPU", "gpu", True, "; ".join(found))]


def _ways_to_train() -> list[Finding]:
    import torch

    from yxanul.training.compilation import why_not_compile
    from yxanul.training.device import NEEDED_BY_FP8

    on_gpu = torch.cuda.is_available()
    capability = torch.cuda.get_device_capability() if on_gpu else (0, 0)
    bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    fp8 = capability >= NEEDED_BY_FP8
    needed = ".".join(map(str, NEEDED_BY_FP8))
    flash = _flash(capability) if on_gpu else []
    no_compile = why_not_compile(on_gpu)
    return [
        Finding("ways to train", "bf16", bf16, "precision=auto takes it" if bf16 else "precision=auto takes fp32"),
        Finding(
            "ways to train",
            "fp8",
            fp8,
            "precision=fp8 or te" if fp8 else f"needs a GPU of compute capability {needed}; on a CPU for tests alone",
        ),
        Finding(
            "ways to train",
            "flash",
            bool(flash),
            ", ".join(flash) or "no flash-attn; torch's own kernels serve" + ("" if on_gpu else ", on a CPU always"),
        ),
        Finding("ways to train", "compile", not no_compile, no_compile or "compile=layers or model"),
    ]


def _flash(capability: tuple[int, int]) -> list[str]:
    from yxanul.training.attention import FLASH  # with all of transformers: seconds

    return [name for name, (is_installed, least) in FLASH.items() if is_installed() and capability >= least]


def _sandbox() -> Finding:
    from yxanul.evaluation import sandbox

    try:
        return Finding("evaluation", "sandbox", True, sandbox.level())
    except sandbox.SandboxUnavailable as error:
        return Finding("evaluation", "sandbox", False, f"generated code is not run: {error}")


def _optional() -> list[Finding]:
    found = []
    for name, (extra, cost) in OPTIONAL.items():
        is_here = importlib.util.find_spec(name) is not None
        text = importlib.metadata.version(name) if is_here else f'{cost} (pip install "yxanul[{extra}]")'
        found.append(Finding("optional packages", name, is_here, text))
    for name, cost in PROGRAMS.items():
        place = shutil.which(name)
        found.append(Finding("optional programs", name, place is not None, place or cost))
    return found


def _hub() -> Finding:
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token: public repositories alone, and no push"
    if constants.HF_HUB_OFFLINE:
        return Finding("Hub", "hub", False, f"HF_HUB_OFFLINE is set; {token}")
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=HUB_SECONDS).close()
    except OSError as error:
        reason = f"{constants.ENDPOINT} cannot be reached ({error})"
        return Finding("Hub", "hub", False, f"{reason}: built-in and local data serve; {token}")
    return Finding("Hub", "hub", True, f"{constants.ENDPOINT}; {token}")


def _print(findings: list[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table, group = Table(box=None, show_header=False, pad_edge=False), ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            table.add_row(f"[bold]{group}[/bold]")
        mark = "[green]+[/green]" if finding.is_here else "[yellow]-[/yellow]"
        table.add_row(f"  {mark} {finding.name}", escape(finding.text))
    answer_table(table)
