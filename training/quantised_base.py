"""QLoRA: what stands below an adapter is kept in 4 or 8 bits (bitsandbytes), and stays as it is.

    quantise_base(model, "nf4")      # or int8; in place, before the adapter is injected

Only the layers' matrices: embeddings, factors, head and norms keep their precision. Not here: adapters (lora.py).
"""

import logging
from typing import Any

from torch import nn

from yxanul.bad_input import BadInput

BLOCK = 64  # weights of a row that share a scale in nf4


def quantise_base(model: Any, kind: str) -> None:
    try:
        from bitsandbytes import nn as quantised
    except ImportError:
        raise BadInput('lora.base needs bitsandbytes: pip install "yxanul[qlora]".') from None
    for parent in list(model.model.layers.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not nn.Linear:
                continue
            if kind == "nf4" and linear.in_features % BLOCK:  # bitsandbytes 0.50 reads other numbers then, on a CPU
                raise BadInput(
                    f"lora.base=nf4 needs widths that are multiples of {BLOCK}, and {name} has {linear.in_features}: "
                    "take lora.base=int8."
                )
            if linear.weight.is_meta:
                continue
            new: Any
            shape = linear.in_features, linear.out_features
            if kind == "nf4":
                options: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": False}
                new = quantised.Linear4bit(*shape, False, device="meta", **options)
                new.weight = quantised.Params4bit(linear.weight.data, requires_grad=False, module=new, **options)
                # on a CPU with AVX512-BF16 an evaluation would repack the weights, for good, and training would go on
                # with others
                new.support_avx512bf16_for_cpu = False
            else:
                options = {"has_fp16_weights": False}
                new = quantised.Linear8bitLt(*shape, False, threshold=6.0, device="meta", **options)
                new.weight = quantised.Int8Params(linear.weight.data, requires_grad=False, **options)
            setattr(parent, name, new.to(linear.weight.device))  # which is what quantises
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # int8: its casts, in every product
    setattr(model, "is_loaded_in_4bit" if kind == "nf4" else "is_loaded_in_8bit", True)  # PEFT looks at it
