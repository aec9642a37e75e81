"""transformers' Trainer with LlamaForCausalLM: the same shape, or as many parameters (rows.py says which shape).

Settings: SETTINGS below, SDPA, no cache. The loss is the library's own, on all logits; where they do not fit into
memory, rows.py halves the micro-batch. Rows, steps and bin are those of ours. Run: rows.py does.
"""

from typing import Any

from peer import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY, Case, Meter

SETTINGS: dict[str, Any] = {"torch_compile": True, "optim": "adamw_torch_fused", "lr_scheduler_type": "constant"}
SETTINGS |= {"learning_rate": LEARNING_RATE, "adam_beta1": BETAS[0], "adam_beta2": BETAS[1], "max_grad_norm": CLIP}
SETTINGS |= {"weight_decay": WEIGHT_DECAY, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
SETTINGS |= {"logging_nan_inf_filter": False}  # it would wait for the device in every step


def main() -> None:
    case = Case()
    import torch
    from torch.utils.data import Dataset
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    fields = {name: value for name, value in case.config.to_dict().items() if name in LlamaConfig.__annotations__}
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**fields | {"use_cache": False}, attn_implementation="sdpa"))

    class Rows(Dataset):
        def __len__(self) -> int:
            return case.steps * case.rows

        def __getitem__(self, index: int) -> dict[str, Any]:
            step, row = divmod(index, case.rows)
            ids = torch.from_numpy(case.stream.batch(step, row, row + 1).input_ids[0])
            return {"input_ids": ids, "labels": ids}

    on_gpu = case.device.type == "cuda"
    settings = SETTINGS | {"bf16": case.bf16, "use_cpu": not on_gpu, "dataloader_num_workers": 4 * on_gpu}
    settings |= {"per_device_train_batch_size": case.micro_rows, "gradient_accumulation_steps": case.accumulation}
    settings |= {"max_steps": case.steps, "logging_steps": case.every, "output_dir": str(case.out)}
    trainer = Trainer(model, TrainingArguments(**settings), train_dataset=Rows())
    meter = Meter(case, model.num_parameters())

    class Lines(TrainerCallback):
        """The Trainer has waited for the loss that it logs."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                meter.step_done(lambda: logs["loss"], steps=case.every)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Lines())
    trainer.train()
    meter.finish()


if __name__ == "__main__":
    main()
