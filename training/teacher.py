"""The teacher of a distillation: any causal model with the run's tokenizer; checked before any work, loaded, counted.

    check_teacher(config)                               # configuration and tokenizer alone
    teacher = load_teacher(config, device, vocabulary)
    latent = teacher.read(batch)      # (tokens, width); teacher.logits(latent), which only tests form

Every process holds all of it; it learns nothing and is in no checkpoint. It attends by SDPA, in `distill_dtype`
whatever the run's precision. int8: the matrices of its layers, a scale for each row; activations are not quantised.
Not here: the loss (distillation.py).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yxanul.bad_input import BadInput
from yxanul.catalog import training_flops_per_token
from yxanul.data.bins import TokenBin
from yxanul.data.chat_templates import DEFAULT, add_tokens_of
from yxanul.data.tokenizers import Tokenizer, load_tokenizer
from yxanul.loss_yxanul import VOCABULARY_MULTIPLE, VOCABULARY_MULTIPLE_ELSEWHERE, _padded, apply_softcap
from yxanul.modeling_yxanul import YxanulFactorisedHead, YxanulForCausalLM, _positions_and_documents
from yxanul.training.config import RunConfig

LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
SLACK = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the largest logit, between two ways to compute the same


@dataclass(frozen=True)
class Teacher:
    model: Any  # without its head
    table: Tensor  # of the ids that the student has too, rows of zeros below
    known: int  # rows that are ids
    projection: Tensor | None  # to the width of the table, of a factorised head
    softcap: float | None
    description: str

    @torch.no_grad()
    def read(self, batch: dict[str, Any]) -> Tensor:
        ids = batch["input_ids"]
        options = {name: batch[name] for name in BOUNDS if name in batch}
        if options and self.model.config.model_type != "yxanul":  # transformers tells documents apart by positions
            options = {"position_ids": _positions_and_documents(batch["cu_seq_lens_q"], *ids.shape)[0]}
        with torch.autocast(ids.device.type, enabled=False):
            hidden = self.model(input_ids=ids, use_cache=False, **options).last_hidden_state.flatten(0, 1)
            return hidden if self.projection is None else hidden @ self.projection

    def logits(self, latent: Tensor) -> Tensor:
        return apply_softcap(latent @ self.table[: self.known].t(), self.softcap)


class Int8Linear(nn.Module):
    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.float()
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y = (nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale).to(x.dtype)
        return y if self.bias is None else y + self.bias


def check_teacher(config: RunConfig, token_bin: TokenBin | None = None) -> None:
    """`token_bin`: one of those that the run reads, where they are there already."""
    if config.distill_teacher is None:
        return
    text = _configuration(config).get_text_config()
    longest = max(phase.length for stage in config.plan().stages for phase in stage.phases)
    limit = next((getattr(text, name) for name in LENGTHS if getattr(text, name, None) is not None), longest)
    if limit < longest:
        raise _wrong(config, f"it takes {limit:,} tokens, and the plan's longest rows have {longest:,}: shorten them.")
    try:
        theirs = load_tokenizer(config.distill_teacher)
    except BadInput:  # weights without a tokenizer
        size = config.shape().config.vocab_size
        if text.vocab_size != size:
            message = f"it has no tokenizer, and its vocabulary of {text.vocab_size:,} ids is not the model's {size:,}"
            raise _wrong(config, f"{message}: take one that was trained with the run's tokenizer.") from None
        return
    ours, difference = _own_tokenizer(config), ""
    if ours is not None and not theirs.extends(ours):
        difference = ours.difference(theirs)
    elif ours is None and token_bin is not None:
        own = token_bin.manifest["tokenizer"]
        if own["fingerprint"] != theirs.fingerprint:
            sizes = f"{own['vocabulary_size']:,} ids, the teacher's {theirs.vocabulary_size:,}"
            difference = f"the bins' tokenizer {own['name']} has {sizes}, or other ones"
    if difference:
        raise _wrong(config, f"it reads text by other ids ({difference}): take one with the run's tokenizer.")


def _wrong(config: RunConfig, message: str) -> BadInput:
    return config.wrong(f"distill_teacher={config.distill_teacher}: {message}")


def _own_tokenizer(config: RunConfig) -> Tokenizer | None:
    """The run's; before that is made, the one that it will be made from, if any."""
    name, entry = config.tokenizer, config.data.get("tokenizer", {})
    if name is None or Path(name).exists() or not entry:
        return None if name is None else load_tokenizer(name)
    if "from" not in entry:
        return None
    found = load_tokenizer(entry["from"])
    add_tokens_of(entry.get("template", DEFAULT), found)
    return found


def _configuration(config: RunConfig) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    import yxanul

    yxanul.register()
    name = str(config.distill_teacher)
    try:
        found = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        here = "a folder without a config.json that transformers knows"
        nowhere = "no folder here, and no model on the Hub that can be reached and read"
        raise _wrong(config, f"it is {here if Path(name).is_dir() else nowhere}.") from None
    if type(found) not in AutoModelForCausalLM._model_mapping:
        raise _wrong(config, f"it is a {found.model_type}, which is no causal model.")
    return found


def teacher_dtype(config: RunConfig, on_gpu: bool) -> str:
    return config.distill_dtype if config.distill_dtype != "auto" else "bf16" if on_gpu else "fp32"


def _computes_in_fp32(dtype: str, on_gpu: bool) -> bool:
    return dtype == "fp32" or (dtype == "int8" and not on_gpu)


def load_teacher(config: RunConfig, device: torch.device, vocabulary: int) -> Teacher:
    """`vocabulary`: the student's rows. A teacher that would be read wrongly is refused."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    _configuration(config)
    dtype = teacher_dtype(config, device.type == "cuda")
    numbers = torch.float32 if _computes_in_fp32(dtype, device.type == "cuda") else torch.bfloat16
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(str(config.distill_teacher), dtype=numbers)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise _wrong(config, f"it cannot be loaded: {' '.join(str(error).split()).rstrip('.')}.") from None
    model = model.eval().requires_grad_(False).to(device)
    head, text = model.get_output_embeddings(), model.config.get_text_config()
    is_factorised = isinstance(head, YxanulFactorisedHead)
    table = head.embedding_weight if is_factorised else head.weight
    known = min(len(table), vocabulary)
    multiple = VOCABULARY_MULTIPLE.get(device.type, VOCABULARY_MULTIPLE_ELSEWHERE)
    teacher = Teacher(
        model=model.base_model,
        table=_padded(table[:known], -(-known // multiple) * multiple, numbers),
        known=known,
        projection=head.projection_weight if is_factorised else None,
        softcap=getattr(text, "final_logit_softcapping", None),
        description=f"{config.distill_teacher}, {model.num_parameters():,} parameters in {dtype}",
    )
    if not isinstance(model, YxanulForCausalLM):
        _check_reading(config, model, teacher)
    if dtype == "int8":
        _quantise(config, model.base_model)
    return teacher


@torch.no_grad()
def _check_reading(config: RunConfig, model: Any, teacher: Teacher) -> None:
    """Two documents in a row are what each is alone, and the head has neither a bias nor a scale."""
    ids = torch.arange(8, device=teacher.table.device)
    batch = {"input_ids": torch.cat((ids, ids.flip(0)))[None]}
    bounds = torch.tensor([0, 8, 16], device=ids.device)
    logits = model(ids.flip(0)[None], use_cache=False).logits[0, :, : teacher.known].float()
    packed = teacher.read(batch | ({"cu_seq_lens_q": bounds} if config.document_mask else {}))
    apart = teacher.read({"input_ids": ids.flip(0)[None]})
    slack = SLACK[teacher.table.dtype] * logits.abs().max()
    if (teacher.logits(apart).float() - logits).abs().max() > slack:
        raise _wrong(config, "its logits are not its last hidden state times its head's table: take another model.")
    if config.document_mask and (teacher.logits(packed)[8:].float() - logits).abs().max() > slack:
        raise _wrong(config, "its code lets documents in a row see each other: leave document_mask out.")


def _quantise(config: RunConfig, model: nn.Module) -> None:
    found = [(name, part) for name, part in model.named_modules() if type(part) is nn.Linear]
    if not found:
        raise _wrong(config, "it has no layers of nn.Linear: take distill_dtype=bf16 or fp32.")
    for name, part in found:
        above, _, own = name.rpartition(".")
        setattr(model.get_submodule(above), own, Int8Linear(part))


class Costs(NamedTuple):
    parameters: int
    weights: int  # bytes
    latent: int  # bytes of what is kept of a token, and
    passing: int  # of what is there of it inside of a layer
    flops: Callable[[int], int]  # of a forward pass, for a token in rows of that length


def costs(config: RunConfig, on_gpu: bool) -> Costs:
    """By arithmetic, from a model without memory."""
    _configuration(config)
    dtype = teacher_dtype(config, on_gpu)
    return _costs(str(config.distill_teacher), dtype, 4 if _computes_in_fp32(dtype, on_gpu) else 2)


@functools.cache
def _costs(name: str, dtype: str, each: int) -> Costs:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = AutoConfig.from_pretrained(name)
    text = shape.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    layers = sum(part.weight.numel() for part in model.base_model.modules() if type(part) is nn.Linear)
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    matrices = {id(part): part.numel() for part in model.parameters() if part.ndim == 2}
    if all(part is not inputs.weight for part in head.parameters()):
        del matrices[id(inputs.weight)]  # rows of it are copied; a tied one is multiplied by in the head
    wide = getattr(text, "intermediate_size", None) or 4 * text.hidden_size

    def flops(length: int) -> int:
        if shape.model_type == "yxanul":
            return sum(training_flops_per_token(shape, length).values()) // 3
        return 2 * sum(matrices.values()) + 2 * text.num_hidden_layers * text.hidden_size * length

    numbers = model.num_parameters()
    weights = each * numbers - ((each - 1) * layers if dtype == "int8" else 0)
    return Costs(numbers, weights, each * text.hidden_size, each * (2 * text.hidden_size + 3 * wide), flops)
