"""`yxanul demo`: from nothing to a model that answers, in every form that people load, offline, on a laptop.

    yxanul demo                 # about eleven minutes of one core; everything lies in yxanul-demo/
    yxanul demo --quick         # the same way in about three, with a model that learns little

Every step is a command that you could type, and is printed as one: run it alone in that folder to see more of it.
Interrupted at any moment, the same command goes on. A GPU is used if there is one. Not here: what the steps do.
"""

import argparse
import importlib.util
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import insist, say
from yxanul.data.whole_files import check_folder
from yxanul.run_folder import BAD_INPUT, DONE, GATE_FAILED, STOPPED
from yxanul.shell import command

TEXT = shlex.split(
    "--source builtin:language --source builtin:code --source builtin:reasoning --source builtin:math,level=easy "
    "--held-out 0.05"
)
TURNS = (
    "Finn has 5 pencils. Quinn has 4 more pencils than Finn. How many pencils does Quinn have?",
    "Give the last word. light letter stone",
    "Ben is taller than Hugo. Rosa is taller than Ben. Who is the tallest?",
)
PROBLEMS = {"reasoning": "reasoning", "math": "math,level=easy"}
# the same stages, gates and lengths on less text
QUICK_PRETRAINING = [
    "validation_tokens=20000",
    "stages.language.tokens=98304",
    "stages.language.phases=[{length: 64, rows: 16, tokens: 24576}, {length: 128, rows: 8, tokens: 24576}, "
    "{length: 256, rows: 4}]",
    *(
        setting
        for name in ("code", "reasoning", "math")
        for setting in (f"stages.{name}.tokens=49152", f"stages.{name}.gate={{falls: 0.05, keeps: 0.3}}")
    ),
    *(f"data.bins/demo/{name}.sources=['builtin:{name},max_characters=12000']" for name in ("language", "code")),
    *(f"data.bins/demo/{name}.sources=['builtin:{spec},limit=6000']" for name, spec in PROBLEMS.items()),
]
QUICK_TUNING = [
    "stages.chat.tokens=163840",
    "validation_tokens=5000",
    "eval_steps=40",
    *(
        f"data.bins/sft/{name}.sources=['builtin:{spec},limit=6000']"
        for name, spec in {**PROBLEMS, "instructions": "instructions,level=easy"}.items()
    ),
]
NEEDS = {"evaluate": "evaluate", "gguf": "export", "onnx": "export", "onnxruntime": "export", "onnxscript": "export"}
NEXT = """
With a GPU, next:
  yxanul plan yxanul-177m-24gb --gpu 4090                       what 177 M parameters need: memory, hours
  yxanul pretrain yxanul-177m-24gb --out runs/177m              stop it at any moment, the same command goes on
  yxanul push runs/177m --repo NAME/yxanul-177m                 with its card; private at first"""


@dataclass(frozen=True)
class Step:
    title: str
    words: list[str]  # of `yxanul`, or of `python -m` with a module's name first
    makes: str = ""  # is there when the step is done; without it the command itself knows what is left
    says: tuple[str, ...] = ()  # on its standard input


def parser() -> argparse.ArgumentParser:
    parser = command("demo", __doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the training")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: yxanul-demo, or yxanul-demo-quick")
    return parser


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    missing = [package for package in NEEDS if importlib.util.find_spec(package) is None]
    if missing:
        extras = ",".join(sorted({NEEDS[package] for package in missing}))
        raise BadInput(f'the demo\'s last steps need {", ".join(missing)}: pip install "yxanul[{extras}]".')
    folder = options.out or Path("yxanul-demo-quick" if options.quick else "yxanul-demo")
    check_folder(folder, "--out")
    folder.mkdir(parents=True, exist_ok=True)
    steps = all_steps(options.quick)
    say(f"{len(steps)} steps, each a command; what they make lies in {folder}.")
    began = time.monotonic()
    for number, step in enumerate(steps, 1):
        say(f"\n{number} of {len(steps)}: {step.title}\n  $ {shown(step)}")
        if step.makes and (folder / step.makes).exists():
            say(f"  done before: {folder / step.makes}")
            continue
        before, started = cpu_seconds(), time.monotonic()
        code = run(step, folder)
        say(f"  {time.monotonic() - started:.0f} s, {cpu_seconds() - before:.0f} CPU seconds")
        if code != DONE:
            ended = "was stopped" if code == STOPPED else f"ended with exit code {code}"
            more = "" if code in (BAD_INPUT, GATE_FAILED) else "; the same `yxanul demo` goes on from here"
            insist(f"yxanul: the step {ended}{more}.")
            return code
    say(f"\n{time.monotonic() - began:.0f} s, {cpu_seconds():.0f} CPU seconds, no network.")
    pages = [str(folder / page) for page in ("runs/demo/report.html", "runs/sft/report.html", "compare.html")]
    say(f"Pages for a browser: {', '.join(pages)}.{NEXT}")
    return DONE


def all_steps(quick: bool) -> list[Step]:
    limit = "10" if quick else "40"
    base, tuned = "runs/demo/final", "runs/sft/final"
    tasks = ["--tasks", "builtin_*", "--limit", limit]
    types = "f16,fp32" if quick else "f16,Q8_0,fp32,int8"
    return [
        Step(
            "text that every Python carries becomes tokens; four gated stages with growing lengths become a model",
            ["pretrain", "demo", "--out", "runs/demo", *(QUICK_PRETRAINING if quick else [])],
            makes=base,
        ),
        Step(
            "another kind of tokenizer, whose tokens may span words, on the same text",
            ["tokenizer", "train", "--kind", "superbpe", "--vocabulary", "2048", "--limit-bytes", "2000000", *TEXT]
            + ["--out", "bins/superbpe"],
            makes="bins/superbpe",
        ),
        Step("what SuperBPE would give", ["tokenizer", "compare", "bins/demo/tokenizer", "bins/superbpe", *TEXT]),
        Step(
            "the model, loaded by transformers alone, solves problems that it never saw",
            ["yxanul.demo_problems", base, "--plain"],
        ),
        Step(
            "what it knows, in bits per byte of text that it never saw",
            ["evaluate", base, *tasks, "--out", "results/before"],
        ),
        Step(
            "fine-tuning: it learns to answer, and to stop",
            ["sft", "sft", "--out", "runs/sft", *(QUICK_TUNING if quick else [])],
            makes=tuned,
        ),
        Step(
            "the same text after fine-tuning, which was on conversations alone",
            ["evaluate", tuned, *tasks, "--out", "results/after"],
        ),
        Step(
            "what has changed, with intervals",
            ["compare", "results/before", "results/after", "--html", "compare.html"],
        ),
        Step("new problems once more, now in its chat template", ["yxanul.demo_problems", tuned]),
        Step("fifty kinds of small questions, each judged by a program", ["suite", tuned, "--out", "results/suite"]),
        Step(
            "as other tools read it, each file opened in one and compared",
            ["export", tuned, "--to", "llama,gguf,onnx", "--types", types, "--out", "exports"],
        ),
        Step("a chat of three turns", ["chat", tuned, "--new-tokens", "48"], says=TURNS),
        Step("each run on a page: the training", ["report", "runs/demo"]),
        Step("and the fine-tuning", ["report", "runs/sft"]),
    ]


def shown(step: Step) -> str:
    said = "\\n".join(step.says)
    program = "python -m" if "." in step.words[0] else "yxanul"
    return (f"printf '{said}\\n' | " if said else "") + f"{program} {shlex.join(step.words)}"


def run(step: Step, folder: Path) -> int:
    """In a process of its own, which a signal reaches through this one: it saves, and then both end."""
    words = ["-m", *([] if "." in step.words[0] else ["yxanul"]), *step.words]
    said = "".join(f"{turn}\n" for turn in step.says).encode()
    with subprocess.Popen([sys.executable, *words], cwd=folder, stdin=subprocess.PIPE) as child:

        def stop(number: int, _: Any) -> None:
            if number == signal.SIGTERM:  # Ctrl-C goes to both
                child.terminate()

        earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            child.communicate(said)
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
