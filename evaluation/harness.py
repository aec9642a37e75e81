"""A model of lm-eval, named `yxanul`, with this package's scoring and batching: for every task that lm-eval has.

    yxanul evaluate gpt2 --harness --tasks arc_easy,piqa
    python -m yxanul.evaluation.harness --model yxanul --model_args pretrained=gpt2 --tasks arc_easy    # lm_eval's own

The second is the `lm_eval` command itself, which knows no other way to meet a model: importing this file registers it.
Under `accelerate launch` each process scores its share of the batches and all know the results, so few-shot examples
are those of one process. Not here: sampling; tasks that run code, for lm-eval has no sandbox.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.progress import say
from yxanul.data.whole_files import write_json, write_whole
from yxanul.evaluation.generation import Prompt, Writer
from yxanul.evaluation.scoring import Scorer, total
from yxanul.evaluation.text_model import TextModel, load, processes

try:
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
except ImportError:
    raise BadInput('--harness needs the package lm-eval: pip install "yxanul[evaluate]".') from None


@register_model("yxanul")
class YxanulLM(LM):
    def __init__(
        self,
        pretrained: str | TextModel,
        revision: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """`batch_size`: rows, or "auto"; the last two come from lm-eval's command line, and accelerate decides."""
        super().__init__()
        self._state = processes()
        if isinstance(pretrained, str):
            pretrained = load(pretrained, revision=revision, trust_remote_code=trust_remote_code)
        self.subject, self.tokenizer = pretrained, pretrained.tokenizer
        self.is_main = self._state.is_main_process
        self._rows = None if batch_size in (None, "auto") else int(batch_size)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [tuple(score) for score in self._scores([self.subject.pair(*request.args) for request in requests])]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        return [score.nats for score in self._scores([self.subject.text(*request.args) for request in requests])]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        prompts = []
        for text, options in (request.args for request in requests):
            wanted = normalize_gen_kwargs(options)
            until, tokens = wanted.pop("until"), wanted.pop("max_gen_toks")
            if wanted.pop("do_sample") or {name for name in wanted if name != "temperature"}:
                raise BadInput(f"this model generates greedily, and the task wants {options}: use lm_eval --model hf.")
            prompts.append(Prompt(text, tuple(filter(None, until)), tokens))
        return list(dict(sorted(self._run(Writer(self.subject, prompts, rows=self._rows)))).values())

    def _scores(self, pairs: list[Any]) -> Any:
        return total(len(pairs), self._run(Scorer(self.subject, pairs, rows=self._rows)))

    def _run(self, engine: Any) -> list[Any]:
        rank, processes = self._state.process_index, self._state.num_processes
        mine = [found for batch in engine.batches[rank::processes] for found in engine.run(batch)]
        return gather_object(mine) if processes > 1 else mine

    def get_model_info(self) -> dict[str, Any]:
        return {"model_revision": self.subject.revision, "boundary": self.subject.boundary}


def find_harness_tasks(words: list[str]) -> tuple[Any, list[str]]:
    """Tasks, groups and tags by their names or patterns, as `lm_eval --tasks` takes them; with what knows them."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    names: list[str] = []
    for word in words:
        found = manager.match_tasks([word])
        if not found:
            raise unknown_name("task of lm-eval", word, manager.all_tasks)
        names += found
    return manager, list(dict.fromkeys(names))


def run_harness(
    lm: YxanulLM,
    manager: Any,
    names: list[str],
    out: Path,
    results: dict[str, Any],
    *,
    shots: int | None,
    limit: int | None,
) -> list[str]:
    """One task or group after the other: adds to `results`, and writes it, on process 0; what was added."""
    out.mkdir(parents=True, exist_ok=True)
    added: dict[str, list[str]] = {}
    for name in names:
        asked = {"asked": name, "limit": limit, "num_fewshot": shots, "lm_eval": version("lm_eval")}
        tasks = broadcast_object_list([results["tasks"]])[0]
        done = [task for task in tasks if asked.items() <= tasks[task].items() and tasks[task]["status"] == "done"]
        if not done:
            how: dict[str, Any] = {"task_manager": manager, "num_fewshot": shots, "limit": limit}
            try:
                found = lm_eval.simple_evaluate(lm, tasks=[name], **how)
                entries = _entries(found, lm, out) if found else {}  # on process 0
            except Exception as error:  # a task may be anybody's code, and the others need not suffer
                entries = {name: {"task": name, "status": "not run", "reason": _reason(error)}}
            results["tasks"] |= {task: entry | asked for task, entry in entries.items()}
            if lm.is_main:
                write_json(out / "results.json", results)
        added[name] = done or list(entries)
    return list(dict.fromkeys(task for tasks in added.values() for task in tasks))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, BadInput):
        return text
    if isinstance(error, OSError):  # a data set that is not there, or no network
        return f"lm-eval cannot read its data: {text}"
    if "unsafe" in text:
        return "lm-eval runs its code without a sandbox, so it is not run here"
    return f"lm-eval refuses: {type(error).__name__}: {text}"


def _entries(found: dict[str, Any], lm: YxanulLM, out: Path) -> dict[str, dict[str, Any]]:
    """For results.json; writes the samples."""
    entries = {}
    for name, figures in found["results"].items():
        samples = _samples(found["samples"].get(name, []))
        lines = [json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples]
        write_whole(out / f"samples-{name}.jsonl", lines)
        keys = [key for key in figures if "," in key and "_stderr," not in key]
        errors = {key: figures.get(key.replace(",", "_stderr,")) for key in keys}
        better = found["higher_is_better"].get(name, {})
        entries[name] = {
            **{"task": name, "version": found["versions"].get(name), "status": "done", "main": keys},
            **{"shots": found["n-shot"].get(name), "n": len(samples), "boundary": lm.subject.boundary},
            "metrics": {
                key: {
                    "value": figures[key],
                    "stderr": error if isinstance(error, float) else None,
                    "higher_is_better": better.get(key.partition(",")[0], True),
                }
                for key, error in errors.items()
            },
        }
    return entries


def _samples(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One of each document, with its figures under all of the task's filters."""
    samples: dict[int, dict[str, Any]] = {}
    for one in found:
        about = {"prompt": one["arguments"][0][0], "output": one["resps"], "expected": one["target"], "metrics": {}}
        sample = samples.setdefault(one["doc_id"], {"id": one["doc_id"], **about})
        for metric in one["metrics"]:
            if isinstance(one[metric], int | float):  # perplexities are of the whole set
                sample["metrics"][f"{metric},{one['filter']}"] = float(one[metric])
    return [samples[number] for number in sorted(samples)]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    say("lm_eval, with the model `yxanul`")
    cli_evaluate()
