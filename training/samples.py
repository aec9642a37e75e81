"""After an evaluation, how the model goes on from the beginning of a held-out document.

The text is that of the stage which is under way, the same one each time, so one can read how it gets better. Greedy:
nothing is drawn, and no state of the run is touched. Every rank computes along, for a sharded model needs them all.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from yxanul.training.trainer import YxanulTrainer

PROMPT_TOKENS = 16
NEW_TOKENS = 40


class Samples(TrainerCallback):
    def __init__(self, trainer: YxanulTrainer, keep: Callable[[dict[str, Any]], None] | None) -> None:
        """`keep`: on the rank that speaks."""
        self.trainer, self.keep = trainer, keep

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer, step = self.trainer, state.global_step
        tokenizer: Any = trainer.processing_class
        if tokenizer is None or step == 0 or not trainer.held_out:
            return
        stage = trainer.plan.stages[trainer.plan.at(step - 1).stage_index].name
        domain = stage if stage in trainer.held_out else next(iter(trainer.held_out))
        prompt = trainer.held_out[domain].opening(min(PROMPT_TOKENS, trainer.model.config.max_position_embeddings - 2))
        ids = continuation(trainer, prompt)
        if self.keep:
            before, after = (tokenizer.decode(part, skip_special_tokens=True) for part in (prompt, ids))
            self.keep({"step": step, "domain": domain, "prompt": before, "continuation": after})


@torch.no_grad()
def continuation(trainer: YxanulTrainer, prompt: list[int]) -> list[int]:
    model, end = trainer.model, trainer.batches.stream.end_of_text_id
    room = min(NEW_TOKENS, model.config.max_position_embeddings - len(prompt))
    if room < 1:
        return []
    was_training = model.training
    model.eval()
    greedy = GenerationConfig(max_new_tokens=room, do_sample=False, eos_token_id=end, pad_token_id=end)
    try:
        with trainer._autocast():
            ids = torch.tensor([prompt], device=trainer.args.device)
            made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
    finally:
        model.train(was_training)
    return made[0, len(prompt) :].tolist()
