"""litgpt (0.5.13) on the same shape: its GPT and its `pretrain.main`, with Fabric.

It has no factorised embeddings, so the table is whole. Settings: its defaults (bf16-mixed, torch.compile of the model,
AdamW fused on a GPU, chunked cross-entropy on all logits) with our micro-batch, learning rate and clipping; its final
checkpoint and the two batches that it validates at its start are outside of the figures. Run: rows.py does.
"""

import sys
from typing import Any

from peer import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY, Case, Meter

OPTIMIZER = {
    "class_path": "torch.optim.AdamW",
    "init_args": {"lr": LEARNING_RATE, "betas": BETAS, "weight_decay": WEIGHT_DECAY},
}


def main() -> None:
    case = Case()
    try:
        import lightning
        from lightning.fabric.loggers.logger import Logger
        from litgpt import pretrain
        from litgpt.args import EvalArgs, TrainArgs
        from litgpt.config import Config
        from litgpt.data import DataModule
    except ImportError as error:
        sys.exit(f"litgpt is not installed: {error}")
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Rows(Dataset):
        def __len__(self) -> int:
            return case.steps * case.rows

        def __getitem__(self, index: int) -> Any:
            """length + 1 tokens, as it cuts them."""
            step, row = divmod(index, case.rows)
            inputs, targets = case.stream.batch(step, row, row + 1)
            return torch.cat((torch.from_numpy(inputs[0]), torch.from_numpy(targets[0, -1:])))

    class Data(DataModule):
        def connect(
            self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None, **_: Any
        ) -> None:
            self.batch_size = batch_size

        def train_dataloader(self) -> DataLoader:
            return DataLoader(Rows(), self.batch_size, pin_memory=case.device.type == "cuda")

        val_dataloader = train_dataloader

    meters: list[Meter] = []

    class Lines(Logger):
        name = version = "lines"

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            for _ in range(case.every - 1):
                meters[0].step_done(float)
            meters[0].step_done(lambda: metrics["loss"])

        def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
            pass

    precision = "bf16-mixed" if case.bf16 else "32-true"
    fabric = lightning.Fabric(accelerator=case.device.type, devices=1, precision=precision, loggers=[Lines()])
    fabric.launch()
    config = litgpt_config(Config, case)
    with torch.device("meta"):
        model = pretrain.GPT(config)
    meters.append(Meter(case, sum(p.numel() for p in model.parameters()) - tied(case, config)))
    train = TrainArgs(
        save_interval=None,
        log_interval=case.every,
        global_batch_size=case.rows,
        micro_batch_size=case.micro_rows,
        max_tokens=case.steps * case.rows * case.length,
        max_norm=CLIP,
        min_lr=LEARNING_RATE,
        lr_warmup_steps=0,
        tie_embeddings=case.config.tie_word_embeddings,
    )
    places = {"devices": 1, "seed": 1, "initial_checkpoint_dir": None, "resume": False, "config": config}
    places |= {"out_dir": case.out, "tokenizer_dir": None, "tokenizer": None, "train": train, "data": Data()}
    pretrain.save_checkpoint = lambda *_: None  # a gigabyte that no figure is about
    pretrain.main(fabric=fabric, eval=EvalArgs(interval=10**9, final_validation=False), optimizer=OPTIMIZER, **places)
    meters[0].finish()


def litgpt_config(kind: Any, case: Case) -> Any:
    ours = case.config
    return kind(
        name="peer",
        block_size=case.length,
        vocab_size=ours.vocab_size,
        padding_multiple=128,
        n_layer=ours.num_hidden_layers,
        n_embd=ours.hidden_size,
        n_head=ours.num_attention_heads,
        n_query_groups=ours.num_key_value_heads,
        head_size=ours.head_dim,
        intermediate_size=ours.intermediate_size,
        norm_class_name="RMSNorm",
        norm_eps=ours.rms_norm_eps,
        mlp_class_name="LLaMAMLP",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )


def tied(case: Case, config: Any) -> int:
    return config.padded_vocab_size * config.n_embd if case.config.tie_word_embeddings else 0


if __name__ == "__main__":
    main()
