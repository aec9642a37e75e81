"""`yxanul evaluate MODEL --tasks hellaswag,gsm8k --out results/mine`: benchmarks of any causal model, resumable.

    yxanul evaluate runs/demo/final --tasks 'builtin_*'
    yxanul evaluate gpt2 --tasks hellaswag,triviaqa,gsm8k,wikitext,c4 --limit 500
    yxanul evaluate gpt2 --tasks humaneval,humaneval_stripped --allow-code-execution
    yxanul evaluate gpt2 --tasks hellaswag --data validation.jsonl
    yxanul evaluate gpt2 --harness --tasks arc_easy,piqa
    accelerate launch --num_processes 8 -m yxanul evaluate gpt2 --tasks hellaswag

Prompts, stops, few-shot choice and versions are those of lm-eval 0.4.13; docs/evaluation.md has the agreement. Exit
codes: 0 done, 2 bad input, or nothing could be run.
"""

import argparse
import fnmatch
import json
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.hub_reach import offline_where_no_hub_is
from yxanul.data.progress import answer_json, answer_table, insist, say
from yxanul.data.whole_files import check_folder
from yxanul.shell import command

IMAGE = "python:3.12-slim"  # of --sandbox container
PROTOCOL = "lm-eval 0.4.13"


def main(arguments: list[str]) -> int:
    options = _parsed(arguments)
    out = options.out or Path("results", options.model.strip("./").replace("/", "-"))
    names = options.tasks.split(",")
    model = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    is_local = Path(options.model).is_dir() and (options.data or all(name.startswith("builtin_") for name in names))
    if not is_local:
        offline_where_no_hub_is()
    if options.harness:
        if options.data or options.allow_code_execution:
            raise BadInput("--harness takes neither --data nor --allow-code-execution: its tasks are lm-eval's own.")
        from yxanul.evaluation.harness import YxanulLM, find_harness_tasks, run_harness

        manager, names = find_harness_tasks(names)
        before = tasks_before(out, options.model, options.revision)
        lm = YxanulLM(options.model, batch_size=options.batch_size, **model)
        results = begun(lm.subject, arguments, before)
        names = run_harness(lm, manager, names, out, results, shots=options.shots, limit=options.limit)
    else:
        from yxanul.evaluation.task import all_tasks, find_tasks, read_data

        tasks = find_tasks([name for word in names for name in fnmatch.filter(all_tasks(), word) or [word]])
        names = [task.name for task in tasks]
        files = _files(options.data, tasks)
        for task in tasks:
            if options.shots and task.example is None:
                say(f"{task.name} has no solved examples to show: 0 shots.")
        sandbox = _sandbox(options, [task.name for task in tasks if task.runs_code])

        from yxanul.evaluation.metrics import load_metric
        from yxanul.evaluation.runner import run_tasks
        from yxanul.evaluation.text_model import load

        ready = []
        for task in tasks:
            load_metric(task.metric)  # whether `evaluate` is there
            ready.append((task, read_data(task, files, options.shots, options.limit)))
        before = tasks_before(out, options.model, options.revision)
        subject = load(options.model, **model)
        results = begun(subject, arguments, before)
        run_tasks(subject, ready, out, results, rows=options.batch_size, **sandbox)

    from yxanul.evaluation.text_model import processes

    state = processes()
    if state.is_main_process:
        if options.json:
            answer_json(results | {"tasks": {name: results["tasks"][name] for name in names}})
        else:
            show(results, names)
        tell(results, names)
        say(f"{out}: results.json, and samples-TASK.jsonl with every prompt and output.")
    if state.num_processes > 1:
        state.destroy_process_group()
    if not state.is_main_process:  # who has the results
        return 0
    return 0 if any(results["tasks"][name]["status"] == "done" for name in names) else 2


def parser() -> argparse.ArgumentParser:
    parser = command("evaluate", __doc__)
    argument = parser.add_argument
    argument("model", help="a folder, or a name on the Hub")
    argument("--tasks", required=True, metavar="A,B", help="names, or patterns such as 'builtin_*'")
    argument("--limit", type=int, metavar="N", help="the first N documents of each task")
    argument("--shots", type=int, metavar="N", help="solved examples before each question (default: the task's)")
    argument("--batch-size", type=int, metavar="N", help="rows of a batch (default: as many as fit)")
    argument(
        "--data",
        action="append",
        default=[],
        metavar="[TASK=]FILE",
        help="jsonl or parquet, the public columns; TASK.shots=FILE: solved examples; may stand several times",
    )
    argument("--out", type=Path, metavar="DIR", help="default: results/MODEL, with - for /; the same one goes on")
    argument("--revision", help="of a model on the Hub")
    argument("--trust-remote-code", action="store_true", help="run code that the model's repository brings")
    argument("--allow-code-execution", action="store_true", help="run generated programs, in the sandbox")
    argument("--sandbox", choices=("process", "container"), default="process", help="where generated programs run")
    argument("--json", action="store_true", help="print what results.json holds of these tasks")
    argument("--harness", action="store_true", help="the tasks are lm-eval's own, scored by this package")
    return parser


def _parsed(arguments: list[str]) -> argparse.Namespace:
    options = parser().parse_args(arguments)
    for name, least in (("limit", 1), ("shots", 0), ("batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise BadInput(f"--{name.replace('_', '-')} {value} must be at least {least}.")
    return options


def _files(given: list[str], tasks: list[Any]) -> dict[str, str]:
    files: dict[str, str] = {}
    known = [task.name for task in tasks if task.source is not None]
    known += [f"{task.name}.shots" for task in tasks if task.source is not None and task.example is not None]
    for text in given:
        name, _, path = ("", "", text) if Path(text).is_file() else text.rpartition("=")
        if not known:
            raise BadInput(f"--data {text}: no task that runs reads a file: leave it out.")
        if not name and len(tasks) > 1:
            raise BadInput(f"--data {text}: say whose it is, such as --data {known[0]}={text}.")
        name = name or known[0]
        if name not in known:
            raise BadInput(f"--data {text}: {name} is none of what reads files: {', '.join(known)}.")
        if name in files:
            raise BadInput(f"--data {text}: {name} has a file already, {files[name]}: leave one out.")
        if not Path(path).is_file():
            raise BadInput(f"--data {text}: there is no file {path}.")
        files[name] = path
    return files


def _sandbox(options: argparse.Namespace, tasks: list[str]) -> dict[str, Any]:
    if not tasks:
        return {}
    if not options.allow_code_execution:
        raise BadInput(f"{' and '.join(tasks)}: programs that the model wrote would run: add --allow-code-execution.")
    run_program, refused = open_sandbox(IMAGE if options.sandbox == "container" else None)
    if refused and options.sandbox == "container":
        raise BadInput(f"{refused}.")
    return {"run_program": run_program, "refused": refused}


def open_sandbox(container: str | None = None) -> tuple[Callable[[str], Any] | None, str]:
    """What runs a program; or why nothing does."""
    from yxanul.evaluation import sandbox

    try:
        say(f"Generated programs run in the sandbox: {sandbox.level(container)}.")
    except sandbox.SandboxUnavailable as error:
        return None, str(error).rstrip(".")
    return partial(sandbox.run_program, container=container), ""


def tasks_before(out: Path, model: str, asked: str | None = None) -> dict[str, Any]:
    """The results that the folder holds, which must be of the same model: told before it is loaded."""
    check_folder(out, "--out")
    file = out / "results.json"
    if not file.exists():
        return {}
    from yxanul.evaluation.text_model import revision_of

    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        revision, tasks = before["revision"], before["tasks"]
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{file} is no result of this command: give another --out, or remove it.") from None
    with suppress(OSError):  # load() tells why
        found = revision_of(model, asked)
        if revision != found:
            raise BadInput(f"{file} is of {revision}, not of {found}: give another --out.")
    return tasks


def begun(subject: Any, arguments: list[str], before: dict[str, Any]) -> dict[str, Any]:
    """What results.json holds before the first task is done; the tasks of an earlier command stay."""
    import torch
    import transformers

    from yxanul import __version__
    from yxanul.evaluation.text_model import processes

    versions = {"yxanul": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "format": 1,
        "date": time.strftime("%Y-%m-%d"),
        "model": subject.model.name_or_path,
        "revision": subject.revision,
        "parameters": subject.model.num_parameters(),
        "dtype": str(subject.model.dtype),
        "device": subject.device.type,
        "processes": processes().num_processes,
        "longest": subject.longest,
        "protocol": PROTOCOL,
        "command": f"yxanul evaluate {shlex.join(arguments)}",
        "versions": versions,
        "tasks": before,
    }


def show(results: dict[str, Any], names: list[str]) -> None:
    from rich.table import Table

    table = Table("task", "metric", box=None)
    for column in ("value", "standard error", "n", "chance", "claimed"):
        table.add_column(column, justify="right")
    for name in names:
        entry = results["tasks"][name]
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
    answer_table(table, least=120)


def tell(results: dict[str, Any], names: list[str]) -> None:
    """What no figure says."""
    for name in names:
        entry = results["tasks"][name]
        if entry["status"] != "done":
            insist(f"{name} was not run: {entry['reason'].rstrip('.')}.")
        elif entry["boundary"] == "apart":
            say(f"{name}: tokens cross spaces, so context and continuation were encoded apart, not as lm-eval does.")
        if entry.get("cut"):
            say(f"{name}: {entry['cut']:,} of {entry['n']:,} prompts were too long and lost their beginning.")
