"""Health figures against plain torch, on one process, two, FSDP2 and a compiled model; they change no weight."""

import json
import math

import pytest
import torch
from small_runs.fixture import TIMES
from torch.nn import functional
from transformers import TrainerCallback

from yxanul.loss_yxanul import apply_softcap, cross_entropy, linear_cross_entropy
from yxanul.run_folder import RunFolder
from yxanul.training import health, session
from yxanul.training.alerts import KNOWN_AFTER, LEAK_LOGS, Alerts
from yxanul.training.beginning import Beginning
from yxanul.training.device import Device, peak_flops
from yxanul.training.health import SAMPLE, Health, quantile
from yxanul.training.inputs import open_stream
from yxanul.training.ranks import Ranks
from yxanul.training.training_arguments import training_arguments

ROUNDED = 2e-5  # figures have six digits
STEPS = 3


class Watch(TrainerCallback):
    """Keeps the lines, and copies of gradients and weights where they can be had before and after each step."""

    def __init__(self, trainer):
        self.trainer, self.lines, self.gradients, self.weights, self.batches = trainer, [], [], [], []
        clip = trainer._clip_grad_norm

        def copying(model):
            self.gradients.append({n: p.grad.clone() for n, p in trainer.model.named_parameters()})
            self.weights.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
            return clip(model)

        trainer._clip_grad_norm = copying

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.lines.append(logs)


@pytest.fixture
def train(small_config, tmp_path):
    """`train(**changes)`: the Watch over a few steps of the small recipe in this process, and its trainer."""
    made = []

    def make(prepare=lambda trainer: None, steps=STEPS, **changes):
        config = small_config(**{"validation": None, "save_steps": 1000, "max_grad_norm": 0.1} | changes)
        plan, folder = config.plan(), RunFolder(tmp_path / f"run-{len(made)}")
        args = training_arguments(config, plan, folder, 1)
        args.max_steps = steps
        stream = open_stream(config, plan, config.shape().config)
        begin = Beginning(None, 0, plan.steps)
        trainer = session.Session(config, folder, args, Ranks(args.ddp_timeout), stream, {}, begin).trainer
        prepare(trainer)
        watch = Watch(trainer)
        trainer.add_callback(watch)
        trainer._save_checkpoint = lambda *_: None
        trainer.train()
        made.append(watch)
        return watch

    return make


def group_of(name):
    return next(group for key, group in health.GROUPS.items() if key in name)


def close(value, expected, rel=ROUNDED):
    assert value == pytest.approx(float(expected), rel=rel, abs=1e-9)


def rows_of_step(trainer, step):
    batch = trainer.batches.stream.batch(step, 0, trainer.plan.at(step).rows)
    return torch.from_numpy(batch.input_ids), torch.from_numpy(batch.targets)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_every_figure_is_what_plain_torch_finds(train, accumulation, small_shape):
    watch = train(gradient_accumulation_steps=accumulation, model_config=small_shape | {"tie_word_embeddings": False})
    line, gradients, before = watch.lines[1], watch.gradients[1], watch.weights[1]
    for group in ("attention", "mlp", "norms", "embedding", "head", "all"):
        names = [name for name in gradients if group in (group_of(name), "all")]
        gradient = torch.cat([gradients[name].flatten() for name in names]).double()
        weight = torch.cat([before[name].flatten() for name in names]).double()
        after = torch.cat([watch.weights[2][name].flatten() for name in names]).double()
        close(line[f"gradient/norm/{group}"], gradient.norm())
        close(line[f"gradient/std/{group}"], gradient.std(correction=0), rel=1e-4)
        assert line[f"gradient/mean/{group}"] == pytest.approx(float(gradient.mean()), rel=1e-3, abs=1e-8)
        close(line[f"gradient/min/{group}"], gradient.min())
        close(line[f"gradient/max/{group}"], gradient.max())
        close(line[f"weight/norm/{group}"], weight.norm())
        close(line[f"weight/std/{group}"], weight.std(correction=0), rel=1e-4)
        close(line[f"weight/absmax/{group}"], weight.abs().max())
        close(line[f"update_ratio/{group}"], (after - weight).norm() / weight.norm(), rel=1e-3)
    close(line["gradient/norm/all"], line["grad_norm"])
    for layer in range(2):
        mine = [gradients[name].flatten() for name in gradients if f"layers.{layer}." in name]
        close(line["layers/gradient_norm"][layer], torch.cat(mine).norm())
    assert (line["gradient/nan"], line["gradient/inf"], line["layers/dead_neurons"]) == (0, 0, [0.0, 0.0])

    model, (ids, targets) = watch.trainer.model, rows_of_step(watch.trainer, 1)
    model.load_state_dict(before)
    with torch.no_grad():
        found = model.eval()(input_ids=ids, output_hidden_states=True)
    p = found.logits.double().softmax(-1)
    entropy, confidence = -(p * p.log()).sum(-1).flatten()[:: health.ENTROPY_EVERY], p.amax(-1).flatten()
    close(line["accuracy"], (found.logits.argmax(-1) == targets).double().mean())
    for name, values, top in (("entropy", entropy, math.log(61)), ("confidence", confidence, 1.0)):
        close(line[f"{name}/mean"], values.mean())
        for label, share in health.QUANTILES.items():
            assert abs(line[f"{name}/{label}"] - values.quantile(share)) < 1.1 * top / health.BINS
    states = torch.stack(found.hidden_states[:-1])
    close(line["activation/rms"], states.square().mean().sqrt())
    close(line["activation/absmax"], states.abs().max())
    assert line["activation/nonfinite"] == 0
    for layer, state in enumerate(states):
        close(line["layers/activation_rms"][layer], state.square().mean().sqrt())
        close(line["layers/activation_absmax"][layer], state.abs().max())
    close(line["loss"], functional.cross_entropy(found.logits.flatten(0, 1), targets.flatten()))


def test_times_memory_epochs_and_what_a_cpu_cannot_tell(train):
    watch = train(gradient_accumulation_steps=2)
    line = watch.lines[1]
    assert line["mfu"] is None and "power" not in line and "alerts" not in line
    assert all(line[f"time/{name}"] > 0 for name in ("data", "forward", "backward", "optimizer"))
    assert 1e7 < line["memory/host"] <= line["memory/host_peak"] < 1e11
    plan = watch.trainer.plan
    (source,) = plan.stages[0].sources
    close(line["epochs/language/train"], 2 * 256 // plan.block / source.blocks(plan.block))
    json.dumps(watch.lines, allow_nan=False)


def test_only_steps_that_log_are_looked_at(train, monkeypatch):
    asked = []
    see = Health.see_predictions
    monkeypatch.setattr(Health, "see_predictions", lambda self, outputs, targets: (
        asked.append((self.observes, outputs.token_entropy is not None, outputs.hidden_states is not None)),
        see(self, outputs, targets),
    ))  # fmt: skip
    watch = train(logging_steps=2, steps=12)
    assert asked == [(step % 2 == 0,) * 3 for step in range(1, 13)] and len(watch.lines) == 6


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_are_the_same_to_the_bit_with_and_without(train, optimizer, monkeypatch, small_shape):
    shape = small_shape | {"attention_dropout": 0.1}
    changes = {"optimizer": optimizer, "model_config": shape, "steps": 6}
    looked = train(**changes)
    monkeypatch.setattr(Health, "observes", property(lambda self: False, lambda self, value: None), raising=False)
    blind = train(**changes)
    assert "accuracy" in looked.lines[-1] and "accuracy" not in blind.lines[-1]
    pairs = zip(looked.trainer.model.parameters(), blind.trainer.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert [line["loss"] for line in looked.lines] == [line["loss"] for line in blind.lines]


def test_dead_neurons_are_channels_that_are_silent_for_all_tokens(train):
    """A gate far below 0 for every token: the embedding's first column is large, and the gate's rows point away."""

    def silence(trainer):
        with torch.no_grad():
            trainer.model.model.embed_tokens.weight[:, 0] = 20
            mlp = trainer.model.model.layers[1].mlp
            mlp.gate_proj.weight[:12] = 0
            mlp.gate_proj.weight[:12, 0] = -5
            trainer.model.model.layers[0].mlp.up_proj.weight[:30] = 0

    line = train(prepare=silence, steps=1).lines[0]
    assert line["layers/dead_neurons"] == [30 / 48, 12 / 48] and line["dead_neurons"] == 42 / 96
    assert line["alerts"] == ["62% of the neurons of layer 0 are dead"]


def test_gradients_that_are_no_numbers_are_counted_and_named_in_an_alert(train):
    def spoil(trainer):
        see = trainer.health.see_gradients
        down, norm = trainer.model.model.layers[1].mlp.down_proj.weight, trainer.model.model.norm.weight

        def spoiled():
            down.grad[3, 4], norm.grad[2] = math.nan, math.inf
            see()

        trainer.health.see_gradients = spoiled

    line = train(prepare=spoil, steps=1).lines[0]
    assert (line["gradient/nan"], line["gradient/inf"]) == (1, 1) and line["skipped_steps"] == 1
    assert line["gradient/norm/mlp"] is line["gradient/std/norms"] is line["layers/gradient_norm"][1] is None
    assert line["layers/gradient_norm"][0] > 0 and line["update_ratio/all"] == 0
    assert any("gradient/nan" in alert for alert in line["alerts"])


def test_a_sample_of_a_large_weight_is_a_fair_one():
    """Columns of different sizes, which a stride of 64 would not have met."""
    weight = torch.randn(1000, 1024, generator=torch.Generator().manual_seed(0)) * torch.arange(1024)
    ((factor, (views, before)),) = health._samples([weight]).items()
    assert len(before) <= SAMPLE and views[0].data_ptr() == weight.data_ptr()
    close(before.square().sum() * factor, weight.square().sum(), rel=0.05)


def test_quantiles_of_a_table():
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) ** 3
    below = [float((values < edge).sum()) for edge in torch.linspace(0, 1, 101)[1:-1]]
    for share in (0.1, 0.5, 0.9):
        assert abs(quantile(below, 10_000, share) - values.quantile(share)) < 0.01


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("vocabulary_multiple", [1, 64])
def test_entropy_and_confidence_come_out_of_the_loss_without_logits(softcap, vocabulary_multiple):
    latent, weight = torch.randn(3, 9, 6, requires_grad=True), torch.randn(53, 6, requires_grad=True)
    targets = torch.randint(0, 53, (3, 9))
    targets[1, 2:5] = -100
    logits = apply_softcap(4 * latent @ weight.T, softcap)
    p = logits.detach().double().softmax(-1)
    counted = targets != -100
    is_third = (torch.arange(27) % 3 == 0).view(3, 9)
    options = {"softcap": softcap, "chunk_rows": 8, "vocabulary_multiple": vocabulary_multiple}
    plain, chunked = (
        linear_cross_entropy(4 * latent, weight, targets, entropy_every=every, **options) for every in (0, 3)
    )
    assert plain.token_entropy is plain.token_confidence is None
    for found in (chunked, cross_entropy(logits, targets, entropy_every=3)):
        assert not found.token_entropy.requires_grad and not found.token_confidence.requires_grad
        torch.testing.assert_close(
            found.token_entropy.double(), -(p * p.log()).sum(-1) * counted * is_third, rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(found.token_confidence.double(), p.amax(-1) * counted, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(found.loss, (latent, weight)) for found in (plain, chunked)]
    assert torch.equal(plain.loss, chunked.loss)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


# Several processes, and graphs


def figures(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").open()]
    return [{k: v for k, v in line.items() if k.partition("/")[0] not in TIMES} for line in lines if "loss" in line]


def assert_close(one, other, steps, but=()):
    for first, second in zip(one[:steps], other[:steps], strict=True):
        assert first.keys() == second.keys()
        for key in first.keys() - {"stage", *but}:
            assert first[key] == pytest.approx(second[key], rel=1e-2, abs=1e-6), key


@pytest.fixture(scope="module")
def one(run):
    finished = run(logging_steps=2, save_steps=20)
    assert finished() == 0, finished.said()
    return figures(finished)


@pytest.mark.parametrize("words", [[], ["parallel=fsdp2"]], ids=["ddp", "fsdp2"])
def test_two_processes_find_what_one_finds(run, one, words):
    two = run(logging_steps=2, save_steps=20)
    assert two(*words, processes=2, **({"fsdp2": True} if words else {})) == 0, two.said()
    assert len(one) == 10 and "gap/code" in one[0]
    # maxima of single entries, and sums that cancel, follow the rounding of their steps
    assert_close(one, figures(two), steps=4, but=[key for key in one[0] if "/mean/" in key])


def test_a_resumed_run_has_the_alerts_of_an_undisturbed_one(run):
    """Running means are read from metrics.jsonl: a spike at step 11 is as far above them as it was."""
    spikes = {"spike": {"steps": [11], "rank": 0}}
    whole, killed = run(), run()
    assert whole(**spikes) == 0, whole.said()
    assert killed(kill={"step": 10}, **spikes) == -9
    assert killed(**spikes) == 0, killed.said()
    assert figures(whole) == figures(killed)
    alerts = [line.get("alerts", []) for line in figures(whole)]
    assert any("gradient/norm/attention" in alert for alert in alerts[10]) and not any(alerts[:10])


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("how", ["layers", "model"])
def test_a_compiled_model_has_the_same_figures_and_weights(train, monkeypatch, compiler, how, checkpointing):
    changes = {"compile": how, "activation_checkpointing": checkpointing}
    eager, looked, graphs = train(steps=6, logging_steps=2), train(steps=6, logging_steps=2, **changes), len(compiler)
    monkeypatch.setattr(Health, "observes", property(lambda self: False, lambda self, value: None), raising=False)
    blind = train(steps=6, logging_steps=2, **changes)
    pairs = zip(looked.trainer.model.parameters(), blind.trainer.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert graphs == (2 if how == "model" else 1)
    lines = [
        [{k: v for k, v in line.items() if k.partition("/")[0] not in TIMES} for line in watch.lines]
        for watch in (eager, looked)
    ]
    assert_close(*lines, steps=3, but=[key for key in lines[0][0] if "/mean/" in key])


# Alerts, alone


def alerts_after(logs, figures, stage="a"):
    watching = Alerts()
    for line in logs:
        watching.remember({"stage": "a"} | line)
    return watching.of(figures, stage, (64, 8))


KEY = "gradient/norm/attention"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12.1, f"{KEY} is 12.1, 12.1 times its running mean of 1"),
        (0.001, f"{KEY} is 0.001, 0.001 times its running mean of 1"),
        (9.0, None),
        (0.02, None),
        (None, None),
    ],
)
def test_explosion_and_vanishing(value, expected):
    steady = [{KEY: 1.0}] * KNOWN_AFTER
    assert alerts_after(steady, {KEY: value}) == ([expected] if expected else [])
    assert alerts_after(steady[1:], {KEY: value}) == []  # too few to know
    assert alerts_after(steady, {KEY: value}, stage="b") == []  # another stage, other norms


def test_a_layer_whose_gradients_vanish():
    assert alerts_after([], {"layers/gradient_norm": [1e-6, 0.5, None]}) == [
        "gradient norm of layer 0 is 1e-06, the largest of a layer 0.5"
    ]
    assert alerts_after([], {"layers/gradient_norm": [1e-3, 0.5]}) == []


def logs_of_memory(values, shapes=((64, 8),)):
    watching, found = Alerts(), []
    for index, value in enumerate(values):
        found.append(watching.of({"memory/host": value}, "a", shapes[index % len(shapes)]))
    return found


def test_a_leak_is_steady_growth_at_one_shape():
    grows = [1_000_000 + 10_000 * log for log in range(LEAK_LOGS)]
    found = logs_of_memory(grows)
    assert not any(found[:-1]) and "memory/host has grown from 1,000,000 to 1,290,000 bytes" in found[-1][0]
    assert not any(logs_of_memory(grows, shapes=((64, 8), (128, 8))))
    settles = [1_000_000 + 300_000 * min(log, 5) for log in range(3 * LEAK_LOGS)]
    noise = [1_000_000 + 100_000 * (log % 7) for log in range(3 * LEAK_LOGS)]
    creeps = [1_000_000 + 500 * log for log in range(LEAK_LOGS)]
    assert not any(map(any, (logs_of_memory(values) for values in (settles, noise, creeps))))


# The device


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A10G", None),
    ],
)
def test_peaks_by_name(name, teraflops):
    assert peak_flops(name) == (teraflops and teraflops * 1e12)


def test_mfu_is_what_the_catalog_counts_over_the_peak(train, monkeypatch):
    monkeypatch.setattr(health, "training_flops_per_token", lambda config, length: {"all": 1e6 * length})
    watch = train(prepare=lambda trainer: setattr(trainer.health.device, "peak_flops", 1e12))
    line = watch.lines[0]
    assert line["mfu"] == pytest.approx(line["tokens_per_second"] * 16e6 / 1e12, rel=1e-4)


def test_memory_that_is_taken_shows():
    device = Device(torch.device("cpu"))
    before = device.memory()
    taken = torch.ones(8_000_000)
    after = device.memory()
    assert 25e6 < after["host"] - before["host"] < 60e6 and after["host_peak"] >= after["host"] and len(taken)
