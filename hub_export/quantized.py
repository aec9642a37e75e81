"""Targets `int8` (torchao) and `int4` (bitsandbytes' nf4): folders that from_pretrained opens, code and all, on a CPU.

The layers' matrices are quantised; the table, the head and the norms stay as they are, in bf16. Opened with
trust_remote_code=True, since Yxanul's own model is stored: every shape can go. Of the types that run on a CPU these
two are stored small: torchao's int4 for a CPU is stored in int8.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yxanul.hub_export.bare import BareTransformers
from yxanul.hub_export.llama import copy_beside, padded
from yxanul.hub_export.source import Source
from yxanul.hub_export.verify import Artefact, Limits

BLOCK = 64  # numbers that share a scale in nf4


class Quantized:
    def __init__(
        self, kind: str, needs: dict[str, str], write: Callable[[Source, Path], list[str]], limits: Limits
    ) -> None:
        self.TYPES = self.DEFAULT = (kind,)
        self.NEEDS = needs
        self._kind, self._write, self._limits = kind, write, limits

    def check(self, source: Source, types: Sequence[str]) -> None:
        """Every shape can go: it is our own code that is stored."""

    def write(self, source: Source, folder: Path, types: Sequence[str]) -> Iterator[Artefact]:
        notes = self._write(source, folder)
        copy_beside(source, folder)
        client = partial(BareTransformers, folder, trust_remote_code=True)
        yield Artefact(folder, self._kind, [client], self._limits, tuple(notes))


def _int8(source: Source, folder: Path) -> list[str]:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    _convert(source.folder, folder, TorchAoConfig(Int8WeightOnlyConfig()))
    return []


def _int4(source: Source, folder: Path) -> list[str]:
    """On CPUs with AVX512-BF16 bitsandbytes fails on widths that are no multiple of 64, or heights of 32."""
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig

    from yxanul.modeling_yxanul import YxanulForCausalLM

    config, notes, origin = copy.deepcopy(source.config), [], source.folder
    width = -(-config.intermediate_size // BLOCK) * BLOCK
    with tempfile.TemporaryDirectory(dir=folder) as scratch, torch.device("meta"):
        if width != config.intermediate_size:
            notes.append(
                f"the feed-forward width {config.intermediate_size} was filled up with zeros to {width}: exact"
            )
            config.intermediate_size, origin = width, Path(scratch)
            wide = YxanulForCausalLM(config)
            state = {name: padded(name, weight, width) for name, weight in source.model.state_dict().items()}
            wide.load_state_dict(state, assign=True)
            wide.save_pretrained(origin)
        unfit = {
            name
            for name, module in YxanulForCausalLM(config).model.named_modules(prefix="model")
            if isinstance(module, nn.Linear) and (module.in_features % BLOCK or module.out_features % 32)
        }
        if unfit:
            notes.append(
                f"{len(unfit)} matrices stay in bf16: bitsandbytes wants widths that are multiples of {BLOCK}"
            )
        settings: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
        skipped = ["lm_head", *sorted(unfit)]
        with torch.device("cpu"):
            _convert(origin, folder, BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skipped, **settings))
    return notes


def _convert(origin: Path, folder: Path, configuration: Any) -> None:
    import torch

    from yxanul.modeling_yxanul import YxanulForCausalLM

    model = YxanulForCausalLM.from_pretrained(
        origin, dtype=torch.bfloat16, quantization_config=configuration, device_map="cpu"
    )
    model.save_pretrained(folder)


_LIMITS_8 = Limits(None, 0.1, 0.01, False, "8 bits, a scale a row; computed in bf16")
_LIMITS_4 = Limits(None, 0.4, 0.05, False, "4 bits, a scale for 64; computed in bf16")
INT8 = Quantized("torchao-int8", {"torchao": "int8"}, _int8, _LIMITS_8)
INT4 = Quantized("nf4", {"bitsandbytes": "qlora"}, _int4, _LIMITS_4)
