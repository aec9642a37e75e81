"""Stand-in for the base of a causal model's tests: a tiny config, random inputs, and the classes to test.

`CausalLMTester` is what the upstream mixins call the model tester; `layout` is what a layout adds to the config.
"""

import unittest
from typing import Any

import torch

import yxanul


class CausalLMTester:
    causal_lm_class = yxanul.YxanulForCausalLM
    base_model_class = yxanul.YxanulModel
    is_training = True
    batch_size, seq_length = 7, 8
    vocab_size, hidden_size, intermediate_size, num_hidden_layers = 99, 64, 96, 2
    num_attention_heads, num_key_value_heads = 4, 2  # the FSDP tests set hidden size 64 and 4 heads themselves
    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, parent: unittest.TestCase, layout: dict[str, Any]) -> None:
        self.parent = parent
        self.layout = layout

    def get_config(self) -> yxanul.YxanulConfig:
        return yxanul.YxanulConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=512,
            pad_token_id=self.pad_token_id,
            bos_token_id=self.bos_token_id,
            eos_token_id=self.eos_token_id,
            **self.layout,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[yxanul.YxanulConfig, dict[str, torch.Tensor]]:
        """Ordinary tokens, and a mask that hides the end of some rows."""
        first_ordinary = self.eos_token_id + 1
        input_ids = torch.randint(first_ordinary, self.vocab_size, (self.batch_size, self.seq_length))
        lengths = self.seq_length - torch.arange(self.batch_size) % 3
        attention_mask = (torch.arange(self.seq_length) < lengths[:, None]).long()
        return self.get_config(), {"input_ids": input_ids, "attention_mask": attention_mask}
