"""CPU time and memory of scoring HellaSwag-like questions: our rows against lm-eval's own loop, on the same model.

Run: python benchmarks/evaluation_speed.py [--questions 16] [--memory]
Lengths are drawn like HellaSwag's: contexts of 20 to 90 tokens, four endings of 5 to 45. The body-heavy model has 12
layers and 6,000 tokens of vocabulary, the head-heavy one 6 layers and 100,000; each as our model and as a stock Llama,
of random weights, fp32, one thread. lm-eval runs in batches of 16. `--memory` measures both at 200,005 tokens instead,
each in a process of its own. Not here: tokenization, generation, GPUs.
"""

import argparse
import random
from collections.abc import Callable

from measuring import (
    in_own_process,
    peak_growth,
    print_header,
    print_table,
    ratios,
    seconds_in_turns,
    summary,
    use_one_thread,
)

SHAPES = {"body-heavy": (12, 384, 6_000), "head-heavy": (6, 384, 100_000), "200k": (2, 128, 200_005)}
LM_EVAL_ROWS = 16


def questions(count: int, vocabulary: int) -> list:
    """Pairs of ids: each context four times, with another ending."""
    draw = random.Random(0)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randrange(2, vocabulary) for _ in range(draw.randint(low, high))]

    return [(context, ids(5, 45)) for context in [ids(20, 90) for _ in range(count)] for _ in range(4)]


def subject_of(kind: str, shape: str):
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from yxanul import YxanulConfig, YxanulForCausalLM
    from yxanul.evaluation.text_model import TextModel

    layers, hidden, vocabulary = SHAPES[shape]
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 8 * hidden // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    ours = kind == "yxanul"
    model = YxanulForCausalLM(YxanulConfig(**sizes)) if ours else LlamaForCausalLM(LlamaConfig(**sizes))
    words = Tokenizer(models.WordLevel({"<end>": 0, "<pad>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    return TextModel(model.eval(), tokenizer, torch.device("cpu"))


def works_of(kind: str, shape: str, count: int) -> dict[str, Callable]:
    from lm_eval.models.huggingface import HFLM

    from yxanul.evaluation.scoring import log_likelihoods

    subject = subject_of(kind, shape)
    pairs = questions(count, SHAPES[shape][2])
    hf = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=LM_EVAL_ROWS)
    requests = [(None, *pair) for pair in pairs]
    return {
        "lm-eval": lambda: hf._loglikelihood_tokens(requests, disable_tqdm=True),
        "ours": lambda: log_likelihoods(subject, pairs),
    }


def peak_of(variant: str, kind: str, count: int) -> float:
    use_one_thread()
    works_of(kind, "body-heavy", 1)[variant]()  # libraries load here
    return peak_growth(works_of(kind, "200k", count)[variant]) if count else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    use_one_thread()
    print_header()
    rows = []
    if arguments.memory:
        for kind in ("yxanul", "llama"):
            theirs, ours = (in_own_process(peak_of, name, kind, arguments.questions) for name in ("lm-eval", "ours"))
            rows.append([kind, f"{theirs:,.0f}", f"{ours:,.0f}", f"{theirs / ours:.1f}x"])
        print_table(["200,005 tokens", "lm-eval, MB", "ours, MB", "less memory"], rows)
        return
    for shape in ("body-heavy", "head-heavy"):
        for kind in ("yxanul", "llama"):
            works = works_of(kind, shape, arguments.questions)
            theirs, ours = (work() for work in works.values())
            far = max(abs(one[0] - other.nats) for one, other in zip(theirs, ours, strict=True))
            seconds = seconds_in_turns(works, arguments.repeats)
            faster = ratios(seconds["lm-eval"], seconds["ours"])
            times = [summary(seconds[name], digits=2) for name in works]
            rows.append([f"{shape}, {kind}", *times, summary(faster, digits=2), f"{far:.0e}"])
    print_table(["model", "lm-eval, CPU s", "ours, CPU s", "times as fast", "largest difference, nats"], rows)


if __name__ == "__main__":
    main()
