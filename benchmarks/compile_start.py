"""What compiling costs as a run starts, cold and from the cache: CPU seconds until two steps of each length are done.

    python benchmarks/compile_start.py [--layers 28] [--lengths 128] [--repeats 1]      (minutes; Linux)

Each start is the real Trainer in a process of its own, without a step that logs (of the whole model that is another
graph of the same size). A cold start has an empty cache, a warm one what the cold one left; `none` compiles nothing.
Not here: Triton, which a GPU needs and a CPU does not; speed once it is compiled (whole_run.py).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from measuring import in_own_process, print_header, print_table, summary, use_one_thread
from trainer_overhead import write_bin


def start(folder: str, how: str, layers: int, lengths: list[int]) -> dict[str, float]:
    """CPU seconds of this process and of the compilers that it started."""
    use_one_thread()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder, "cache"))
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # compilers in this process, so that their time is counted
    import yaml
    from torch._dynamo.utils import counters

    from yxanul.run_folder import RunFolder
    from yxanul.training.beginning import Beginning
    from yxanul.training.config import read_config
    from yxanul.training.inputs import open_stream
    from yxanul.training.ranks import Ranks
    from yxanul.training.session import Session
    from yxanul.training.training_arguments import training_arguments

    phases = [{"length": length, "rows": max(lengths) // length, "steps": 2} for length in lengths]
    phases[-1]["steps"] += 2  # the last step of a stage is as one that logs
    stage = {"name": "one", "sources": [{"bin": str(Path(folder, "bin"))}], "phases": phases}
    recipe = Path(folder, "recipe.yaml")
    shape = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": max(lengths)}
    settings = {"model": "tiny", "model_config": shape, "stages": [stage], "compile": how, "use_cpu": True}
    recipe.write_text(yaml.safe_dump(settings | {"logging_steps": 500, "save_steps": 1000}))
    config = read_config(str(recipe), [])
    plan, run = config.plan(), RunFolder(Path(folder, "run"))
    args = training_arguments(config, plan, run, 1)
    args.max_steps = 2 * len(lengths)
    stream = open_stream(config, plan, config.shape().config)
    trainer = Session(config, run, args, Ranks(args.ddp_timeout), stream, {}, Beginning(None, 0, plan.steps)).trainer
    trainer._save_checkpoint = lambda *_: None  # type: ignore[method-assign]
    before, wall = os.times(), time.perf_counter()
    trainer.train()
    after = os.times()
    found = counters["aot_autograd"]
    return {
        "CPU": sum(after[:4]) - sum(before[:4]),
        "wall": time.perf_counter() - wall,
        "graphs": counters["stats"]["unique_graphs"],
        "from the cache": found["autograd_cache_hit"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128])
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    use_one_thread()
    print_header()
    rows = []
    for how in ("none", "layers", "model"):
        turns: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                write_bin(Path(folder, "bin"), 512, 100_000)
                for kind in ("cold", "warm") if how != "none" else ("cold",):
                    found = in_own_process(start, folder, how, options.layers, options.lengths)
                    turns.setdefault(kind, []).append(found)
        for kind, found in turns.items():
            seconds = [summary([turn[name] for turn in found], 1, 1) for name in ("CPU", "wall")]
            rows.append([f"{how}, {kind}", *seconds, *(str(found[0][name]) for name in ("graphs", "from the cache"))])
    print_table(["compile, start", "CPU s", "wall s", "graphs", "of them from the cache"], rows)


if __name__ == "__main__":
    main()
