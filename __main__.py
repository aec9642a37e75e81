"""The command line: `yxanul VERB ...`, `python -m yxanul VERB ...`, or `python CHECKOUT VERB ...` uninstalled.

One table from verb to module; a verb's module is imported when it is called, so `--help` loads nothing heavy.
What all verbs share, such as exit codes: shell.py and docs/command-line.md.
"""

# A checkout that is not installed becomes the package `yxanul`, for the processes that we start too
if not __package__:
    import os
    import pathlib
    import sys

    root = pathlib.Path(__file__).resolve().parent
    link = root / "build/import/yxanul"
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.resolve() != root:
            link.unlink(missing_ok=True)
            link.symlink_to("../..")  # relative: a checkout that was copied or moved finds itself
    except FileExistsError:  # another start was first
        pass
    except OSError as error:
        sys.exit(f"yxanul: {link} cannot be made ({error.strerror}): install the checkout, pip install -e {root}.")
    sys.path[0] = str(link.parent)  # it was the checkout, whose data/ and training/ are no packages by themselves
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])

import sys

VERBS = {
    "demo": ("yxanul.demo", "the whole way offline in minutes: text, a model, answers, exports"),
    "pretrain": ("yxanul.training.pretrain", "train a model from a recipe; stop, move and resume it"),
    "sft": ("yxanul.training.sft", "fine-tune a model on conversations, from a recipe"),
    "merge": ("yxanul.training.merge", "a LoRA adapter and its base become one model"),
    "data": ("yxanul.data.data_command", "prepare text as token bins; look into them, verify them"),
    "evaluate": ("yxanul.evaluation.evaluate_command", "benchmarks of any causal model, as lm-eval scores them"),
    "env": ("yxanul.environment", "what this machine can do, and what each missing thing costs"),
    "info": ("yxanul.info", "what a preset or checkpoint is made of: parameters, bytes, FLOPs"),
    "plan": ("yxanul.training.plan_command", "what a recipe would eat: stages, steps, lengths, tokens, epochs"),
    "tokenizer": ("yxanul.data.tokenizer_command", "train BPE or SuperBPE, compare tokenizers"),
    "chat": ("yxanul.evaluation.chat", "talk to a model, at a terminal or through a pipe"),
    "generate": ("yxanul.evaluation.generate_command", "answers to a file of prompts; data sets to distil from"),
    "suite": (
        "yxanul.evaluation.suite.suite_command",
        "what a fine-tuned model can do, by category, judged by programs",
    ),
    "compare": (
        "yxanul.evaluation.compare",
        "is one result of `evaluate` better than another? differences, with intervals",
    ),
    "report": ("yxanul.training.report", "a run as one HTML page: curves, gates, samples, recipe"),
    "export": ("yxanul.hub_export.export_command", "the model as llama.cpp, ONNX Runtime and others read it, checked"),
    "push": (
        "yxanul.hub_export.push",
        "a model with its card, or data, to the Hub: checked, one commit, private at first",
    ),
    "completion": ("yxanul.completion", "a script that completes verbs and flags in bash, zsh or fish"),
    "track": ("yxanul.training.track_command", "send a tracker (TensorBoard, W&B, trackio) what it missed of a run"),
}
HELP = ("-h", "--help")
SHARED = """\
`yxanul VERB --help` says more, with examples; `yxanul --version` prints the version.
  --quiet      of every verb: figures, failures and what was asked for and is not had, and nothing else
  --verbose    of every verb: also what libraries say, and where in the code bad input was met
Figures go to standard output, everything else to standard error; a pipe gets no bars and no colours.
Exit codes: 0 done, 2 bad input, 3 a gate failed, 4 stopped (training is saved, and the same command goes on),
5 failed with everything saved."""


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    words = [word for word in arguments if word not in ("--quiet", "--verbose")]
    if not words or words[0] in HELP:
        print(_help())  # noqa: T201 - the command line speaks here
        return 0 if words else 2
    verb, rest = words[0], list(arguments)
    rest.remove(verb)
    if verb == "--version":
        from yxanul import __version__

        print(f"yxanul {__version__}")  # noqa: T201
        return 0

    from yxanul.bad_input import unknown_name
    from yxanul.shell import exit_code

    def run(words: list[str]) -> int:
        if verb not in VERBS:
            raise unknown_name("verb", verb, VERBS)
        import importlib

        return importlib.import_module(VERBS[verb][0]).main(words)

    return exit_code(verb, run, rest)


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {help_text}" for verb, (_, help_text) in VERBS.items())
    return (
        "usage: yxanul VERB ...\n\nSmall language models (100 to 600 M parameters), from text to the Hub.\n\n"
        f"{verbs}\n\n{SHARED}"
    )


if __name__ == "__main__":
    sys.exit(main())
