"""TRL's SFTTrainer on a Yxanul model: it learns to answer problems that are made here. Offline, a minute.

python docs/trl_sft.py runs/demo/final runs/trl-sft
"""

import sys

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from yxanul.data.problems import generate


def main(base: str, out: str) -> SFTTrainer:
    conversations = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer, _ in generate("math", count=400, seed=1, level="easy")
    ]
    arguments = SFTConfig(
        output_dir=out,
        trust_remote_code=True,  # the model's code lies beside its weights
        assistant_only_loss=True,  # by the marks of the tokenizer's chat template
        packing=True,  # our SDPA keeps packed conversations apart; TRL, which cannot know, warns
        max_length=256,
        per_device_train_batch_size=2,
        max_steps=20,
        learning_rate=3e-3,
        bf16=False,  # TRL's own choice is bf16, also where a CPU has to compute it
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = SFTTrainer(model=base, args=arguments, train_dataset=Dataset.from_list(conversations))
    trainer.train()
    trainer.save_model(out)  # with the model's code, as base had it
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
