"""Fast decoding of our models on a CPU, one row: fewer, larger matrix products and a cache laid out beforehand.

    decoder = Decoder(model)                        # Decoder(model, int8=True): weights in int8, other tokens
    ids = decoder.generate(prompt_ids, 64, ends={0})

Greedy tokens in fp32 are those of `generate`: a test holds it, benchmarks/chat_speed.py measures the speed. One row is
as fast as weights are read: a third of 112 M is the head, so int8 screens it and fp32 decides (_Screen). The cache
of the last call serves what the next prompt has in common with it. A decoder holds a copy of the layers' weights.
Not here: batches, GPUs, training; models of others.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from yxanul.modeling_yxanul import YxanulFactorisedHead, YxanulForCausalLM, apply_softcap, rotate

FIXED_ROPE = "default", "linear", "llama3", "yarn"  # whose angles do not depend on the length of the text
WORTH_SCREENING = 8192  # tokens
FEW = 1024
Multiply = Callable[[Tensor], Tensor]


def is_supported(model: Any) -> bool:
    is_ours_on_a_cpu = isinstance(model, YxanulForCausalLM) and model.device.type == "cpu"
    return is_ours_on_a_cpu and model.config.rope_parameters["rope_type"] in FIXED_ROPE


class Decoder:
    @torch.no_grad()
    def __init__(self, model: YxanulForCausalLM, *, int8: bool = False) -> None:
        config: Any = model.config
        body: Any = model.model
        head: Any = model.lm_head
        self.config, self._body, self._head = config, body, head
        matrix = _int8 if int8 else _laid_out
        self._layers = [
            (
                layer.input_layernorm.weight,
                matrix(torch.cat([getattr(layer.self_attn, name).weight for name in ("q_proj", "k_proj", "v_proj")])),
                matrix(layer.self_attn.o_proj.weight),
                layer.post_attention_layernorm.weight,
                matrix(torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight])),
                matrix(layer.mlp.down_proj.weight),
            )
            for layer in body.layers
        ]
        self._act = body.layers[0].mlp.act_fn
        self._screen = None
        if not isinstance(head, YxanulFactorisedHead):  # whose matrices are small
            if int8:
                self._head = matrix(head.weight)
            elif config.vocab_size >= WORTH_SCREENING and model.dtype == torch.float32:
                self._screen = _Screen(head.weight)
        length = config.max_position_embeddings
        cache = config.num_hidden_layers, 2, config.num_key_value_heads, length, config.head_dim
        self._cache = torch.zeros(cache, dtype=model.dtype)
        cos, sin = body.rotary_emb(self._cache, torch.arange(length))
        self._cos, self._sin = cos[:, None], sin[:, None]  # (T, 1, d / 2)
        self._seen: list[int] = []  # the tokens in the cache

    @torch.no_grad()
    def generate(
        self,
        ids: Sequence[int],
        new_tokens: int,
        *,
        ends: set[int],
        processors: Sequence[Any] = (),
        sample: bool = False,
        on_token: Callable[[Tensor], Any] | None = None,
    ) -> list[int]:
        """The new tokens, the end among them; `processors` are the library's, for one row."""
        row, rest = list(ids), self._rest(list(ids))
        for _ in range(min(new_tokens, self.config.max_position_embeddings - len(row))):
            state = self._state(rest)
            token = None if sample or processors or not self._screen else self._screen.greedy(state)
            if token is None:
                logits = self._logits(state).float()
                for processor in processors:
                    logits = processor(torch.tensor([row]), logits)
                token = int(logits.softmax(-1).multinomial(1)) if sample else int(logits.argmax())
            row.append(token)
            if on_token:
                on_token(torch.tensor([token]))
            if token in ends:
                break
            rest = [token]
        return row[len(ids) :]

    def _rest(self, ids: list[int]) -> list[int]:
        """What the cache does not hold of the prompt: its last token at least, for its logits are wanted."""
        same = 0
        while same < min(len(self._seen), len(ids) - 1) and self._seen[same] == ids[same]:
            same += 1
        self._seen = self._seen[:same]
        return ids[same:]

    @torch.no_grad()
    def logits(self, ids: list[int]) -> Tensor:
        """Behind the last of `ids`, (1, V)."""
        return self._logits(self._state(ids))

    def _logits(self, state: Tensor) -> Tensor:
        return apply_softcap(self._head(state), self.config.final_logit_softcapping)

    def _state(self, ids: list[int]) -> Tensor:
        """What the head reads, (1, D)."""
        config, begin = self.config, len(self._seen)
        end = begin + len(ids)
        states = self._body._embed(torch.tensor(ids), None)  # (T, D)
        if config.learned_position_embeddings:
            states = states + self._body.embed_positions.weight[begin:end]
        cos, sin = self._cos[begin:end], self._sin[begin:end]
        mask = torch.ones(len(ids), end, dtype=torch.bool).tril(begin) if len(ids) > 1 else None
        for (norm, query_key_value, out, mlp_norm, gate_up, down), cache in zip(
            self._layers, self._cache, strict=True
        ):
            normed = rms_norm(states, norm.shape, norm, config.rms_norm_eps)
            heads = query_key_value(normed).view(len(ids), -1, config.head_dim)
            turned = config.num_attention_heads + config.num_key_value_heads
            query_and_key = rotate(heads[:, :turned], cos, sin)
            cache[0, :, begin:end] = query_and_key[:, config.num_attention_heads :].transpose(0, 1)
            cache[1, :, begin:end] = heads[:, turned:].transpose(0, 1)
            query = query_and_key[:, : config.num_attention_heads]
            states = states + out(self._attended(query, cache[:1, :, :end], cache[1:, :, :end], mask))
            normed = rms_norm(states, mlp_norm.shape, mlp_norm, config.rms_norm_eps)
            gate, up = gate_up(normed).chunk(2, dim=-1)
            states = states + down(self._act(gate) * up)
        self._seen += ids  # now, lest an interrupt leave tokens here that the cache has not
        norm = self._body.norm.weight
        return rms_norm(states[-1:], norm.shape, norm, config.rms_norm_eps)

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:  # one token: the query heads of a key are the rows of one product
            rows = query.view(1, keys.shape[1], -1, query.shape[-1])
            return scaled_dot_product_attention(rows, keys, values).reshape(1, -1)
        query = query.transpose(0, 1)[None]
        found = scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=True)
        return found[0].transpose(0, 1).reshape(mask.shape[0], -1)


class _Screen:
    """The greedy token in fp32 without reading all of the head: int8 finds the likeliest few, fp32 decides."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._coarse = weight, _int8(weight)
        scales = _scales(weight)
        self._longest = float(weight.norm(dim=1).max())
        self._rounded_off = float(scales.max()) / 2 * weight.shape[1] ** 0.5

    def greedy(self, state: Tensor) -> int | None:
        """None where rounding, at its worst, may hide a likelier token behind the few."""
        best, places = self._coarse(state)[0].topk(FEW)
        few = places[:-1].sort().values  # of equals the first, as argmax has it
        exact = self._weight[few] @ state[0]
        found = exact.argmax()
        step = float(state.amax().clamp_min(0) - state.amin().clamp_max(0)) / 127  # of the inputs, in their 7 bits
        off = step / 2 * state.shape[1] ** 0.5
        doubt = self._rounded_off * (float(state.norm()) + off) + self._longest * off
        return int(few[found]) if exact[found] > best[-1] + 1.01 * doubt else None


def _laid_out(weight: Tensor) -> Multiply:
    """In fp32 one row is multiplied some 8 % faster by (in, out)."""
    if weight.dtype != torch.float32:
        return lambda states: linear(states, weight)
    turned = weight.t().contiguous()
    return lambda states: states @ turned


def _scales(weight: Tensor) -> Tensor:
    return weight.float().abs().amax(dim=1).clamp_min(1e-12) / 127


def _int8(weight: Tensor) -> Multiply:
    """A scale for each row; inputs are quantised as they come."""
    scales = _scales(weight)
    with warnings.catch_warnings():
        # torch means to replace it (pytorch#184982), and has nothing as fast
        warnings.simplefilter("ignore", UserWarning)
        rounded = torch.quantize_per_channel(weight.float(), scales, torch.zeros_like(scales).long(), 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(rounded, None)
    # without the reduced range 16-bit sums overflow on processors before VNNI
    return lambda states: torch.ops.quantized.linear_dynamic(states.float(), packed, True).to(weight.dtype)
