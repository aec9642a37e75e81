"""Activation checkpointing changes what a backward pass stores, nothing else, and takes the layers that we say.

Every n-th layer means (i + 1) % n == 0, through transformers' old argument names and, where it has them, its new ones.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

LAYERS = 6
NEW_NAMES = hasattr(PreTrainedModel, "activation_checkpointing_enable")
NAMES = pytest.mark.parametrize(
    "names",
    [
        "gradient",
        pytest.param(
            "activation",
            marks=pytest.mark.skipif(not NEW_NAMES, reason="this transformers knows only gradient_checkpointing_*"),
        ),
    ],
)
EVERY = pytest.mark.parametrize("every", [1, 2, 4])


@pytest.fixture
def model(tiny_model):
    """Dropout is on: a layer that is computed again must draw the same numbers again."""
    model = tiny_model("factorised-tied", num_hidden_layers=LAYERS, attention_dropout=0.1, initializer_range=0.2)
    return model.train()


def enable(model, names: str, every: int, *, among_kwargs: bool) -> None:
    kwargs = {"use_reentrant": False}
    if among_kwargs:
        turn_on = partial(getattr(model, f"{names}_checkpointing_enable"), kwargs | {"every_n_layers": every})
    else:
        turn_on = partial(getattr(model, f"{names}_checkpointing_enable"), kwargs, every_n_layers=every)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old names say in 5.23 that they will go
        turn_on()


@contextmanager
def counted_forwards(model) -> Iterator[list[int]]:
    """How often each layer computes: a checkpointed one does it a second time, in the backward pass."""
    counts = [0] * LAYERS

    def count(index: int, *_) -> None:
        counts[index] += 1

    hooks = [
        layer.input_layernorm.register_forward_hook(partial(count, index))
        for index, layer in enumerate(model.model.layers)
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def expected_forwards(every: int) -> list[int]:
    return [2 if (index + 1) % every == 0 else 1 for index in range(LAYERS)]


def step(model, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    model.zero_grad()
    loss = model(ids, labels=ids).loss  # use_cache at its default: a checkpointed layer must not fill a cache twice
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@EVERY
@NAMES
@pytest.mark.parametrize("among_kwargs", [True, False], ids=["among-kwargs", "as-argument"])
def test_checkpointed_layers_and_gradients(model, random_ids, names, every, among_kwargs):
    ids = random_ids()
    plain_loss, plain = step(model, ids)
    enable(model, names, every, among_kwargs=among_kwargs)
    with counted_forwards(model) as counts:
        loss, gradients = step(model, ids)
    assert counts == expected_forwards(every)
    assert torch.equal(loss, plain_loss)
    assert all(torch.equal(gradients[name], gradient) for name, gradient in plain.items())


@NAMES
def test_disabled_again_no_layer_is_checkpointed(model, random_ids, names):
    enable(model, names, 2, among_kwargs=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        getattr(model, f"{names}_checkpointing_disable")()
    with counted_forwards(model) as counts:
        step(model, random_ids())
    assert counts == [1] * LAYERS


@pytest.mark.parametrize("every", [None, 1, 2, 4])
@NAMES
def test_trainer_takes_the_same_steps_with_checkpointing(model, random_ids, tmp_path, names, every):
    losses, counts = trained(model, random_ids, tmp_path, {})
    assert counts == [4] * LAYERS
    asked = {f"{names}_checkpointing": True}
    if every is not None:
        asked[f"{names}_checkpointing_kwargs"] = {"use_reentrant": False, "every_n_layers": every}
    checkpointed_losses, counts = trained(model, random_ids, tmp_path, asked)
    assert counts == [4 * forwards for forwards in expected_forwards(every or 1)]
    assert checkpointed_losses == losses


def trained(model, random_ids, folder, arguments: dict) -> tuple[list[float], list[int]]:
    """Four steps of the real Trainer from seed 0: logged losses, and how often each layer computed."""
    model = copy.deepcopy(model)
    rows = [{"input_ids": row, "labels": row} for row in random_ids(rows=8)]
    options = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    trainer = Trainer(model=model, args=options, train_dataset=rows)
    with counted_forwards(model) as counts:
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], counts
