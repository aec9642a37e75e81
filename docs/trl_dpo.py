"""TRL's DPOTrainer on a Yxanul model: it prefers answers that show their sum to bare results. Offline, a minute.

python docs/trl_dpo.py runs/trl-sft runs/trl-dpo
"""

import sys

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from yxanul.data.problems import generate


def main(base: str, out: str) -> DPOTrainer:
    pairs = [
        {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": answer}],
            "rejected": [{"role": "assistant", "content": answer.partition("#### ")[2]}],  # its last number
        }
        for question, answer, _ in generate("math", count=100, seed=1, level="easy")
    ]
    arguments = DPOConfig(
        output_dir=out,
        trust_remote_code=True,  # the model's code lies beside its weights
        beta=0.1,
        max_length=128,
        per_device_train_batch_size=4,
        max_steps=10,
        learning_rate=1e-3,
        bf16=False,  # TRL's own choice is bf16, also where a CPU has to compute it
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = DPOTrainer(model=base, args=arguments, train_dataset=Dataset.from_list(pairs))
    trainer.train()
    trainer.save_model(out)  # with the model's code, as base had it
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
