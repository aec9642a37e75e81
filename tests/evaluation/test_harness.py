"""lm-eval's own tasks through our model equal lm-eval's own `hf` model, sample by sample."""

import json
from pathlib import Path

import pytest

TASKS = {"arc_easy": "arc", "piqa": "piqa", "lambada_openai": "lambada", "gsm8k": "gsm8k"}


@pytest.fixture
def offline(monkeypatch, public_rows):
    """The public columns of three more data sets, filled here; lm-eval finds nothing else."""
    import datasets
    import lm_eval
    from lm_eval import tasks

    texts = [row["ctx_a"] for row in public_rows["Rowan/hellaswag"]["validation"]]
    arc = [
        {"id": str(n), "question": f"{text} Why?", "answerKey": "ABCD"[n % 4]}
        | {"choices": {"text": [f"for {n}", "for the cat", "snow", "it is"], "label": list("ABCD")}}
        for n, text in enumerate(texts)
    ]
    piqa = [
        {"goal": text, "sol1": "use ice.", "sol2": f"wait for {n} cats.", "label": n % 2}
        for n, text in enumerate(texts)
    ]
    found = {
        "allenai/ai2_arc": {"train": arc, "validation": arc, "test": arc},
        "baber/piqa": {"train": piqa, "validation": piqa, "test": piqa},
        "EleutherAI/lambada_openai": {"test": [{"text": f"{text} the man waits for the cat"} for text in texts]},
        "openai/gsm8k": public_rows["openai/gsm8k"],
    }

    def load_dataset(path, name=None, **options):
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in found[path].items()})

    folder = Path(lm_eval.__file__).parent / "tasks"
    real = tasks.TaskManager
    manager = lambda: real(include_path=[str(folder / name) for name in TASKS.values()], include_defaults=False)  # noqa: E731
    monkeypatch.setattr(tasks, "TaskManager", manager)  # indexing all of lm-eval's takes 20 s
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return manager


def test_a_task_that_fails_leaves_the_others_and_what_is_done_is_not_done_again(
    checkpoint, offline, tmp_path, capsys, monkeypatch
):
    from yxanul.__main__ import main
    from yxanul.evaluation.scoring import Scorer

    words = ["evaluate", str(checkpoint()), "--harness", "--tasks", "gsm8k,arc_*,piqa", "--out", str(tmp_path)]
    assert main(words) == 0
    tasks = json.loads((tmp_path / "results.json").read_text())["tasks"]
    assert {name: task["status"] for name, task in tasks.items()} == {
        **{"gsm8k": "not run", "arc_challenge": "done"},
        **{"arc_challenge_chat": "not run", "arc_easy": "done", "piqa": "done"},
    }
    assert "gsm8k was not run: the model takes 96 tokens, and 256 are to be generated." in capsys.readouterr().err
    monkeypatch.setattr(Scorer, "run", lambda *_: 1 / 0)
    assert main(words) == 0
    again = json.loads((tmp_path / "results.json").read_text())["tasks"]
    assert again == tasks and "arc_easy" in capsys.readouterr().out
    assert main([*words, "--limit", "1"]) == 2 and "ZeroDivisionError" in capsys.readouterr().err


def test_unknown_tasks_are_refused_before_the_model_is_loaded(offline, tmp_path, capsys):
    from yxanul.__main__ import main

    assert main(["evaluate", "no/model", "--harness", "--tasks", "arc_easi", "--out", str(tmp_path / "out")]) == 2
    assert "unknown task of lm-eval 'arc_easi': did you mean arc_easy?" in capsys.readouterr().err


def test_a_groups_own_name_runs_its_tasks(checkpoint, offline, tmp_path):
    from yxanul.__main__ import main

    assert main(["evaluate", str(checkpoint()), "--harness", "--tasks", "ai2_arc", "--out", str(tmp_path)]) == 0
    assert set(json.loads((tmp_path / "results.json").read_text())["tasks"]) == {"arc_easy", "arc_challenge"}


def test_empty_texts_are_asked_behind_the_beginning_of_a_text(checkpoint):
    """lm-eval's own model stops with an error at all but the last of these."""
    from lm_eval.api.instance import Instance

    from yxanul.evaluation.harness import YxanulLM

    lm = YxanulLM(str(checkpoint("learnt", "bpe", 512)))

    def asked(kind, *arguments):
        return getattr(lm, kind)([Instance(kind, {}, arguments, 0)])

    assert asked("loglikelihood", "", "") == asked("loglikelihood", "the cat", "") == [(0.0, True)]
    assert asked("loglikelihood", " ", "cat") == asked("loglikelihood", "", " cat")
    assert asked("loglikelihood_rolling", "") == [0.0]
    assert asked("generate_until", "", {"until": [], "max_gen_toks": 4})


@pytest.mark.parametrize("kind", ["learnt", "llama"])
def test_tasks_of_lm_eval_score_as_with_its_own_model(kind, checkpoint, offline, tmp_path):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from yxanul.__main__ import main

    folder = checkpoint(kind, "bpe", 512)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    hf = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    names = [name for name in TASKS if kind == "learnt" or name != "gsm8k"]
    theirs = lm_eval.simple_evaluate(hf, tasks=names, task_manager=offline(), bootstrap_iters=0)
    assert main(["evaluate", str(folder), "--harness", "--tasks", ",".join(names), "--out", str(tmp_path)]) == 0
    ours = json.loads((tmp_path / "results.json").read_text())["tasks"]
    for name in names:
        for key, value in theirs["results"][name].items():
            if "," in key and "_stderr" not in key:
                assert ours[name]["metrics"][key]["value"] == pytest.approx(value, rel=1e-5), (name, key)
        lines = (tmp_path / f"samples-{name}.jsonl").read_text().splitlines()
        own = {sample["id"]: sample for sample in map(json.loads, lines)}
        assert {sample["doc_id"] for sample in theirs["samples"][name]} == set(own)
        for sample in theirs["samples"][name]:
            mine = own[sample["doc_id"]]
            assert mine["prompt"] == sample["arguments"][0][0]
            for metric in sample["metrics"]:
                if isinstance(sample[metric], float):
                    assert mine["metrics"][f"{metric},{sample['filter']}"] == pytest.approx(sample[metric], abs=2e-4)
            for one, other in zip(mine["output"], sample["resps"], strict=True):
                if isinstance(other[0], str):
                    assert one == other
                else:
                    assert one[0][0] == pytest.approx(other[0][0], abs=2e-4) and one[0][1] == other[0][1]
