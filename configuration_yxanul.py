"""What a Yxanul model is: one strict config class for the whole family, in Hugging Face vocabulary.

Two fields are ours: `embedding_rank` (factorised embeddings) and `learned_position_embeddings`. Nothing about
precision or speed is stored here, so a checkpoint is the same file whatever it was trained with. This file travels to
the Hub with every checkpoint: it imports nothing but transformers and huggingface_hub.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

NUMBER_IN_YAML = "write it without quotes and, in YAML, with a dot (1.0e-6: YAML reads 1e-6 as a string)"
# silu makes the feed-forward block a SwiGLU, the other two a GEGLU (exact, or with tanh)
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")


@strict
class YxanulConfig(PreTrainedConfig):
    """The shape of a model. `presets/` holds the family's members, one YAML each."""

    model_type = "yxanul"
    keys_to_ignore_at_inference = [
        "past_key_values",
        "token_losses",
        "token_correct",
        "token_entropy",
        "token_confidence",
    ]
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 50257
    hidden_size: int = 768
    intermediate_size: int = 2048
    num_hidden_layers: int = 28
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None  # None: as many as query heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    hidden_act: str = "silu"
    # None: a plain V x hidden table. r: the table is V x r, followed by an r -> hidden projection; with
    # tie_word_embeddings the head uses both factors backwards, without it the head is a full hidden x V matrix.
    embedding_rank: int | None = None
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 4096
    learned_position_embeddings: bool = False  # a table added to the embeddings, beside RoPE
    rope_parameters: RopeParameters | dict | None = None
    rms_norm_eps: float = 1e-6
    attention_dropout: int | float | None = 0.0
    final_logit_softcapping: int | float | None = None  # c: logits become c * tanh(logits / c), in training and after
    initializer_range: int | float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.attention_dropout = self.attention_dropout or 0.0
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.num_attention_heads > 0:
            if self.hidden_size % self.num_attention_heads:
                lower = self.hidden_size // self.num_attention_heads * self.num_attention_heads
                fitting = [size for size in (lower, lower + self.num_attention_heads) if size]
                raise ValueError(
                    f"hidden_size={self.hidden_size} is not divisible by num_attention_heads="
                    f"{self.num_attention_heads}: {' or '.join(map(str, fitting))} would be, or set head_dim yourself."
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        for bias in ("attention_bias", "mlp_bias"):  # a Llama checkpoint that has biases would lose them in silence
            if kwargs.get(bias):
                raise ValueError(f"{bias}=True: Yxanul models have no biases; only checkpoints without them load.")
        if self.embedding_rank is not None:
            first, *rest = self.base_model_pp_plan.items()
            projection = ("embed_proj", (["inputs_embeds"], ["inputs_embeds"]))
            self.base_model_pp_plan = dict([first, projection, *rest])  # type: ignore[misc]
        try:
            super().__post_init__(**kwargs)
        except KeyError as error:
            raise ValueError(f"rope_parameters={self.rope_parameters}: {error} is missing or unknown.") from None

    @property
    def embedding_size(self) -> int:
        """Width of the embedding table; vLLM asks for it by this name."""
        return self.embedding_rank or self.hidden_size

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def validate_architecture(self) -> None:
        for field in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: it must be at least 1.")
        self._validate_heads()
        self._validate_rope()
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r} is unknown: take one of {', '.join(ACTIVATIONS)}.")
        if self.embedding_rank is not None and not 1 <= self.embedding_rank <= self.hidden_size:
            raise ValueError(
                f"embedding_rank={self.embedding_rank} must lie between 1 and hidden_size={self.hidden_size}; "
                "leave it out (null) for a plain embedding table."
            )
        if not 0 <= self.attention_dropout < 1:
            raise ValueError(f"attention_dropout={self.attention_dropout} must lie in [0, 1).")
        for field in ("rms_norm_eps", "initializer_range", "final_logit_softcapping"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ValueError(f"{field}={value} must be above 0.")
        if self.pad_token_id is not None and not -self.vocab_size <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id={self.pad_token_id} is outside of vocab_size={self.vocab_size}.")

    def _validate_heads(self) -> None:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if kv_heads > heads or heads % kv_heads:
            fitting = [count for count in range(1, heads + 1) if heads % count == 0]
            raise ValueError(
                f"num_key_value_heads={kv_heads} must divide num_attention_heads={heads}: take one of {fitting}."
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE turns pairs of dimensions.")

    def _validate_rope(self) -> None:
        rope: dict[str, Any] = dict(self.rope_parameters or {})
        known = ("default", *ROPE_INIT_FUNCTIONS)
        if rope.get("rope_type", "default") not in known:
            raise ValueError(f"rope_type={rope['rope_type']!r} is unknown: take one of {', '.join(known)}.")
        for name, value in rope.items():
            if isinstance(value, str) and name not in ("rope_type", "type"):
                raise ValueError(f"rope_parameters: {name}={value!r} is text; {NUMBER_IN_YAML}.")

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: `YxanulPreTrainedModel.save_pretrained` writes the code and the whole `auto_map`."""


_strict_setattr = YxanulConfig.__setattr__


def _setattr_with_a_mend(self: YxanulConfig, name: str, value: Any) -> None:
    """The library names field, type and value; a number that YAML took for a string needs a word more."""
    try:
        _strict_setattr(self, name, value)
    except StrictDataclassFieldValidationError as error:
        mend = f"give {name} a value of that type"
        if isinstance(value, str) and value.replace(".", "").replace("-", "").replace("e", "").isdigit():
            mend = NUMBER_IN_YAML
        raise ValueError(f"{error.__cause__}: {mend}.") from None


YxanulConfig.__setattr__ = _setattr_with_a_mend  # type: ignore[method-assign, assignment]

__all__ = ["YxanulConfig"]
