"""Sample by sample as lm-eval 0.4.13 itself: prompts, log-likelihoods, generations, metrics, on rows written here."""

import json
import shutil
from pathlib import Path

import pytest

from yxanul.__main__ import main

SOURCES = {
    "hellaswag": ("Rowan/hellaswag", "validation", "train"),
    "triviaqa": ("mandarjoshi/trivia_qa", "validation", "train"),
    "gsm8k": ("openai/gsm8k", "test", "train"),
    "humaneval": ("openai/openai_humaneval", "test", None),
    "wikitext": ("EleutherAI/wikitext_document_level", "test", None),
    "c4": ("allenai/c4", "validation", None),
}
METRICS = {
    "hellaswag": {"acc,none": "acc", "acc_norm,none": "acc_norm"},
    "triviaqa": {"exact_match,remove_whitespace": "exact_match"},
    "gsm8k": {
        "exact_match,strict-match": "strict_match",
        "exact_match,flexible-extract": "flexible_extract",
    },
    "wikitext": {f"{name},none": name for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")},
    "humaneval": {"pass@1,create_test": "pass@1"},
}
METRICS_OF_LEARNT = {"hellaswag": "acc_norm", "gsm8k": "strict_match", "triviaqa": "exact_match"}
METRICS["c4"] = METRICS["wikitext"]


@pytest.fixture
def offline(monkeypatch, public_rows):
    """lm-eval's tasks read the rows of this test, and its HumanEval counts every program as passed."""
    import datasets
    import evaluate

    def load_dataset(path, name=None, **options):
        splits = {split: datasets.Dataset.from_list(found) for split, found in public_rows[path].items()}
        return datasets.DatasetDict(splits)

    programs = []

    class EveryProgramPasses:
        def compute(self, references, predictions, k):
            programs.append(f"{predictions[0][0]}\n{references[0]}")  # as code_eval would run it
            return [{f"pass@{size}": 1.0 for size in k}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(evaluate, "load", lambda name: EveryProgramPasses())
    return programs


def lm_eval_tasks(name):
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = Path(lm_eval.__file__).parent / "tasks" / name
    return TaskManager(include_path=str(folder), include_defaults=False)


def theirs(folder, name, shots=None, batch_size=3, own_code=False):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=own_code)
    assert type(model).__module__.startswith("transformers_modules") is own_code
    hf = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch_size)
    found = lm_eval.simple_evaluate(
        hf,
        tasks=[name],
        task_manager=lm_eval_tasks(name),
        num_fewshot=shots,
        bootstrap_iters=1,  # none would leave the errors of means out, too
        confirm_run_unsafe_code=True,
    )
    samples = {}
    for sample in found["samples"][name]:
        samples.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
    return found["results"][name], [samples[number] for number in sorted(samples)], found["versions"][name]


def ours(folder, name, files, out, *more):
    source, split, shots_split = SOURCES[name]
    data = ["--data", f"{name}={files[source, split]}"]
    if shots_split:
        data += ["--data", f"{name}.shots={files[source, shots_split]}"]
    assert main(["evaluate", str(folder), "--tasks", name, *data, "--out", str(out), *more]) == 0
    entry = json.loads((out / "results.json").read_text())["tasks"][name]
    samples = [json.loads(line) for line in (out / f"samples-{name}.jsonl").read_text().splitlines()]
    return entry, samples


def with_code_of_its_own(checkpoint, positions, place):
    """A model whose type nobody here knows: what its folder brings is run."""
    folder = shutil.copytree(checkpoint("yxanul", "bpe", positions), place / "somebodys")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "somebodys"}))
    return folder


CASES = [
    ("yxanul", "hellaswag", 48, 0),
    ("llama", "hellaswag", 48, 0),
    ("learnt", "hellaswag", 512, 2),
    ("yxanul", "wikitext", 96, 0),
    ("llama", "c4", 96, 0),
    ("learnt", "gsm8k", 512, 0),
    ("yxanul", "gsm8k", 512, 5),
    ("llama", "gsm8k", 512, 2),
    ("learnt", "triviaqa", 512, 0),
    ("llama", "triviaqa", 320, 1),
    ("yxanul", "humaneval", 1100, 0),
    ("code of its own", "hellaswag", 48, 0),
    ("code of its own", "triviaqa", 320, 1),
    ("llama, begun", "hellaswag", 48, 0),
    ("llama, begun", "wikitext", 96, 0),
    ("llama, begun", "triviaqa", 320, 1),
]
WITHOUT_ERRORS = (
    "wikitext",
    "c4",
    "humaneval",
)  # lm-eval gives none of perplexities; pass@1 has nobody's program failing


@pytest.mark.parametrize("kind, name, positions, shots", CASES)
def test_every_sample_is_lm_evals(kind, name, positions, shots, checkpoint, files, offline, sandbox, tmp_path):
    own_code = kind == "code of its own"
    model, _, begun = kind.partition(", ")  # a tokenizer that begins each text with a token of its own
    folder = with_code_of_its_own(checkpoint, positions, tmp_path) if own_code else None
    folder = folder or checkpoint(model, "bos" if begun else "bpe", positions)
    results, samples, version = theirs(folder, name, shots, own_code=own_code)
    more = ["--shots", str(shots), *(["--allow-code-execution"] if name == "humaneval" else [])]
    more += ["--trust-remote-code"] if own_code else []
    entry, own = ours(folder, name, files, tmp_path / "out", *more)
    assert entry["version"] == float(version) and entry["n"] == len(samples) == len(own) and entry["shots"] == shots
    for sample, by_filter in zip(own, samples, strict=True):
        first = next(iter(by_filter.values()))
        prompt = first["arguments"][0][0]
        assert sample["prompt"] == prompt
        responses = [response[0] for response in first["resps"]]
        if isinstance(sample["output"], str):
            assert sample["output"] == responses[0]
        elif isinstance(sample["output"], list):
            assert [c for _, c in first["arguments"]] == [" " + choice for choice in sample["choices"]]
            assert sample["output"] == pytest.approx([float(nats) for nats, _ in responses], abs=2e-4)
        else:
            assert sample["output"] == pytest.approx(float(responses[0]), abs=2e-4)
    if (name, positions) == ("hellaswag", 48):
        assert entry["cut"] > 0, "some prompts are too long"
    if kind == "learnt":
        assert entry["metrics"][METRICS_OF_LEARNT[name]]["value"] > 0
        assert name == "hellaswag" or min(len(sample["output"]) for sample in own) < 20, "stops end some"
    if name == "humaneval":  # lm-eval tries the metric on a program of its own first
        assert len(own) == len(sandbox.programs) and sandbox.programs == offline[-len(own) :]
    compared = 0
    for key, metric in METRICS[name].items():
        assert entry["metrics"][metric]["value"] == pytest.approx(results[key], rel=1e-6), key
        error = results.get(key.replace(",", "_stderr,"))
        if isinstance(error, float):
            assert entry["metrics"][metric]["stderr"] == pytest.approx(error)
            compared += 1
    assert compared or name in WITHOUT_ERRORS
