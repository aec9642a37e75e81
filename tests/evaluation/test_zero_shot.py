"""The tasks that gates watch: equal to the benchmark's own figures, on any number of processes, noisy or damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from yxanul.__main__ import main
from yxanul.bad_input import BadInput
from yxanul.evaluation.zero_shot import WATCHED, find_task
from yxanul.training.gates import Evidence, judge

SOURCES = {
    "hellaswag": ("Rowan/hellaswag", "validation"),
    "triviaqa_bits": ("mandarjoshi/trivia_qa", "validation"),
    "gsm8k_bits": ("openai/gsm8k", "test"),
    "humaneval_bits": ("openai/openai_humaneval", "test"),
}


def errors(name, file, model, tokenizer, rank=0, processes=1, reduce=lambda sums: sums):
    place = {"device": torch.device("cpu"), "rank": rank, "processes": processes, "reduce": reduce}
    return find_task(f"{name}={file}")(model, tokenizer, **place)


@pytest.fixture
def learnt(checkpoint):
    folder = checkpoint("learnt", "bpe", 512)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), folder


@pytest.mark.parametrize("name", WATCHED)
def test_errors_are_those_of_the_benchmark(name, learnt, files, tmp_path):
    model, tokenizer, folder = learnt
    found = errors(name, files[SOURCES[name]], model.train(), tokenizer)
    assert model.training
    data = f"--data={files[SOURCES[name]]}"
    assert main(["evaluate", str(folder), "--tasks", name, data, "--out", str(tmp_path)]) == 0
    samples = [json.loads(line) for line in (tmp_path / f"samples-{name}.jsonl").read_text().splitlines()]
    scores = np.array([sample["metrics"][WATCHED[name]] for sample in samples])
    assert found == pytest.approx(1 - scores if name == "hellaswag" else scores, rel=1e-6)
    assert len(found) > 1


@pytest.mark.parametrize("processes", [2, 5])
def test_any_number_of_processes_finds_the_same_with_equally_many_passes(processes, learnt, files):
    model, tokenizer, _ = learnt
    one = errors("hellaswag", files[SOURCES["hellaswag"]], model, tokenizer)
    parts, passes, rank = [], [], 0
    model.register_forward_hook(lambda *_: passes.append(rank))

    def keep(sums):
        parts.append(sums)
        return sums + 1e-9  # of a part alone nobody asks for the figures

    for rank in range(processes):  # noqa: B007 - the hook reads it
        errors("hellaswag", files[SOURCES["hellaswag"]], model, tokenizer, rank, processes, keep)
    assert len({passes.count(number) for number in range(processes)}) == 1
    together = errors("hellaswag", files[SOURCES["hellaswag"]], model, tokenizer, 0, processes, lambda _: sum(parts))
    assert np.array_equal(together, one)


def test_names_and_files_are_checked_before_any_work(tmp_path):
    with pytest.raises(BadInput, match="did you mean hellaswag"):
        find_task("helaswag")
    with pytest.raises(FileNotFoundError):
        find_task(f"hellaswag={tmp_path / 'none.jsonl'}")
    with pytest.raises(BadInput, match="cannot be read from the Hub"):
        find_task("gsm8k_bits")


@pytest.fixture(scope="module")
def many_sums(tmp_path_factory):
    """GSM8K's columns, 300 times."""
    file = tmp_path_factory.mktemp("sums") / "sums.jsonl"
    rows = [{"question": f"What are {n} and {n + 5} together?", "answer": f"#### {2 * n + 5}"} for n in range(300)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_damaged_model_is_caught_and_an_unchanged_one_passes(learnt, files, tmp_path):
    model, tokenizer, _ = learnt
    known = tmp_path / "known.jsonl"  # what it has learnt, often enough for a gate
    known.write_text(Path(files[SOURCES["gsm8k_bits"]]).read_text() * 10)
    before = errors("gsm8k_bits", known, model, tokenizer)
    ones = np.ones(len(before))
    assert judge("sums", "held", Evidence(before, ones), Evidence(before, ones), 0.02).passed
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        for layer in model.model.layers:
            weight = layer.mlp.down_proj.weight
            weight += 0.5 * weight.std() * torch.randn(weight.shape, generator=draw)
    after = errors("gsm8k_bits", known, model, tokenizer)
    finding = judge("sums", "held", Evidence(before, ones), Evidence(after, ones), 0.02)
    assert not finding.passed and finding.after > finding.before


def test_noise_alone_passes_or_fails_at_the_stated_level(learnt, many_sums):
    """A rise of just the tolerance must be passed in no more than 5 % of samples, whatever questions are drawn."""
    model, tokenizer, _ = learnt
    before = errors("gsm8k_bits", many_sums, model, tokenizer)
    draw = np.random.default_rng(0)
    after = before * (1 + draw.normal(0, 0.2, len(before)))
    after *= 1.02 * before.mean() / after.mean()
    passed = 0
    for _ in range(200):
        some = draw.integers(0, len(before), 200)
        limit = 0.02 * before.mean() / before[some].mean()  # of the whole's errors, not of those drawn
        evidence = (Evidence(values[some], np.ones(200)) for values in (before, after))
        passed += judge("sums", "held", *evidence, limit).passed
    assert 0 < passed <= 200 * 0.05 + 2 * np.sqrt(200 * 0.05 * 0.95)


SHARDED = """
import sys
import torch
import torch.distributed as dist
import yxanul
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer
from yxanul.evaluation.zero_shot import find_task

rank, store, folder, task = int(sys.argv[1]), *sys.argv[2:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
yxanul.register()
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)

def total(sums):
    dist.all_reduce(sums)
    return sums

place = {"device": torch.device("cpu"), "rank": rank, "processes": 2, "reduce": total}
print(find_task(task)(model, tokenizer, **place).tolist(), flush=True)
dist.destroy_process_group()
"""


def test_a_model_that_fsdp2_split_finds_the_same(learnt, files, said_by_two_ranks):
    """A process that skipped a pass would leave the other's gathering waiting."""
    model, tokenizer, folder = learnt
    file = files[SOURCES["hellaswag"]]
    printed = said_by_two_ranks(SHARDED, folder, f"hellaswag={file}")
    assert json.loads(printed) == errors("hellaswag", file, model, tokenizer).tolist()
