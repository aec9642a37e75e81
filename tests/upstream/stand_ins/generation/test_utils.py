"""Stand-in for the library's generation tests, with its name: `generate` gives the same tokens in every way to run it.

Weights are drawn wide, so that the largest logit does not hang on rounding.
"""

import copy
from typing import Any

import torch
from transformers import set_seed

NEW_TOKENS = 8


class GenerationTesterMixin:
    def _generator(self, **changes: Any) -> torch.nn.Module:
        set_seed(0)
        config = self.model_tester.get_config()
        for name, value in {"initializer_range": 0.4, **changes}.items():
            setattr(config, name, value)
        model = self.model_tester.causal_lm_class(config).eval()
        model.generation_config.eos_token_id = None  # always NEW_TOKENS of them
        return model

    def _prompts(self, rows: int = 3, length: int = 7) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(3, self.model_tester.vocab_size, (rows, length), generator=generator)

    def _generate(self, model: torch.nn.Module, prompts: torch.Tensor | None = None, **options: Any) -> Any:
        return model.generate(prompts, do_sample=False, max_new_tokens=NEW_TOKENS, **options)

    def _assert_same_tokens(self, one: torch.Tensor, other: torch.Tensor) -> None:
        self.assertEqual(one.tolist(), other.tolist())

    def test_generation_depends_on_the_prompt(self) -> None:
        """What the comparisons below rest on: the tokens are neither constant nor the same for every prompt."""
        new_tokens = self._generate(self._generator(), self._prompts())[:, -NEW_TOKENS:]
        self.assertEqual(len(new_tokens.unique(dim=0)), len(new_tokens))
        self.assertGreater(len(new_tokens.unique()), NEW_TOKENS)

    def test_greedy_with_cache_equals_without(self) -> None:
        model, prompts = self._generator(), self._prompts()
        self._assert_same_tokens(
            self._generate(model, prompts, use_cache=True), self._generate(model, prompts, use_cache=False)
        )

    def test_greedy_equals_a_loop_of_forwards(self) -> None:
        model, tokens = self._generator(), self._prompts()
        generated = self._generate(model, tokens)
        with torch.no_grad():
            for _ in range(NEW_TOKENS):
                following = model(input_ids=tokens).logits[:, -1].argmax(-1, keepdim=True)
                tokens = torch.cat((tokens, following), dim=1)
        self._assert_same_tokens(generated, tokens)

    def test_static_cache_equals_dynamic(self) -> None:
        model, prompts = self._generator(), self._prompts()
        self._assert_same_tokens(
            self._generate(model, prompts, cache_implementation="static"), self._generate(model, prompts)
        )

    def test_left_padded_prompt_equals_the_same_alone(self) -> None:
        model, prompts = self._generator(), self._prompts()
        lengths = [3, 7, 5]
        mask = torch.stack([(torch.arange(7) >= 7 - length).long() for length in lengths])
        together = self._generate(model, torch.where(mask.bool(), prompts, 0), attention_mask=mask)
        for row, length in enumerate(lengths):
            alone = self._generate(model, prompts[row : row + 1, -length:])
            self._assert_same_tokens(together[row, -NEW_TOKENS:], alone[0, -NEW_TOKENS:])

    def test_beams_with_cache_equal_without(self) -> None:
        model, prompts = self._generator(), self._prompts()
        with_cache, without = (
            self._generate(model, prompts, num_beams=4, num_return_sequences=2, use_cache=use_cache)
            for use_cache in (True, False)
        )
        self._assert_same_tokens(with_cache, without)

    def test_sampling_repeats_with_its_seed(self) -> None:
        model, prompts = self._generator(initializer_range=0.02), self._prompts()
        samples = []
        for seed, use_cache in ((5, True), (5, False), (6, True)):
            set_seed(seed)
            samples.append(model.generate(prompts, do_sample=True, max_new_tokens=NEW_TOKENS, use_cache=use_cache))
        self._assert_same_tokens(samples[0], samples[1])
        self.assertNotEqual(samples[0].tolist(), samples[2].tolist())

    def test_inputs_embeds_equal_input_ids(self) -> None:
        model, prompts = self._generator(), self._prompts()
        from_ids = self._generate(model, prompts)[:, -NEW_TOKENS:]
        embedded = model.get_input_embeddings()(prompts)
        for use_cache in (True, False):
            from_embeddings = self._generate(model, inputs_embeds=embedded, use_cache=use_cache)
            self._assert_same_tokens(from_embeddings, from_ids)

    def test_continuing_from_past_key_values_equals_one_go(self) -> None:
        model, prompts = self._generator(), self._prompts()
        in_one_go = self._generate(model, prompts)
        half = model.generate(prompts, do_sample=False, max_new_tokens=4, return_dict_in_generate=True)
        rest = model.generate(
            half.sequences,
            attention_mask=torch.ones_like(half.sequences),  # a generated padding token would be masked otherwise
            past_key_values=half.past_key_values,
            do_sample=False,
            max_new_tokens=NEW_TOKENS - 4,
        )
        self._assert_same_tokens(rest, in_one_go)

    def test_forwards_through_a_cache_equal_one_forward(self) -> None:
        """By hand and without position_ids, which `generate` would give: the model counts what the cache holds."""
        model, tokens = self._generator(), self._prompts()
        cache, parts = None, []
        with torch.no_grad():
            in_one_go = model(input_ids=tokens, use_cache=False).logits
            for part in tokens.split([4, 1, 2], dim=1):
                outputs = model(input_ids=part, past_key_values=cache, use_cache=True)
                cache = outputs.past_key_values
                parts.append(outputs.logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), in_one_go, rtol=1e-5, atol=1e-4)

    def test_one_cached_prompt_serves_several_continuations(self) -> None:
        model, prompts = self._generator(), self._prompts(rows=1)
        with torch.no_grad():
            cache = model(input_ids=prompts[:, :5], use_cache=True).past_key_values
        for last in (11, 12):
            whole = torch.cat((prompts[:, :5], torch.tensor([[10, last]])), dim=1)
            continued = self._generate(model, whole, past_key_values=copy.deepcopy(cache))
            self._assert_same_tokens(continued, self._generate(model, whole))

    def test_logits_to_keep_equals_a_slice_of_all(self) -> None:
        model, prompts = self._generator(), self._prompts()
        with torch.no_grad():
            every = model(input_ids=prompts).logits
            for keep, positions in ((1, [6]), (3, [4, 5, 6]), (torch.tensor([0, 5]), [0, 5]), (0, list(range(7)))):
                kept = model(input_ids=prompts, logits_to_keep=keep).logits
                torch.testing.assert_close(kept, every[:, positions], rtol=1e-5, atol=1e-5)

    def test_prefill_in_chunks_equals_one_prefill(self) -> None:
        model, prompts = self._generator(), self._prompts()
        self._assert_same_tokens(self._generate(model, prompts, prefill_chunk_size=3), self._generate(model, prompts))

    def test_prompt_lookup_equals_greedy(self) -> None:
        model, prompt = self._generator(), self._prompts(rows=1).repeat(1, 3)
        self._assert_same_tokens(
            self._generate(model, prompt, prompt_lookup_num_tokens=3), self._generate(model, prompt)
        )

    def test_assistant_model_equals_greedy(self) -> None:
        """With an assistant that is mostly wrong, and with one that is always right."""
        model, prompt = self._generator(), self._prompts(rows=1)
        greedy = self._generate(model, prompt)
        for assistant in (self._generator(num_hidden_layers=1), copy.deepcopy(model)):
            assistant.generation_config.num_assistant_tokens = 3
            self._assert_same_tokens(self._generate(model, prompt, assistant_model=assistant), greedy)

    def test_eager_generates_as_sdpa(self) -> None:
        model, prompts = self._generator(), self._prompts()
        model.set_attn_implementation("sdpa")
        by_sdpa = self._generate(model, prompts)
        model.set_attn_implementation("eager")
        self._assert_same_tokens(self._generate(model, prompts), by_sdpa)

    def test_generate_returns_what_it_is_asked_for(self) -> None:
        model, prompts = self._generator(), self._prompts()
        model.set_attn_implementation("eager")
        wanted = ("output_logits", "output_scores", "output_attentions", "output_hidden_states")
        given = self._generate(model, prompts, return_dict_in_generate=True, **dict.fromkeys(wanted, True))
        tester, layers = self.model_tester, self.model_tester.num_hidden_layers
        for step in range(NEW_TOKENS):
            queries, keys = (7, 7) if step == 0 else (1, 7 + step)
            self.assertEqual(given.logits[step].shape, (3, tester.vocab_size))
            self.assertEqual(given.scores[step].shape, (3, tester.vocab_size))
            self.assertEqual(len(given.attentions[step]), layers)
            self.assertEqual(given.attentions[step][0].shape, (3, tester.num_attention_heads, queries, keys))
            self.assertEqual(len(given.hidden_states[step]), layers + 1)
            self.assertEqual(given.hidden_states[step][0].shape, (3, queries, tester.hidden_size))
        self.assertEqual(given.past_key_values.get_seq_length(), 7 + NEW_TOKENS - 1)
