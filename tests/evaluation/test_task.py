"""A task's data: read by the real `datasets` from the loopback Hub, whole, limited, with shots and the commit."""

import json
import subprocess
import sys

import pytest
from hub_server.fixture import OWNER
from hub_server.server import client_environment

from yxanul.bad_input import BadInput
from yxanul.evaluation.task import all_tasks, read_data

CLIENT = """
import json
from dataclasses import replace
from yxanul.evaluation.task import all_tasks, read_data

task = all_tasks()["gsm8k"]
task = replace(task, source=replace(task.source, name="owner/sums"))
data = read_data(task, {}, limit=3)
print(json.dumps([data.place, data.shots, [request.text for request in data.requests]]))
"""
CARD = b"""---
configs:
- config_name: main
  data_files: [{split: train, path: train.jsonl}, {split: test, path: test.jsonl}]
---
"""


def test_documents_and_shots_come_from_the_hub_and_the_commit_is_kept(loopback_hub, public_rows, tmp_path):
    rows = public_rows["openai/gsm8k"]
    contents = {
        f"{split}.jsonl": "".join(json.dumps(row) + "\n" for row in found).encode() for split, found in rows.items()
    }
    loopback_hub.add("datasets", "owner/sums", {"README.md": CARD, **contents})
    environment = client_environment(loopback_hub.url, tmp_path, OWNER)
    done = subprocess.run([sys.executable, "-c", CLIENT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place, shots, prompts = json.loads(done.stdout.splitlines()[-1])
    assert shots == 5 and len(prompts) == 3
    name, split, revision = place.split(", ")
    assert (name, split) == ("owner/sums", "test") and len(revision.removeprefix("revision ")) == 40
    assert prompts[1].endswith(f"Question: {rows['test'][1]['question']}\nAnswer:")
    assert all(prompt.count("\n\nQuestion: ") == 5 for prompt in prompts)


def test_a_metric_without_a_standard_error_is_refused_before_the_work(public_rows, tmp_path, monkeypatch):
    from yxanul.evaluation.metrics.gsm8k.gsm8k import Gsm8k

    whole = Gsm8k._compute

    def without(self, **inputs):
        figures = whole(self, **inputs)
        del figures["strict_match_stderr"]
        return figures

    monkeypatch.setattr(Gsm8k, "_compute", without)
    file = tmp_path / "sums.jsonl"
    file.write_text(json.dumps(public_rows["openai/gsm8k"]["test"][0]) + "\n")
    with pytest.raises(BadInput, match="gsm8k: its metric gsm8k gives no strict_match_stderr"):
        read_data(all_tasks()["gsm8k"], {"gsm8k": str(file)}, shots=0)


@pytest.mark.parametrize("name", all_tasks())
def test_every_task_says_what_it_shows_and_where_its_data_is(name):
    from yxanul.evaluation.metrics import load_metric

    task = all_tasks()[name]
    assert task.name == name and (task.source is None) != (task.documents is None)
    assert load_metric(task.metric).features and task.main
    assert not task.shots or (task.example and task.source.shots_split)
    assert not task.example or task.source.shots_split, "shots need a place to be drawn from"
