"""What `yxanul plan --gpu` says of memory is what a step on a CPU allocates; hours and money are arithmetic."""

import json
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from yxanul.__main__ import main
from yxanul.catalog import load_shape, training_flops_per_token
from yxanul.training.config import read_config
from yxanul.training.device import peak_flops
from yxanul.training.estimate import GPUS, memory
from yxanul.training.model import build
from yxanul.training.optimizers import build_optimizer
from yxanul.training.precision.native_fp8 import enable_fp8
from yxanul.training.precision.policy import read_policy

SHAPE = {"vocab_size": 1024, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4}
SHAPES = {
    "plain, MHA": {"num_key_value_heads": 4},
    "plain, GQA": {"num_key_value_heads": 1},
    "factorised, GQA": {"num_key_value_heads": 2, "embedding_rank": 32},
    "factorised input, full head": {"embedding_rank": 32, "tie_word_embeddings": False},
    "learned positions, GEGLU": {"learned_position_embeddings": True, "hidden_act": "gelu"},
    "large vocabulary": {"vocab_size": 10_000},
    "large vocabulary, factorised": {"vocab_size": 20_000, "embedding_rank": 32},
}
RECIPE = """
model: yxanul-177m
stages:
  - name: language
    sources: [{bin: bins/a, tokens: 1e9}]
    tokens: 5e8
    phases: [{length: 512, rows: 512, steps: 200}, {length: 2048, rows: 128}]
gradient_accumulation_steps: 4
"""


def tiny(shape, optimizer="adamw"):
    config = replace(read_config("demo", []), model="tiny", model_config=SHAPE | shape)
    return replace(config, optimizer=optimizer, precision="fp32", matrix_learning_rate=None)


def allocated_at_most(config, rows, accumulation, every, tmp_path):
    """By torch's own allocator, while a model is built and makes two steps."""
    ids = torch.randint(0, 1000, (rows, 128))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build(config).train()
        if every:
            model.gradient_checkpointing_enable({"every_n_layers": every})
        optimizer = build_optimizer(model, config)
        for _ in range(2):
            for _ in range(accumulation):
                model(input_ids=ids, shift_labels=ids, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    events = sorted((event for event in trace if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    first = events[0]["args"]
    return max(event["args"]["Total Allocated"] for event in events) - first["Total Allocated"] + first["Bytes"]


@pytest.mark.parametrize(
    ("shape", "optimizer", "rows", "accumulation", "every"),
    [
        ("plain, MHA", "adamw", 4, 1, 0),
        ("plain, MHA", "adamw", 4, 1, 1),
        ("plain, GQA", "adamw", 4, 2, 0),
        ("plain, GQA", "adamw", 4, 1, 2),
        ("factorised, GQA", "adamw", 4, 1, 0),
        ("factorised, GQA", "adamw", 4, 2, 2),
        ("factorised, GQA", "muon", 4, 1, 1),
        ("plain, MHA", "muon", 1, 1, 0),
        ("factorised input, full head", "adamw", 4, 1, 3),
        ("learned positions, GEGLU", "adamw", 4, 1, 1),
        ("large vocabulary", "adamw", 1, 1, 1),
        ("large vocabulary", "adamw", 1, 2, 0),
        ("large vocabulary", "adamw", 8, 1, 3),
        ("large vocabulary, factorised", "adamw", 2, 1, 1),
    ],
)
def test_the_peak_is_that_of_two_steps(shape, optimizer, rows, accumulation, every, tmp_path):
    config = tiny(SHAPES[shape], optimizer)
    planned = memory(config, rows * 128, accumulation, every, on_gpu=False)["peak"]
    assert planned == pytest.approx(allocated_at_most(config, rows, accumulation, every, tmp_path), rel=0.05)


@pytest.mark.parametrize(
    "policy", [{}, {"weight_gradient": "bf16"}, {"down": "bf16", "q": "bf16"}, {"gate": "bf16", "up": "bf16"}]
)
def test_in_fp8_it_is_what_the_graph_keeps(policy):
    config = replace(tiny(SHAPES["plain, GQA"]), precision="fp8", precision_policy=policy)
    planned = memory(config, 512, 1, 0, on_gpu=False)
    found = kept_for_backward(config, torch.randint(0, 1000, (4, 128)))
    assert planned["activations"] + planned["loss"] == pytest.approx(found, rel=0.03)


def kept_for_backward(config, ids, is_bf16=False):
    model, kept = build(config).train(), {}
    if config.precision == "fp8":
        enable_fp8(model, read_policy(config.precision_policy, ""))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        return kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=is_bf16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model(input_ids=ids, shift_labels=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_what_the_graph_keeps(shape):
    config = tiny(SHAPES[shape])
    planned = memory(config, 512, 1, 0, on_gpu=False)
    found = kept_for_backward(config, torch.randint(0, 1000, (4, 128)))
    assert planned["activations"] + planned["loss"] == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize(
    ("shape", "in_norms"), [("plain, GQA", 4), ("learned positions, GEGLU", 4), ("factorised, GQA", 2 + 4)]
)
def test_in_bf16_a_gpu_keeps_what_a_cpu_does_but_for_the_norms(shape, in_norms):
    """A CPU's norms also keep their normalised input, and theirs in fp32 if it is bf16; no test sees a GPU's."""
    config = tiny(SHAPES[shape])
    planned = memory(replace(config, precision="bf16"), 512, 1, 0)
    found = kept_for_backward(config, torch.randint(0, 1000, (4, 128)), is_bf16=True)
    assert planned["activations"] + planned["loss"] == pytest.approx(found - 512 * 9 * 128 * in_norms, rel=0.03)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_and_moments_are_counted_exactly(optimizer):
    config = tiny(SHAPES["factorised, GQA"], optimizer)
    model = build(config)
    stepper = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    stepper.step()
    moments = [value for state in stepper.state.values() for name, value in state.items() if name != "step"]
    planned = memory(config, 512, 1, 0)
    assert planned["weights"] == planned["gradients"] == sum(4 * weight.numel() for weight in model.parameters())
    assert planned["moments"] == sum(4 * moment.numel() for moment in moments)


@pytest.fixture
def plan(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(RECIPE)

    def run(*words, code=0):
        capsys.readouterr()
        assert main(["plan", str(tmp_path / "run.yaml"), *words]) == code
        printed = capsys.readouterr()
        return json.loads(printed.out)["estimate"] if "--json" in words else printed.err if code else printed.out

    return run


def test_hours_and_money_are_the_plans_flops(plan):
    facts = plan("--gpu", "h200", "--count", "8", "--price", "2.5", "--json")
    shape = load_shape("yxanul-177m").config
    tokens = {512: 200 * 512 * 512, 2048: 1708 * 2048 * 128}
    for row in facts["lengths"]:
        flops = tokens[row["length"]] * sum(training_flops_per_token(shape, row["length"]).values())
        assert row["hours"] * 3600 == pytest.approx(flops / (8 * 989e12 * facts["assumed_mfu"]))
    assert facts["hours"] == sum(row["hours"] for row in facts["lengths"])
    assert facts["cost"] == pytest.approx(facts["hours"] * 8 * 2.5)
    again = plan("--gpu", "h200", "--count", "8", "--json", "activation_checkpointing=true")
    assert 1.3 < again["hours"] / facts["hours"] < 4 / 3 and again["cost"] is None, "but for the head"
    unknown = plan("--gpu", "h200", "--json", "precision=fp32")
    assert unknown["hours"] is None, "peak and share are bf16's"


@pytest.mark.parametrize(("gpu", "length"), [("4090", 2048), ("h200", 2048), ("4090", 8192)])
def test_what_it_says_to_set_fits_and_nothing_larger_does(plan, tmp_path, gpu, length):
    words = [f"stages.language.phases=[{{length: {length}, rows: 128}}]", "stages.language.tokens=5e8"]
    assert not plan("--gpu", gpu, "--json", *words, "gradient_accumulation_steps=1")["fits"]
    said = plan("--gpu", gpu, "--json", *words)["largest_that_fits"].split()
    config = read_config(str(tmp_path / "run.yaml"), [*words, *said])
    facts = plan("--gpu", gpu, "--json", *words, *said)
    assert facts["fits"] and facts["accumulation"] == config.accumulation(1)
    assert facts["lengths"][0]["micro_batch_tokens"] == config.max_micro_batch_tokens
    if facts["accumulation"] > 1:
        twice = memory(config, 2 * config.max_micro_batch_tokens, facts["accumulation"] // 2, 0)["peak"]
        assert twice > facts["usable_bytes"]
    assert ("activation_checkpointing=true" in said) == (facts["checkpointed_every"] == 1)


def test_shards_and_buffers_of_more_processes():
    config = tiny({}, "adamw")
    one, whole = memory(config, 512, 1, 0), memory(config, 512, 1, 0, count=8)
    assert 0 < whole["peak"] - one["peak"] <= one["gradients"], "DDP keeps the gradients from step to step"
    for parallel, parts in (
        ("zero1", ("moments",)),
        ("zero2", ("gradients", "moments")),
        ("fsdp2", ("weights", "gradients", "moments")),
    ):
        split = memory(replace(config, parallel=parallel), 512, 1, 0, count=8)
        for part in ("weights", "gradients", "moments"):
            assert split[part] == one[part] // (8 if part in parts else 1), (parallel, part)


def test_what_it_prints_names_its_assumptions(plan):
    out = plan("--gpu", "a100", "--count", "8", "--price", "3")
    assert "estimated, not measured" in out and "48% of 312 TFLOPS" in out and "modded-nanogpt" in out
    assert "accumulation 4, no layer checkpointed" in out and "GPU hours" in out


def test_bad_input_is_one_sentence(plan):
    assert "unknown GPU 'h20': take one of 4090, 5090," in plan("--gpu", "h20", code=2)
    assert "add parallel=auto" in plan("--gpu", "h200", "parallel=fsdp2", code=2)
    with pytest.raises(SystemExit):
        plan("--count", "8")
    with pytest.raises(SystemExit):
        plan("--gpu", "h200", "--count", "0")


def test_every_gpu_has_a_peak_and_a_size():
    for gpu in GPUS.values():
        assert peak_flops(gpu.name) and 20 < gpu.gib < 150 and 0.1 < gpu.mfu < 0.6
