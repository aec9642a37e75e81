"""`yxanul sft RECIPE --out RUN [key=value ...]`: a model learns to answer, from conversations.

    yxanul sft sft --out runs/sft                          # the demo's model, on built-in problems, offline
    yxanul sft sft --out runs/mine init_from=runs/demo/final --dry-run
    accelerate launch -m yxanul.training.sft --config sft --out runs/sft learning_rate=1e-3

The engine is that of `yxanul pretrain`, with its flags, resume and exit codes; here it is asked that there are
conversations and weights to begin with. docs/fine-tuning.md. Not here: templates (data/chat_templates.py).
"""

import argparse
import sys

from yxanul.training import pretrain
from yxanul.training.config import RunConfig


def main(arguments: list[str]) -> int:
    return pretrain.main(arguments, "sft", __doc__, check)


def parser() -> argparse.ArgumentParser:
    return pretrain.parser("sft", __doc__)


def check(config: RunConfig, is_toy: bool) -> None:
    if config.init_from is None and not is_toy:
        raise config.wrong("fine-tuning begins with a model: set init_from to a checkpoint's folder or Hub name.")
    if not config.document_mask:
        raise config.wrong("conversations in a row would see each other: set document_mask: true.")


if __name__ == "__main__":
    from yxanul.shell import exit_code
    from yxanul.training.launch.processes import leave

    sys.exit(leave(exit_code("sft", main, sys.argv[1:])))
