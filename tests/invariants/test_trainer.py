"""The stock Trainer trains and judges our model as it does Llama: the same losses, whatever it is told to do."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import yxanul


@pytest.fixture
def pair(tiny_model):
    """Our plain model, and Llama with the same weights."""
    yxanul.register()
    ours = tiny_model(initializer_range=0.2)
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    shape = {name: getattr(ours.config, name) for name in (*sizes, "num_key_value_heads", "max_position_embeddings")}
    llama = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True))
    llama.load_state_dict(ours.state_dict())
    return ours, llama


@pytest.fixture
def trainer(random_ids, tmp_path):
    def make(model, labels=lambda ids: ids, **changes):
        ids = random_ids(rows=6)
        rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels(ids), strict=True)]
        settings = {
            "output_dir": str(tmp_path),
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return Trainer(
            model=model, args=TrainingArguments(**(settings | changes)), train_dataset=rows, eval_dataset=rows
        )

    return make


def losses(trainer):
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def without_some(ids):
    """No label at all in the third row, none in the front of the others."""
    labels = ids.clone()
    labels[:, :4] = -100
    labels[2] = -100
    return labels


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"per_device_train_batch_size": 1, "max_steps": 6},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1, "max_steps": 2},
        {"label_smoothing_factor": 1e-6},
    ],
    ids=["plain", "a batch without labels", "accumulation", "label smoothing"],
)
def test_losses_are_those_of_llama(pair, trainer, changes):
    ours, llama = (losses(trainer(model, without_some, **changes)) for model in pair)
    assert ours == pytest.approx(llama, abs=2e-5)


def test_evaluation_gives_the_loss_of_llama(pair, trainer):
    ours, llama = (trainer(model, without_some).evaluate()["eval_loss"] for model in pair)
    assert ours == pytest.approx(llama, abs=1e-5)


def test_a_draft_by_the_first_layers_leaves_the_model_whole(tiny_model, random_ids):
    model = tiny_model(initializer_range=0.4)
    ids = random_ids(rows=1)
    greedy = model.generate(ids, max_new_tokens=8, do_sample=False)
    drafted = model.generate(ids, max_new_tokens=8, do_sample=False, assistant_early_exit=1)
    assert torch.equal(greedy, drafted) and model.config.num_hidden_layers == 3
