"""How a Yxanul model computes: a Llama-shaped decoder with optional factorised embeddings and learned positions.

Submodules carry Llama's names, so tools that go by them find ours, and a Llama checkpoint without biases loads as the
plain variant. In training with labels the model returns the loss and no logits (`return_logits=True` asks for them);
in evaluation, and without labels, it returns logits as every model of the library does.
Not here: precision and kernels beyond torch's own (switches of a run), checks of values that live on a GPU.
This file travels to the Hub with every checkpoint and imports nothing but torch and transformers.

Shapes: B batch, T time, D hidden, H query heads, K key/value heads, d head size, R embedding rank, V vocabulary.
"""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, initialization
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, eager_attention_forward
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_yxanul import YxanulConfig
from .loss_yxanul import TokenLoss, apply_softcap, cross_entropy, linear_cross_entropy

HUB_FILES = ("configuration_yxanul.py", "modeling_yxanul.py", "loss_yxanul.py")
AUTO_MAP = {
    "AutoConfig": "configuration_yxanul.YxanulConfig",
    "AutoModel": "modeling_yxanul.YxanulModel",
    "AutoModelForCausalLM": "modeling_yxanul.YxanulForCausalLM",
    "AutoModelForSequenceClassification": "modeling_yxanul.YxanulForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_yxanul.YxanulForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_yxanul.YxanulForQuestionAnswering",
}


class YxanulRMSNorm(nn.Module):
    """Bit-equal to Llama's in fp32; in bf16 it rounds once where Llama rounds twice, so it is closer to fp32."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        device = hidden_states.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return self._normed(hidden_states)
        # Cast once, and not in each matrix that reads it. A GPU's autocast in torch 2.13, not in 2.11, would compute
        # and keep all of it in fp32.
        with torch.autocast(device, enabled=False):
            return self._normed(hidden_states).to(torch.get_autocast_dtype(device))

    def _normed(self, hidden_states: Tensor) -> Tensor:
        # the cast keeps torch's fused kernel: mixed dtypes fall back to a chain of small ones
        weight = self.weight.to(hidden_states.dtype)
        return nn.functional.rms_norm(hidden_states, weight.shape, weight, self.variance_epsilon)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class YxanulRotaryEmbedding(LlamaRotaryEmbedding):
    """Llama's frequencies and every scaling of `rope_parameters`; one half of the table, for the halves are equal."""

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, hidden_states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq.to(position_ids.device, torch.float)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)  # (B, T, d / 2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "YxanulRotaryEmbedding":
        """Moves, but never casts: frequencies in bf16 would turn far positions by wrong angles."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


def rotate(states_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on the two halves of a head: the same sums as Llama's, without its negated and concatenated copy."""
    first, second = states_BHTd.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(states_BHTd.dtype)  # under autocast the angles may be fp32, and kernels take what values are


class YxanulAttention(nn.Module):
    """Grouped-query attention through the library's interface: eager, SDPA, flex, flash 2 to 4."""

    def __init__(self, config: YxanulConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        self.q_proj = nn.Linear(config.hidden_size, config.query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.key_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.key_width, bias=False)
        self.o_proj = nn.Linear(config.query_width, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch_and_time = hidden_states.shape[:-1]
        per_head = (*batch_and_time, -1, self.head_dim)
        q_BHTd = rotate(self.q_proj(hidden_states).view(per_head).transpose(1, 2), *position_embeddings)
        k_BKTd = rotate(self.k_proj(hidden_states).view(per_head).transpose(1, 2), *position_embeddings)
        v_BKTd = self.v_proj(hidden_states).view(per_head).transpose(1, 2)
        if past_key_values is not None:
            k_BKTd, v_BKTd = past_key_values.update(k_BKTd, v_BKTd, self.layer_idx)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, attention_weights = attend(
            self,
            q_BHTd,
            k_BKTd,
            v_BKTd,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.reshape(*batch_and_time, -1)), attention_weights


class YxanulMLP(nn.Module):
    """Gated feed-forward block: SwiGLU or GEGLU, by `hidden_act`."""

    def __init__(self, config: YxanulConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class YxanulDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: YxanulConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = YxanulAttention(config, layer_idx)
        self.mlp = YxanulMLP(config)
        self.input_layernorm = YxanulRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = YxanulRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class YxanulEmbeddingProjection(nn.Module):
    """R -> D, behind a table of width R. No nn.Linear, so that quantisers and LoRA's `all-linear` leave it alone."""

    def __init__(self, rank: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, rank))

    def forward(self, latent: Tensor) -> Tensor:
        return nn.functional.linear(latent, self.weight)


class YxanulHead(nn.Linear):
    """The output head: logits or, given targets, their loss without forming them.

    The loss runs inside `forward` so that whatever gathers a module's weights around its forward (FSDP2, ZeRO-3)
    gathers what the loss reads.
    """

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__(hidden_size, vocab_size, bias=False)

    def forward(self, hidden_states: Tensor, targets: Tensor | None = None, **loss_options: Any) -> Tensor | TokenLoss:
        if targets is None:
            return nn.functional.linear(hidden_states, self.weight)
        return linear_cross_entropy(hidden_states, self.weight, targets, **loss_options)


class _ComputedWeight(Tensor):
    """A product that is gone after use: what PEFT's merge writes into `weight.data` must not vanish in silence."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:
        return self.as_subclass(Tensor).detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        raise ValueError(
            "lm_head.weight is computed from the tied factors, so nothing can be merged into it: leave lm_head out of "
            "the adapter's target_modules, or keep the adapter apart."
        )


class YxanulFactorisedHead(YxanulHead):
    """The tied factors run backwards: D -> R by the projection's transpose, then R -> V by the table."""

    def __init__(self, hidden_size: int, vocab_size: int, rank: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = hidden_size, vocab_size
        self.register_parameter("bias", None)
        self.embedding_weight = nn.Parameter(torch.empty(vocab_size, rank))
        self.projection_weight = nn.Parameter(torch.empty(hidden_size, rank))

    @property
    def weight(self) -> Tensor:
        """The V x D matrix for tools that multiply by it themselves, TRL for one. Big: our own code never asks."""
        product = nn.functional.linear(self.embedding_weight, self.projection_weight)
        return product if isinstance(product, DTensor) else product.as_subclass(_ComputedWeight)  # FSDP2 looks at it

    def forward(self, hidden_states: Tensor, targets: Tensor | None = None, **loss_options: Any) -> Tensor | TokenLoss:
        projection_weight: Tensor = self.projection_weight
        if isinstance(hidden_states, DTensor):  # tensor parallelism splits the table; the projection stays whole
            mesh = hidden_states.device_mesh
            projection_weight = DTensor.from_local(projection_weight, mesh, [Replicate()], run_check=False)
        latent = nn.functional.linear(hidden_states, projection_weight.t())
        if targets is None:
            return nn.functional.linear(latent, self.embedding_weight)
        return linear_cross_entropy(latent, self.embedding_weight, targets, **loss_options)


class YxanulPreTrainedModel(PreTrainedModel):
    config_class = YxanulConfig
    config: YxanulConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["YxanulDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": YxanulDecoderLayer, "attentions": YxanulAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Every matrix N(0, initializer_range), norms 1, as Llama.

        A factorised table also gets N(0, initializer_range) and its projection N(0, 1 / R): an entry of their product,
        a sum of R terms, then has the standard deviation initializer_range that a plain table's entry has.
        """
        if isinstance(module, YxanulEmbeddingProjection):
            initialization.normal_(module.weight, mean=0.0, std=module.weight.shape[1] ** -0.5)
        elif not isinstance(module, YxanulFactorisedHead):  # whose factors are tied to those that are initialised here
            super()._init_weights(module)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        """Checkpoints the layers with (i + 1) % every_n_layers == 0; the library's own choice is 0, n, 2n."""
        if isinstance(gradient_checkpointing_func, functools.partial):  # given among the other checkpointing arguments
            every_n_layers = gradient_checkpointing_func.keywords.pop("every_n_layers", every_n_layers)
        if not isinstance(every_n_layers, int) or not 1 <= every_n_layers <= self.config.num_hidden_layers:
            raise ValueError(
                f"every_n_layers={every_n_layers!r} must be a whole number from 1 to the model's "
                f"{self.config.num_hidden_layers} layers."
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func)
        layers = [module for module in self.modules() if isinstance(module, YxanulDecoderLayer)]
        for index, layer in enumerate(layers):
            layer.gradient_checkpointing = enable and (index + 1) % every_n_layers == 0

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """The library warns and goes on untied when a checkpoint holds two different tensors for one tie."""
        if missing_keys is not None:  # only while a checkpoint is loaded
            self._refuse_different_ties(missing_keys)
        super().tie_weights(missing_keys=missing_keys, recompute_mapping=recompute_mapping)

    def _refuse_different_ties(self, missing_keys: set[str]) -> None:
        for target, source in self.all_tied_weights_keys.items():
            if target in missing_keys or source in missing_keys:
                continue
            one, other = self.get_parameter(target), self.get_parameter(source)
            if "meta" not in (one.device.type, other.device.type) and not torch.equal(one, other):
                raise ValueError(
                    f"The checkpoint holds {target} and {source} with different values, but its config ties them "
                    "(tie_word_embeddings=True). Load it with tie_word_embeddings=False to keep both, or remove "
                    f"{target} from the file to keep {source} alone."
                )

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to do: `save_pretrained` writes the code and the whole `auto_map`.

        The library's own way copies the file in which the saved class was made. Under FSDP2 that is a file of torch's,
        and the checkpoint does not load.
        """

    def save_pretrained(self, save_directory: str | Path, is_main_process: bool = True, **kwargs: Any) -> None:
        """As the library's, and beside the weights the three code files and the map that the Auto classes read."""
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            _copy_hub_files(save_directory)

    def _upload_modified_files(self, working_dir: str | Path, *args: Any, **kwargs: Any) -> Any:
        """`save_pretrained(push_to_hub=True)` uploads before it returns."""
        _copy_hub_files(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)


def _copy_hub_files(folder: str | Path) -> None:
    for name in HUB_FILES:
        shutil.copyfile(Path(__file__).with_name(name), Path(folder, name))


class YxanulModel(YxanulPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: YxanulConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size, config.pad_token_id)
        if config.embedding_rank is not None:
            self.embed_proj = YxanulEmbeddingProjection(config.embedding_rank, config.hidden_size)
        if config.learned_position_embeddings:
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList([YxanulDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = YxanulRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = YxanulRotaryEmbedding(config=config)  # type: ignore[arg-type]
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """`inputs_embeds` come at the width of the embedding table, or at the hidden size.

        Rows that hold several documents say so by `position_ids` that restart, or by `cu_seq_lens_q`, and then come
        without an attention mask and without a cache of the caller's: with either, positions tell no documents apart.
        Without all of these a batch is plain causal and keeps the flash path.
        """
        hidden_states = self._embed(input_ids, inputs_embeds)
        length, seen = hidden_states.shape[1], past_key_values.get_seq_length() if past_key_values is not None else 0
        documents = None
        if kwargs.get("cu_seq_lens_q") is not None and kwargs.get("cache") is None:  # a paged cache brings positions
            if attention_mask is not None or past_key_values is not None:
                raise ValueError(
                    "cu_seq_lens_q excludes an attention_mask and a cache of the caller's: documents are told apart "
                    "in one pass over rows without padding."
                )
            position_ids, documents = _positions_and_documents(kwargs["cu_seq_lens_q"], *hidden_states.shape[:2])
        # Positions made here tell nothing that mask and layers do not know, so they are not passed on: flash attention
        # would look for documents in them in every layer, with a wait for the device each time.
        positions = position_ids
        if positions is None:
            positions = (torch.arange(length, device=hidden_states.device) + seen).unsqueeze(0)
        if self.config.learned_position_embeddings:
            self._check_positions(position_ids, last=seen + length - 1)
            hidden_states = hidden_states + self.embed_positions(positions)

        # The mask comes before the cache: packed documents are only looked for where there is none.
        causal_mask = self._causal_mask(hidden_states, attention_mask, past_key_values, position_ids, documents)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        cos, sin = self.rotary_emb(hidden_states, position_ids=positions)
        position_embeddings = cos.unsqueeze(1), sin.unsqueeze(1)  # (B, 1, T, d / 2): the same for every head
        for layer in self.layers[: self.config.num_hidden_layers]:  # drafts by early exit shorten the config
            hidden_states = layer(
                hidden_states,
                attention_mask=causal_mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"Give either input_ids or inputs_embeds; {given} came.")
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if self.config.embedding_rank is not None and embedded.shape[-1] == self.config.embedding_rank:
            return self.embed_proj(embedded)
        if embedded.shape[-1] != self.config.hidden_size:
            widths = sorted({self.config.embedding_size, self.config.hidden_size})
            raise ValueError(f"inputs_embeds are {embedded.shape[-1]} wide; this model takes {widths}.")
        return embedded

    def _check_positions(self, position_ids: Tensor | None, last: int | Tensor) -> None:
        """Only numbers that the host has: reading a GPU's would wait for it, and in a graph it would break it.

        There the learned table's own assertion stops the program.
        """
        if position_ids is not None:
            on_host = position_ids.device.type == "cpu" and not torch.compiler.is_compiling()
            last = int(position_ids.max()) if on_host else 0
        size = self.config.max_position_embeddings
        if isinstance(last, int) and last >= size:
            raise ValueError(
                f"Position {last} is past the learned table of max_position_embeddings={size}: shorten the input to "
                f"{size} tokens; learned positions cannot be extended as RoPE can."
            )

    def _causal_mask(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        position_ids: Tensor | None,
        documents: Tensor | None,
    ) -> Any:
        apart: Callable | None = None
        if documents is not None:  # they need not be looked for in the positions, which would wait for the device
            position_ids, apart = None, lambda batch, head, q, k: documents[batch, q] == documents[batch, k]
        plain_causal = attention_mask is position_ids is past_key_values is apart is None
        exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
        if plain_causal and self.config._attn_implementation == "sdpa" and not exporting:
            # transformers 5.17 makes a 4D mask under torch.compile (seen with torch 2.11) and loses the flash path
            return None
        return create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
            and_mask_function=apart,
        )


def _positions_and_documents(cu_seq_lens: Tensor, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Of every token, where documents begin at cu_seq_lens (0, 3, 7, ...), counted through all rows end to end."""
    tokens = torch.arange(rows * length, device=cu_seq_lens.device)
    documents = torch.searchsorted(cu_seq_lens, tokens.to(cu_seq_lens.dtype), right=True) - 1
    return (tokens - cu_seq_lens[documents]).view(rows, length), documents.view(rows, length)


@dataclass
class YxanulCausalLMOutput(CausalLMOutputWithPast):
    token_losses: Tensor | None = None  # cross-entropy of each target, 0 where ignored, no gradient; given with labels
    token_correct: Tensor | None = None  # is the target the largest logit? False where ignored; on request
    token_entropy: Tensor | None = None  # of every n-th prediction, on request; 0 elsewhere
    token_confidence: Tensor | None = None  # the largest probability of each, on the same request; 0 where ignored


class YxanulForCausalLM(YxanulPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: YxanulConfig) -> None:
        super().__init__(config)
        self.model = YxanulModel(config)
        if config.embedding_rank is not None and config.tie_word_embeddings:
            self.lm_head: nn.Module = YxanulFactorisedHead(
                config.hidden_size, config.vocab_size, config.embedding_rank
            )
            self._tied_weights_keys = {
                "lm_head.embedding_weight": "model.embed_tokens.weight",
                "lm_head.projection_weight": "model.embed_proj.weight",
            }
        else:
            self.lm_head = YxanulHead(config.hidden_size, config.vocab_size)
        self.post_init()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Resizing makes a bare nn.Linear; the loss wants our head around its weight."""
        if type(new_embeddings) is nn.Linear and new_embeddings.bias is None:
            with torch.device("meta"):
                head = YxanulHead(new_embeddings.in_features, new_embeddings.out_features)
            head.weight = new_embeddings.weight
            head._is_hf_initialized = True  # else a later post_init() would draw its weights anew
            new_embeddings = head
        self.lm_head = new_embeddings

    def save_pretrained(self, save_directory: str | Path, is_main_process: bool = True, **kwargs: Any) -> None:
        if isinstance(self.lm_head, YxanulFactorisedHead):
            # PEFT's merge compares the addresses of the two `weight`s and takes the factorised head for untied
            self.config.tie_word_embeddings = True
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        token_weights: Tensor | None = None,
        z_loss: float = 0.0,
        return_logits: bool | None = None,
        return_correct: bool = False,
        entropy_every: int = 0,
        compiled_loss: bool = False,
        **kwargs: Any,
    ) -> YxanulCausalLMOutput:
        """`labels` are shifted here, `shift_labels` came shifted and win; -100 is ignored.

        The loss is the sum over targets divided by `num_items_in_batch`, by default by the number of targets.
        `token_weights`, shaped and shifted like the labels, weigh each target; `z_loss` is its coefficient.
        `return_correct` also tells for each target whether a greedy guess hits it, `entropy_every` n the
        entropy of every n-th prediction and the largest probability of each; neither forms logits for it.
        `compiled_loss` lets torch make one kernel of what is between the loss's matrix products: for GPUs.
        """
        # no parameter by name: Trainer takes every one with "label" in it for an input that evaluation must have
        shift_labels: Tensor | None = kwargs.pop("shift_labels", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        targets = _targets(labels, shift_labels, hidden_states, logits_to_keep)
        if return_logits is None:
            return_logits = targets is None or not self.training
        # a head that something wrapped or split (LoRA, tensor parallelism) gives logits, but not our loss
        head_gives_loss = isinstance(self.lm_head, YxanulHead) and self._tp_size is None
        logits = None
        if return_logits or not head_gives_loss:
            logits = self.lm_head(_positions_to_keep(hidden_states, logits_to_keep))
            logits = apply_softcap(logits, self.config.final_logit_softcapping)
        found = None
        if targets is not None:
            options: dict[str, Any] = {"num_items": num_items_in_batch, "z_loss": z_loss}
            options |= {"return_correct": return_correct, "entropy_every": entropy_every}
            if token_weights is not None:
                if token_weights.shape != targets.shape:
                    raise ValueError(
                        f"token_weights have shape {tuple(token_weights.shape)}, the labels {tuple(targets.shape)}: "
                        "give one weight for each label."
                    )
                options["token_weights"] = token_weights if shift_labels is not None else _shift(token_weights, 0)
            if logits is not None:
                targets = targets.to(logits.device)  # of a model that is split over devices
                found = cross_entropy(logits, targets, **options)
            else:
                options |= {"softcap": self.config.final_logit_softcapping, "compiled": compiled_loss}
                found = self.lm_head(hidden_states, targets, **options)
        return YxanulCausalLMOutput(
            logits=logits if return_logits else None,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **({} if found is None else found._asdict()),
        )


def _shift(values: Tensor, fill: int) -> Tensor:
    return nn.functional.pad(values[..., 1:], (0, 1), value=fill)


def _targets(
    labels: Tensor | None, shift_labels: Tensor | None, hidden_states: Tensor, logits_to_keep: int | Tensor
) -> Tensor | None:
    given, name = (labels, "labels") if shift_labels is None else (shift_labels, "shift_labels")
    if given is None:
        return None
    if given.shape != hidden_states.shape[:-1]:
        raise ValueError(
            f"{name} have shape {tuple(given.shape)}, the input {tuple(hidden_states.shape[:-1])}: "
            "give one label for each token, -100 where it should not count."
        )
    if not isinstance(logits_to_keep, int) or logits_to_keep:
        raise ValueError("logits_to_keep and labels exclude each other: the loss reads every position.")
    return _shift(given, -100) if shift_labels is None else given


def _positions_to_keep(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """An int keeps the last positions (0: all), a tensor lists them: one list for all rows, or one for each."""
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:] if logits_to_keep else hidden_states
    if logits_to_keep.ndim == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return torch.take_along_dim(hidden_states, logits_to_keep[..., None], dim=1)


class _RegistersBackbone:
    """The library's generic heads build their backbone through AutoModel, which must know this very config class.

    A checkpoint's own code is loaded as two modules, each with its copy of the config class; so the class to register
    is the one that came, at the moment it comes.
    """

    def __init__(self, config: YxanulConfig) -> None:
        AutoModel.register(type(config), YxanulModel, exist_ok=True)
        super().__init__(config)  # type: ignore[call-arg]


class YxanulForSequenceClassification(_RegistersBackbone, GenericForSequenceClassification, YxanulPreTrainedModel): ...


class YxanulForTokenClassification(_RegistersBackbone, GenericForTokenClassification, YxanulPreTrainedModel): ...


class YxanulForQuestionAnswering(_RegistersBackbone, GenericForQuestionAnswering, YxanulPreTrainedModel): ...


__all__ = [
    "YxanulForCausalLM",
    "YxanulForQuestionAnswering",
    "YxanulForSequenceClassification",
    "YxanulForTokenClassification",
    "YxanulModel",
    "YxanulPreTrainedModel",
]
