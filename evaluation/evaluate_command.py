"""`yxanul evaluate MODEL --tasks hellaswag,gsm8k --out results/mine`: benchmarks of any causal model, resumable.

    yxanul evaluate runs/demo/final --tasks 'builtin_*'
    yxanul evaluate gpt2 --tasks hellaswag,triviaqa,gsm8k,wikitext,c4 --limit 500
    yxanul evaluate gpt2 --tasks humaneval,humaneval_stripped --allow-code-execution
    yxanul evaluate gpt2 --tasks hellaswag --data validation.jsonl
    yxanul evaluate gpt2 --harness --tasks arc_easy,piqa
    accelerate launch --num_processes 8 -m yxanul evaluate gpt2 --tasks hellaswag

Prompts, stops, few-shot choice and versions are those of lm-eval 0.4.13; docs/evaluation.md has the agreement.
"""

import argparse
import fnmatch
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import say

IMAGE = "python:3.12-slim"  # of --sandbox container
PROTOCOL = "lm-eval 0.4.13"


def main(arguments: list[str]) -> int:
    options = _parsed(arguments)
    out = options.out or Path("results") / Path(options.model).name
    if options.harness:
        return _harness(options, out, arguments)
    from yxanul.evaluation.task import all_tasks, find_tasks, read_data

    names = [name for word in options.tasks.split(",") for name in (fnmatch.filter(all_tasks(), word) or [word])]
    tasks = find_tasks(names)
    files = _files(options.data, [task.name for task in tasks])
    run_program = _sandbox(options, [task.name for task in tasks if task.runs_code])

    from accelerate import PartialState

    from yxanul.evaluation.metrics import load_metric
    from yxanul.evaluation.runner import Results, Settings, run_tasks
    from yxanul.evaluation.text_model import load

    settings = Settings(out, options.shots, options.batch_size, None if isinstance(run_program, str) else run_program)
    ready = []
    for task in tasks:
        load_metric(task.metric)  # whether `evaluate` is there
        place = {"file": files.get(task.name), "shots_file": files.get(f"{task.name}.shots")}
        ready.append((task, read_data(task, shots=settings.shots_of(task), limit=options.limit, **place)))
    state = PartialState()
    subject = load(
        options.model, revision=options.revision, trust_remote_code=options.trust_remote_code, device=state.device
    )
    results = Results(out, facts(subject, options.model, arguments))
    if isinstance(run_program, str):
        for task in [task for task, _ in ready if task.runs_code]:
            results.add(task.name, {"task": task.name, "status": "not run", "reason": run_program})
        ready = [(task, data) for task, data in ready if not task.runs_code]
    run_tasks(subject, ready, settings, results, state if state.num_processes > 1 else None)
    if state.is_main_process:
        show(results.content, [task.name for task in tasks])
        say(f"{out}: results.json, and samples/ with every prompt and output.")
    if state.num_processes > 1:
        state.destroy_process_group()
    return 0


def _harness(options: argparse.Namespace, out: Path, arguments: list[str]) -> int:
    if options.data or options.allow_code_execution:
        raise BadInput("--harness takes neither --data nor --allow-code-execution: its tasks are lm-eval's own.")
    from yxanul.evaluation.harness import YxanulLM, run_harness
    from yxanul.evaluation.runner import Results

    how = {"trust_remote_code": options.trust_remote_code, "batch_size": options.batch_size}
    lm = YxanulLM(options.model, revision=options.revision, **how)
    results = Results(out, facts(lm.subject, options.model, arguments))
    entries = run_harness(lm, options.tasks.split(","), out, options.shots, options.limit)
    for name, entry in entries.items():
        results.add(name, entry)
    if entries:
        show(results.content, list(entries))
    return 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="yxanul evaluate", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    argument = parser.add_argument
    argument("model", help="a folder, or a name on the Hub")
    argument("--tasks", required=True, metavar="A,B", help="names, or patterns such as 'builtin_*'")
    argument("--limit", type=int, metavar="N", help="the first N documents of each task")
    argument("--shots", type=int, metavar="N", help="solved examples before each question (default: the task's)")
    argument("--batch-size", type=int, metavar="N", help="rows of a batch (default: as many as fit)")
    argument(
        "--data", action="append", default=[], metavar="[TASK=]FILE", help="jsonl or parquet; TASK.shots=FILE; again"
    )
    argument("--out", type=Path, metavar="DIR", help="default: results/MODEL; the same one goes on")
    argument("--revision", help="of a model on the Hub")
    argument("--trust-remote-code", action="store_true", help="run code that the model's repository brings")
    argument("--allow-code-execution", action="store_true", help="run generated programs, in the sandbox")
    argument("--sandbox", choices=("process", "container"), default="process", help="where generated programs run")
    argument("--harness", action="store_true", help="the tasks are lm-eval's own, scored by this package")
    options = parser.parse_args(arguments)
    for name, least in (("limit", 1), ("shots", 0), ("batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise BadInput(f"--{name.replace('_', '-')} {value} must be at least {least}.")
    return options


def _files(given: list[str], tasks: list[str]) -> dict[str, str]:
    files = {}
    known = [*tasks, *(f"{task}.shots" for task in tasks)]
    for text in given:
        name, _, path = text.rpartition("=")
        if not name and len(tasks) > 1:
            raise BadInput(f"--data {text}: say whose it is, such as --data {tasks[0]}={text}.")
        name = name or tasks[0]
        if name not in known:
            raise BadInput(f"--data {text}: {name} is none of what runs: {', '.join(known)}.")
        if not Path(path).is_file():
            raise BadInput(f"--data {text}: there is no file {path}.")
        files[name] = path
    return files


def _sandbox(options: argparse.Namespace, tasks: list[str]) -> Any:
    """What runs a program; or why nothing does, in a sentence."""
    if not tasks:
        return None
    if not options.allow_code_execution:
        raise BadInput(f"{' and '.join(tasks)} run programs that the model wrote: add --allow-code-execution.")
    from yxanul.evaluation import sandbox

    place = {"container": IMAGE} if options.sandbox == "container" else {}
    try:
        say(f"Generated programs run in the sandbox: {sandbox.level(**place)}.")
    except sandbox.SandboxUnavailable as error:
        say(str(error))
        return str(error)
    return partial(sandbox.run_program, timeout=3.0, **place)  # seconds, as code_eval's


def facts(subject: Any, model: str, arguments: list[str]) -> dict[str, Any]:
    import torch
    import transformers

    from yxanul import __version__

    return {
        "model": model,
        "revision": subject.revision,
        "parameters": subject.model.num_parameters(),
        "dtype": str(subject.model.dtype),
        "device": subject.device.type,
        "longest": subject.longest,
        "protocol": PROTOCOL,
        "command": f"yxanul evaluate {shlex.join(arguments)}",
        "versions": {
            "yxanul": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": sys.version.split()[0],
        },
    }


def show(content: dict[str, Any], names: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metric", box=None)
    for column in ("value", "standard error", "n", "chance", "claimed"):
        table.add_column(column, justify="right")
    for name in names:
        entry = content["tasks"][name]
        if entry["status"] != "done":
            table.add_row(name, "not run", "", "", "", "", "")
            continue
        claims = ", ".join(f"{system} {claim}" for system, claim in entry.get("claims", {}).items())
        for metric in entry["main"]:
            found = entry["metrics"][metric]
            error = "-" if found["stderr"] is None else f"{found['stderr']:.4f}"
            chance = f"{entry['chance'][metric]:.2f}" if metric in entry.get("chance", {}) else "-"
            table.add_row(name, metric, f"{found['value']:.4f}", error, f"{entry['n']:,}", chance, claims or "-")
            claims = ""
    console = Console(highlight=False)
    Console(highlight=False, width=max(console.width, 120)).print(table)
    for name in names:
        entry = content["tasks"][name]
        if entry["status"] != "done":
            say(f"{name} was not run: {entry['reason']}.")
        elif entry["boundary"] == "apart":
            say(f"{name}: tokens cross spaces, so context and continuation were encoded apart, not as lm-eval does.")
        if entry.get("cut"):
            say(f"{name}: {entry['cut']:,} of {entry['n']:,} prompts were too long and lost their beginning.")
