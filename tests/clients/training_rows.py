"""The checkpoint, as a push would send it, and its Llama in PEFT, TRL and lm-eval, where these are installed.

    python tests/clients/training_rows.py MODEL EXPORTS        # EXPORTS holds llama/

PEFT: a new adapter changes nothing; trained, then merged, it is what it was beside the model. TRL: what SFTTrainer has
in memory after its steps is what opens from the folder that it saved. lm-eval: its bits per byte of a task are ours.
"""

import importlib.util
import json
import pathlib
import sys
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

MOVED = 1e-3  # by this much logits must differ after training, or nothing was proved
TASK = """task: clients_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""
TEXTS = (
    "The ship left the harbour before sunrise, and nobody on the shore waved. By noon the wind had turned.",
    "Tom has 3 boxes of 4 apples and eats 2 apples. 3 * 4 = 12, and 12 - 2 = 10. He has 10 apples left.",
    "def total(values):\n    found = 0\n    for value in values:\n        found += value\n    return found\n",
)


def rows(model, exports):
    """Verdicts; on standard error what is not installed."""
    from yxanul.hub_export.source import open_source
    from yxanul.hub_export.staging import stage_model
    from yxanul.hub_export.subject import find_subject
    from yxanul.hub_export.verify import Artefact, Limits, Reference

    source, found = open_source(model), []
    reference, of_texts = Reference(source), Reference(source, TEXTS)
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        (scratch / "checkpoint").mkdir()
        stage_model(find_subject(model), scratch / "checkpoint")
        for folder in (scratch / "checkpoint", exports / "llama"):
            limits = Limits(1e-5, 1e-5, 1e-5, True, "the same computation in fp32")
            artefact = Artefact(folder, folder.name, (), limits)
            for library, judged in (("peft", in_peft), ("trl", in_trl), ("lm_eval", in_lm_eval)):
                if importlib.util.find_spec(library) is None or not folder.is_dir():
                    missing = "is not installed" if folder.is_dir() else f"has no {folder}"
                    print(f"{folder.name}: {library} {missing}.", file=sys.stderr)  # noqa: T201
                    continue
                place = scratch / f"{library}-{folder.name}"
                place.mkdir()
                found += judged(artefact, of_texts if library == "lm_eval" else reference, place)
    return found


def in_peft(artefact, reference, scratch):
    from peft import PeftModel
    from training_clients import STEPS, Library

    from yxanul.hub_export.bare import BareTransformers
    from yxanul.hub_export.verify import judge

    trust = artefact.name == "checkpoint"
    with Library("peft", artefact.path, trust_remote_code=trust, scratch=str(scratch)) as client:
        name, client.name = client.name, f"{client.name}, a new adapter"
        yield judge(reference, artefact, client)
        client.call("train")
    beside = opened(artefact.path)
    beside.model = PeftModel.from_pretrained(beside.model, scratch / "adapter").eval()
    artefact = replace(artefact, limits=replace(artefact.limits, logits=1e-4, error=1e-4))  # rounded in the weights
    with BareTransformers(scratch / "merged", trust_remote_code=trust) as client:
        client.name = f"{name}, merged after {STEPS} steps"
        yield after_training(reference, beside, artefact, client)


def in_trl(artefact, reference, scratch):
    from training_clients import STEPS, Library

    trust = artefact.name == "checkpoint"
    with Library("trl", artefact.path, trust_remote_code=trust, scratch=str(scratch)) as client:
        client.name = f"{client.name}, {STEPS} steps, saved"
        client.call("tokenize", "")  # it has been trained when it answers
        yield after_training(reference, opened(scratch), artefact, client)


def in_lm_eval(artefact, reference, scratch):
    from training_clients import Library

    from yxanul.hub_export.verify import judge

    (scratch / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (scratch / "task.yaml").write_text(TASK.format(file=scratch / "texts.jsonl"))
    with Library("lm_eval", artefact.path, trust_remote_code=artefact.name == "checkpoint") as client:
        row = judge(reference, artefact, client)
        row.bits_per_byte = client.call("bits_per_byte", str(scratch), "clients_text")
    row.bits_per_byte_difference = row.bits_per_byte / reference.bits_per_byte - 1
    if abs(row.bits_per_byte_difference) > artefact.limits.bits_per_byte:
        row.failures.append(f"its bits per byte differ by {row.bits_per_byte_difference:+.1e}")
    row.passed = not row.failures
    yield row


def opened(folder):
    """As hub_export.source opens it, Llamas too."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return SimpleNamespace(model=model, config=model.config, tokenizer=AutoTokenizer.from_pretrained(folder))


def after_training(before, trained, artefact, client):
    """The client against `trained`, which must be another model than `before` with the same chat template."""
    from yxanul.hub_export.verify import Reference, judge

    reference = Reference(trained)
    row = judge(reference, artefact, client)
    moved = max(np.abs(new - old).max() for new, old in zip(reference.logits, before.logits, strict=True))
    if moved < MOVED:
        row.failures.append(f"training moved logits by {moved:.1g} alone")
    if reference.chat() != before.chat():
        row.failures.append("the chat template is another one after training")
    row.passed = not row.failures
    return row


def main(model, exports):
    from yxanul.hub_export.verify import table

    found = rows(model, pathlib.Path(exports))
    print(table(found))  # noqa: T201
    return int(not all(row.passed for row in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
