"""A step that does not log never waits for the device: shown on torch's meta device, whose values no host can read.

The real Trainer trains on it, with a run's callbacks. Whatever would wait on a GPU for a value (`item`, `bool`,
`tolist`, a copy to the host, `nonzero`, an index by a mask) raises there; copies from the host that would be waited
for are collected. On the CPU every value can be read, so there the reads are counted.
Not here: kernels, DDP, FSDP2, allocators. What was read of them stands in docs/benchmarks/engine.md.
"""

import importlib
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from yxanul import loss_yxanul
from yxanul.run_folder import RunFolder
from yxanul.training import callbacks, session
from yxanul.training.beginning import Beginning
from yxanul.training.config import read_config
from yxanul.training.inputs import open_stream
from yxanul.training.model import build_on_meta
from yxanul.training.ranks import Ranks
from yxanul.training.training_arguments import training_arguments

LOGGING_STEPS = 5
META = torch.device("meta")
READ = torch.ops.aten._local_scalar_dense
COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)


class EnoughSteps(Exception):
    pass


class Operators(TorchDispatchMode):
    """Values of the device that the host reads, and copies to it that the host would wait for."""

    def __init__(self, device, note):
        super().__init__()
        self.device, self.note = device, note

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = operator(*args, **kwargs)
        if operator.overloadpacket is READ and args[0].device == self.device:
            self.note("a read")
        if operator.overloadpacket in COPIES and not kwargs.get("non_blocking", False):
            source = args[0] if operator.overloadpacket is COPIES[0] else args[1]
            if source.device != self.device and made.device == self.device:
                self.note("a copy")
        return made


class NumbersToTensors(TorchFunctionMode):
    """What the host holds and makes a tensor on the device of: a copy too, which the dispatcher does not show."""

    def __init__(self, device, note):
        super().__init__()
        self.device, self.note = device, note

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor, torch.asarray):
            was_there = isinstance(args[0], torch.Tensor) and args[0].device == self.device
            if made.device == self.device != torch.device("cpu") and not was_there:
                self.note(f"a copy by {function.__name__}")
        return made


@pytest.fixture
def train(run, tmp_path, monkeypatch):
    """`train(device, steps, **changes)`: the steps that were done, what ended them, and the waits of each step."""
    monkeypatch.setattr(callbacks.signal, "signal", lambda *_: None)
    adam = importlib.import_module("torch.optim.adam")  # torch.optim hides it
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda parameter: None)  # meta has the operator too
    monkeypatch.setattr("torch.nn.utils.clip_grad._has_foreach_support", lambda tensors, device: True)  # as a GPU

    def make(device, steps, **changes):
        changes |= {"logging_steps": LOGGING_STEPS, "save_steps": 2 * LOGGING_STEPS, "validation": None}
        config = read_config(run(**changes).recipe, [])
        plan, folder = config.plan(), RunFolder(tmp_path / "run")
        args = training_arguments(config, plan, folder, 1)
        if device == META:
            monkeypatch.setattr(session.model, "build", lambda config, with_weights: build_on_meta(config))
            monkeypatch.setattr(session.YxanulTrainer, "_autocast", lambda trainer: nullcontext())  # meta has none
            monkeypatch.setitem(PartialState._shared_state, "device", META)
            args.__dict__["_setup_devices"] = META
        stream = open_stream(config, plan, config.shape().config)
        begin = Beginning(None, 0, plan.steps)
        trainer = session.Session(config, folder, args, Ranks(args.ddp_timeout), stream, {}, begin).trainer
        assert trainer.args.device == trainer.accelerator.device == trainer.model.device == device

        class StopAfter(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == steps:
                    raise EnoughSteps

        for callback in (callbacks.CurriculumCallback(trainer, plan.steps), callbacks.StopSignals(trainer)):
            trainer.add_callback(callback)
        trainer.add_callback(StopAfter())
        waits = {}

        def note(what):
            waits.setdefault(trainer.state.global_step, []).append(what)

        with Operators(device, note), NumbersToTensors(device, note):
            try:
                trainer.train()
            except (EnoughSteps, RuntimeError) as error:
                ended_by = error
        return SimpleNamespace(steps=trainer.state.global_step, ended_by=ended_by, waits=waits)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)  # it has copied the device


CASES = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "checkpointed activations": {"activation_checkpointing": True},
    "no guard": {"skip_above": 0},
    "muon": {"optimizer": "muon"},
    "document mask": {"document_mask": True},
}


def assert_no_wait(done):
    if not isinstance(done.ended_by, EnoughSteps):
        raise done.ended_by
    # before the first step the Trainer makes a tensor to sum losses in
    assert done.steps == LOGGING_STEPS - 1 and done.waits == {0: ["a copy by tensor"]}


@pytest.mark.parametrize("name", CASES)
def test_steps_that_do_not_log_wait_for_nothing(train, name):
    assert_no_wait(train(META, LOGGING_STEPS - 1, **CASES[name]))


@pytest.mark.parametrize("change", [{"embedding_rank": 16}, {"learned_position_embeddings": True}])
def test_so_for_other_embeddings(train, small_shape, change):
    assert_no_wait(train(META, LOGGING_STEPS - 1, model_config=small_shape | change))


def test_a_step_that_logs_waits(train):
    done = train(META, LOGGING_STEPS + 1)
    assert done.steps == LOGGING_STEPS and "meta" in str(done.ended_by)


def test_on_the_cpu_a_value_is_read_where_a_step_logs_and_nowhere_else(train):
    done = train(torch.device("cpu"), LOGGING_STEPS + 2)
    assert isinstance(done.ended_by, EnoughSteps)
    assert {step: waits for step, waits in done.waits.items() if step > 0} == {LOGGING_STEPS: ["a read"] * 2}


@pytest.mark.parametrize("softcap, z_loss", [(0.0, 0.0), (30.0, 1e-4)])
def test_the_loss_operator_reads_targets_on_the_cpu_alone(softcap, z_loss):
    """The tests above do not look inside of it. On the CPU it reads the least and the largest target."""

    def waits_on(device):
        waits = []
        device = torch.device(device)
        latent, weight = torch.zeros(20, 16, device=device), torch.zeros(61, 16, device=device)
        targets, row_weights = torch.zeros(20, dtype=torch.long, device=device), torch.ones(20, device=device)
        with Operators(device, waits.append), NumbersToTensors(device, waits.append):
            loss_yxanul._chunked_loss._init_fn(
                latent, weight, targets, row_weights, z_loss, softcap, 8, 128, False, True, True
            )
        return waits

    assert waits_on("meta") == [] and waits_on("cpu") == ["a read"] * 2
