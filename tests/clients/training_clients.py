"""PEFT, TRL and lm-eval as clients, each in a process of its own in which Yxanul cannot be imported.

with Library("peft", folder, scratch=folder2) as client:        # or trl, lm_eval
    client.logits([1, 2, 3]); client.call("train")

This file is what runs there, as hub_export/bare.py does.
"""

import importlib.util
import sys
from pathlib import Path

_file = Path(__file__).resolve().parents[2] / "hub_export/bare.py"
bare = importlib.util.module_from_spec(found := importlib.util.spec_from_file_location("bare", _file))
found.loader.exec_module(bare)

TEXT = "Question: What is 17 + 25?\nAnswer: 42\n\nQuestion: What is 9 - 4?\nAnswer: 5\n"
TALK = [{"role": "user", "content": "What is 17 + 25?"}, {"role": "assistant", "content": "42"}]
STEPS = 2


class Library(bare.SecondProcess):
    SCRIPT = __file__

    def __init__(self, name, path, **options):
        from importlib.metadata import version

        super().__init__(f"{name.replace('_', '-')} {version(name)}", name, Path(path), None, **options)

    def call(self, what, *given):
        return self._ask(what, *given)


class Peft(bare.Transformers):
    """The model below a new adapter, which has no effect before it is trained."""

    def __init__(self, path, scratch, **options):
        import torch
        from peft import LoraConfig, get_peft_model

        super().__init__(path, **options)
        torch.manual_seed(0)
        settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model, self.scratch = get_peft_model(self.model, settings).eval(), Path(scratch)

    def train(self):
        """Leaves adapter/, and merged/ with the tokenizer."""
        import torch

        ids = torch.tensor([self.tokenizer(TEXT).input_ids])
        optimizer = torch.optim.AdamW([each for each in self.model.parameters() if each.requires_grad], lr=1e-2)
        with torch.enable_grad():
            for _ in range(STEPS):
                self.model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        self.model.save_pretrained(self.scratch / "adapter")
        self.model.merge_and_unload().save_pretrained(self.scratch / "merged")
        self.tokenizer.save_pretrained(self.scratch / "merged")


class Trl(bare.Transformers):
    """The model in memory after SFTTrainer's steps; what it saves lies in `scratch`."""

    def __init__(self, path, scratch, **options):
        import torch
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        super().__init__(path, **options)
        torch.set_grad_enabled(True)
        how = {
            "max_steps": STEPS,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 2,
            "use_cpu": True,
            "bf16": False,
        }
        how |= {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
        rows = [{"messages": TALK} if self.tokenizer.chat_template else {"text": TEXT}] * 4
        settings = SFTConfig(output_dir=scratch, **how)
        data = Dataset.from_list(rows)
        trainer = SFTTrainer(self.model, settings, train_dataset=data, processing_class=self.tokenizer)
        trainer.train()
        trainer.save_model(scratch)
        torch.set_grad_enabled(False)
        self.model = trainer.model.eval()


class LmEval(bare.Transformers):
    """What lm-eval's own `hf` model has opened."""

    def __init__(self, path, trust_remote_code):
        import torch
        from lm_eval.models.huggingface import HFLM

        torch.set_grad_enabled(False)
        self.opened = HFLM(path, dtype="float32", device="cpu", batch_size=1, trust_remote_code=trust_remote_code)
        self.model, self.tokenizer = self.opened.model, self.opened.tokenizer

    def bits_per_byte(self, tasks, name):
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        known = TaskManager(include_path=tasks, include_defaults=False)
        done = simple_evaluate(self.opened, tasks=[name], task_manager=known, bootstrap_iters=0)
        return done["results"][name]["bits_per_byte,none"]


if __name__ == "__main__":
    bare.serve({"peft": Peft, "trl": Trl, "lm_eval": LmEval}, *sys.argv[1:4])
