"""PEFT and TRL take a Yxanul model as they take any other: adapters train, load and merge, and SFT's loss is ours.

The tokenizer is made here, from a few sentences. Not here: our own training (tests/training/).
"""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments

from yxanul import YxanulForCausalLM

peft = pytest.importorskip("peft")
MODELS = pytest.mark.parametrize("layout", ["plain-tied", "factorised-tied", "factorised-untied"])
# modules that each choice must hit, in every layer
TARGETS = {
    "query-and-value": (["q_proj", "v_proj"], {"self_attn.q_proj", "self_attn.v_proj"}),
    "all-linear": (
        "all-linear",
        {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")},
    ),
}
TEXTS = [
    "the cat sat on the mat",
    "a dog ran after the cat and the cat ran up a tree",
    "the tree stood by the sea",
    "on the sea a ship sat",
]


def arguments(folder, **changes) -> dict:
    return {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    } | changes


def logged_losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def adapted(tiny_model, layout):
    def make(targets="all-linear"):
        return peft.get_peft_model(
            tiny_model(layout, initializer_range=0.2),
            peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"),
        )

    return make


@pytest.fixture
def train(random_ids, tmp_path):
    """Four steps of the real Trainer on four rows, the same in every step."""

    def run(model, **changes):
        rows = [{"input_ids": row, "labels": row} for row in random_ids(rows=4)]
        trainer = Trainer(model=model, args=TrainingArguments(**arguments(tmp_path, **changes)), train_dataset=rows)
        trainer.train()
        return logged_losses(trainer)

    return run


@MODELS
@pytest.mark.parametrize("targets", TARGETS)
def test_adapters_sit_on_the_layers_alone(adapted, targets):
    """Embedding, its projection and head keep their weights, so ties and the loss without logits stay."""
    choice, expected = TARGETS[targets]
    model = adapted(choice)
    adapter = ".lora_A.default"
    hit = {name.removesuffix(adapter) for name, _ in model.named_modules() if name.endswith(adapter)}
    assert hit == {f"base_model.model.model.layers.{layer}.{name}" for layer in range(3) for name in expected}
    ids = torch.arange(3, 9)[None]
    assert model.train()(input_ids=ids, labels=ids).logits is None


@MODELS
@pytest.mark.parametrize("targets", TARGETS)
def test_adapters_train_reload_and_merge(adapted, train, random_ids, tiny_model, tmp_path, layout, targets):
    model, ids = adapted(TARGETS[targets][0]), random_ids(seed=1)
    base = tiny_model(layout, initializer_range=0.2)
    losses = train(model)
    assert losses[-1] < losses[0] - 0.1
    with torch.no_grad():
        trained = model.eval()(input_ids=ids).logits
        assert (trained - base(ids).logits).abs().max() > 0.1, "an adapter that does nothing reloads and merges well"
        model.save_pretrained(tmp_path / "adapter")
        reloaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        torch.testing.assert_close(reloaded(input_ids=ids).logits, trained, rtol=0, atol=1e-4)
        merged = model.merge_and_unload()
        assert type(merged) is YxanulForCausalLM
        torch.testing.assert_close(merged(ids).logits, trained, rtol=0, atol=1e-3)
        merged.save_pretrained(tmp_path / "merged")
        loaded = YxanulForCausalLM.from_pretrained(tmp_path / "merged").eval()
        assert torch.equal(loaded(ids).logits, merged(ids).logits)


@MODELS
@pytest.mark.parametrize("every", [1, 2])
def test_adapters_train_the_same_with_activation_checkpointing(adapted, train, every):
    """The base is frozen: checkpointed layers learn only if their input asks for gradients."""
    plain = train(adapted())
    kwargs = {"use_reentrant": False, "every_n_layers": every}
    assert train(adapted(), gradient_checkpointing=True, gradient_checkpointing_kwargs=kwargs) == plain
    assert plain[-1] < plain[0] - 0.1


@MODELS
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_adapters_of_embedding_and_head_learn(tiny_model, train, layout, target):
    """Behind an adapter the head is not ours any more, and the loss comes from its logits."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[target], task_type="CAUSAL_LM")
    losses = train(peft.get_peft_model(tiny_model(layout, initializer_range=0.2), config))
    assert losses[-1] < losses[0] - 0.01


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in TEXTS for word in text.split()})
    ids = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    words_to_ids = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words_to_ids.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words_to_ids, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@MODELS
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("lora", [False, True], ids=["all-weights", "lora"])
def test_sft_trainer_logs_our_loss_and_learns(tiny_model, tokenizer, tmp_path, layout, packing, lora):
    """TRL multiplies by `get_output_embeddings().weight` in a loss of its own; its figure must be that of each text
    alone, by our loss."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    model = tiny_model(layout, initializer_range=0.2, final_logit_softcapping=10.0)
    expected = mean_loss_of_each_text_alone(copy.deepcopy(model), tokenizer)
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**arguments(tmp_path, bf16=False, packing=packing, max_length=32)),
        train_dataset=datasets.Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear") if lora else None,
    )
    assert len(trainer.train_dataset) == (2 if packing else 4)
    trainer.train()
    losses = logged_losses(trainer)
    assert losses[0] == pytest.approx(expected, abs=1e-5)
    assert losses[-1] < losses[0] - 0.1


def mean_loss_of_each_text_alone(model, tokenizer) -> float:
    total = targets = 0
    for text in TEXTS:
        ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
        total += model(ids, labels=ids).token_losses.sum().item()
        targets += ids.shape[1] - 1
    return total / targets


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("layout", ["factorised-tied"])
def test_an_adapter_of_a_computed_head_is_refused_at_the_merge_and_not_lost(adapted, layout, safe):
    model = adapted(["lm_head"])
    with pytest.raises(ValueError, match="lm_head.weight is computed from the tied factors"):
        model.merge_and_unload(safe_merge=safe)
