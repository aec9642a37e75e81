"""litgpt (0.5.13) on the same shape: its GPT and its `pretrain.main`, with Fabric.

It has no factorised embeddings, so the table is whole. Settings: its defaults (bf16-mixed, torch.compile of the model,
AdamW fused on a GPU, chunked cross-entropy on all logits) with our micro-batch, learning rate and clipping. What
it validates at its start is outside of the figures; its final checkpoint is not written. Run: rows.py does.
"""

import sys
from typing import Any

from peer import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY, Case, Meter

OPTIMIZER: dict[str, Any] = {"class_path": "torch.optim.AdamW"}
OPTIMIZER |= {"init_args": {"lr": LEARNING_RATE, "betas": BETAS, "weight_decay": WEIGHT_DECAY}}
LLAMA_LIKE: dict[str, Any] = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "rotary_percentage": 1.0}
LLAMA_LIKE |= {"parallel_residual": False, "bias": False, "padding_multiple": 128}
NAMES = {"vocab_size": "vocab_size", "num_hidden_layers": "n_layer", "hidden_size": "n_embd", "head_dim": "head_size"}
NAMES |= {"num_attention_heads": "n_head", "num_key_value_heads": "n_query_groups", "rms_norm_eps": "norm_eps"}
NAMES |= {"intermediate_size": "intermediate_size"}


def main() -> None:
    case = Case()
    try:
        import lightning
        from litgpt import pretrain
    except ImportError as error:
        sys.exit(f"litgpt is not installed: {error}")
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.config import Config

    sizes = {theirs: getattr(case.config, ours) for ours, theirs in NAMES.items()}
    config = Config(name="peer", block_size=case.length, **sizes, **LLAMA_LIKE)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in pretrain.GPT(config).parameters())
    is_tied = case.config.tie_word_embeddings
    meter = Meter(case, parameters - is_tied * config.padded_vocab_size * config.n_embd)
    train = TrainArgs(save_interval=None, log_interval=case.every, max_norm=CLIP, tie_embeddings=is_tied)
    train.global_batch_size, train.micro_batch_size = case.rows, case.micro_rows
    train.max_tokens, train.min_lr, train.lr_warmup_steps = case.steps * case.rows * case.length, LEARNING_RATE, 0
    precision = "bf16-mixed" if case.bf16 else "32-true"
    fabric = lightning.Fabric(accelerator=case.device.type, devices=1, precision=precision, loggers=[lines(meter)])
    fabric.launch()
    pretrain.save_checkpoint = lambda *_: None
    places = {"devices": 1, "seed": 1, "initial_checkpoint_dir": None, "resume": False, "config": config}
    places |= {"out_dir": case.out, "tokenizer_dir": None, "tokenizer": None, "train": train, "data": data(case)}
    pretrain.main(fabric, eval=EvalArgs(interval=10**9, final_validation=False), optimizer=OPTIMIZER, **places)
    meter.finish()


def data(case: Case) -> Any:
    import torch
    from litgpt.data import DataModule
    from torch.utils.data import DataLoader

    class Data(DataModule):
        def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: Any = None, **_: Any) -> None:
            self.batch_size = batch_size

        def train_dataloader(self) -> DataLoader:
            return DataLoader(self, self.batch_size, pin_memory=case.device.type == "cuda")

        val_dataloader = train_dataloader

        def __len__(self) -> int:
            return case.steps * case.rows

        def __getitem__(self, index: int) -> Any:
            """length + 1 tokens, as it cuts them."""
            step, row = divmod(index, case.rows)
            inputs, targets = case.stream.batch(step, row, row + 1)
            return torch.cat((torch.from_numpy(inputs[0]), torch.from_numpy(targets[0, -1:])))

    return Data()


def lines(meter: Meter) -> Any:
    """What it would send to TensorBoard; it has waited for the loss."""
    from lightning.fabric.loggers.logger import Logger

    class Lines(Logger):
        name = version = "lines"

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            meter.step_done(lambda: metrics["loss"], steps=meter.case.every)

        def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
            """It asks for this one too."""

    return Lines()


if __name__ == "__main__":
    main()
