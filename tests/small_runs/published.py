"""A run's folder as a finished run leaves it, made by hand, a verdict on its model, and how it is pushed."""

import json

import pytest
import yaml

from yxanul.run_folder import COMPLETE, RunFolder

STATE = ("optimizer.safetensors", "rank-00000.safetensors", "trainer_state.json", COMPLETE)
FIGURES = {"eval_talk_bits_per_byte": 2.5, "eval_talk_accuracy": 0.25, "eval_bits_per_byte": 2.5}
LINES = [
    {"step": 0, "tokens": 0, "time": 1.7e9, **FIGURES, "eval_talk_bits_per_byte": 4.0, "eval_bits_per_byte": 4.0},
    {"step": 5, "tokens": 1000, "time": 1.7e9, "loss": 3.0, "tokens_per_second": 100.0, "power": 360.0},
    {"step": 10, "tokens": 2000, "time": 1.7e9, "loss": 2.0, "tokens_per_second": 100.0, "power": 360.0},
    {"step": 10, "tokens": 2000, "time": 1.7e9, **FIGURES},
]
RECIPE = {
    "optimizer": "muon",
    "stages": [{"name": "talk", "sources": [{"bin": "bins/talk/train"}], "tokens": 2000, "phases": [{"length": 64}]}],
    "data": {"bins/talk": {"sources": ["hf:owner/stories,split=train", "builtin:math", "/home/me/books,kind=text"]}},
}


SHAPE = {
    **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "embedding_rank": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
}


def save_model(folder, base, seed=0):
    import torch

    from yxanul import YxanulConfig, YxanulForCausalLM

    torch.manual_seed(seed)
    YxanulForCausalLM(YxanulConfig(**SHAPE)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((base / name).read_text())


@pytest.fixture
def made_run(base, tmp_path):
    """A run's folder as a finished run leaves it; its last checkpoint was cut off."""
    run = RunFolder(tmp_path / "runs/talk")
    save_model(run.final, base)
    for step in (5, 10):
        save_model(run.checkpoint(step), base, step)
        for name in STATE[:3]:
            (run.checkpoint(step) / name).write_bytes(b"state")
        sizes = {file.name: file.stat().st_size for file in run.checkpoint(step).iterdir()}
        (run.checkpoint(step) / COMPLETE).write_text(json.dumps({"step": step, "files": sizes}))
    save_model(run.checkpoint(15), base)
    run.config.write_text(yaml.safe_dump(RECIPE))
    run.gates.write_text(json.dumps({"talk": {"step": 10, "passed": True, "findings": []}}))
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    packages = {"yxanul": "0.1", "torch": "2.13"}
    start = {"processes": 2, "device": "NVIDIA H200", "python": "3.11.7", "packages": packages}
    run.environment.write_text(json.dumps([start]))
    return run


ROW = {
    **{"artefact": "model.safetensors", "client": "transformers 9", "bytes": 10**6, "passed": True},
    **{"largest_logit_difference": 0.0, "greedy_equal": 72, "greedy_of": 72},
    **{"bits_per_byte": 2.0, "bits_per_byte_difference": 0.0},
}
PUBLISHED = {
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("configuration_yxanul.py", "loss_yxanul.py", "modeling_yxanul.py", "README.md"),
    *("training/config.yaml", "training/gates.json"),
}


def push(*words):
    from yxanul.__main__ import main

    return main(["push", *map(str, words)])


def repository(hub, kind="models", name="owner/talk"):
    return hub.repositories[kind, name]
