"""Which folder is meant: a run's final/, one of its checkpoints, a model's own folder, or an adapter's.

subject = find_subject("runs/demo")                  # refuses what is not finished, cut off, or no model
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.run_folder import COMPLETE, RunFolder, flaw, read_marker

CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS = re.compile(r"(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True)
class Subject:
    """A model or an adapter, and the run that made it."""

    folder: Path
    run: RunFolder | None
    step: int | None = None  # of a checkpoint, or of a stage's end

    @property
    def is_adapter(self) -> bool:
        return (self.folder / ADAPTER).is_file()


def find_subject(text: str, step: int | None = None) -> Subject:
    """The model in a folder, a run's final/, or its checkpoint of that step."""
    folder = Path(text)
    if not folder.is_dir():
        raise BadInput(f"{text} is no folder: give a run, or a model's folder.")
    folder = folder.resolve()
    is_model = (folder / CONFIG).is_file() or (folder / ADAPTER).is_file()
    run = RunFolder(folder)
    if is_model:
        run = next((RunFolder(above) for above in folder.parents[:2] if RunFolder(above).config.is_file()), run)
    if step is not None:
        folder = run.checkpoint(step)
        if not folder.is_dir():
            known = ", ".join(str(number) for number in complete_steps(run)) or "none"
            raise BadInput(f"{text} has no checkpoint of step {step}; complete ones: {known}.")
    elif not is_model:
        folder = run.final
        if not folder.is_dir():
            if run.metrics.exists() or run.checkpoints.is_dir():
                place = run.checkpoint(0).with_name("checkpoint-N")
                raise BadInput(f"{text} is a run that is not finished: resume it, or give a checkpoint, {place}.")
            more = "give a run or a model's folder; records are for `yxanul push --dataset`"
            raise BadInput(f"{text} is no model: it has no {CONFIG}, and no final/ of a run: {more}.")
    of_run = folder.parent in (run.checkpoints, run.stages) or (folder / COMPLETE).exists()
    if of_run or re.fullmatch(r"checkpoint-\d+", folder.name):
        if problem := flaw(folder):
            raise BadInput(f"{folder} is no complete checkpoint: {problem}. Take another one.")
        step = read_marker(folder)["step"]
    if not any(WEIGHTS.fullmatch(file.name) for file in folder.iterdir()):
        raise BadInput(f"{folder} has no weights (model.safetensors).")
    if not (folder / "tokenizer.json").is_file():
        raise BadInput(
            f"{folder} has no tokenizer.json, and nobody could use the model: save its tokenizer there with "
            "`tokenizer.save_pretrained`."
        )
    return Subject(folder, run if run.config.is_file() else None, step)


def complete_steps(run: RunFolder) -> list[int]:
    found = [folder for folder in run.checkpoints.glob("checkpoint-*") if flaw(folder) is None]
    return sorted(int(folder.name.rpartition("-")[2]) for folder in found)


def base_of(subject: Subject) -> str:
    """What an adapter belongs to, by its own word."""
    base = str(read_object(subject.folder / ADAPTER).get("base_model_name_or_path"))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or Path(base).is_dir():
        raise BadInput(f"the adapter's base is {base}, no name on the Hub: push it first, then --base USER/IT.")
    return base


def read_object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file.name} is no JSON: {error}.") from None
    if not isinstance(values, dict):
        raise BadInput(f"{file.name} must hold an object.")
    return values
