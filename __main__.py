"""The command line: `yxanul VERB ...`, `python -m yxanul VERB ...`, or `python CHECKOUT VERB ...` uninstalled.

One table from verb to module; a verb's module is imported when it is called, so `--help` loads nothing heavy.
Exit codes: 0 done, 2 bad input, 4 stopped by Ctrl-C.
"""

if not __package__:  # a checkout that is not installed: make its folder the package `yxanul`
    import importlib.util
    import pathlib
    import sys

    root = pathlib.Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        "yxanul", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["yxanul"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["yxanul"])

import sys

VERBS = {
    "data": ("yxanul.data.data_command", "prepare text as token bins; look into them, verify them"),
    "info": ("yxanul.info", "what a preset or checkpoint is made of: parameters, bytes, FLOPs"),
    "tokenizer": ("yxanul.data.tokenizer_command", "train BPE or SuperBPE, compare tokenizers"),
}
HELP = ("-h", "--help")


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in HELP:
        print(_help())  # noqa: T201 - the command line speaks here
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "--version":
        from yxanul import __version__

        print(f"yxanul {__version__}")  # noqa: T201
        return 0

    from yxanul.bad_input import BadInput, unknown_name

    try:
        if verb not in VERBS:
            raise unknown_name("verb", verb, VERBS)
        import importlib

        exit_code = importlib.import_module(VERBS[verb][0]).main(rest)
        sys.stdout.flush()
        return exit_code
    except BadInput as error:
        print(f"yxanul: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print(f"yxanul: {verb} was stopped.", file=sys.stderr)  # noqa: T201
        return 4
    except BrokenPipeError:  # `yxanul ... | head`: the reader has what it wants
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"yxanul: {error.filename or verb}: {error.strerror or error}.", file=sys.stderr)  # noqa: T201
        return 2


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {help_text}" for verb, (_, help_text) in VERBS.items())
    return (
        "usage: yxanul VERB ...\n\nSmall language models (100 to 600 M parameters), from text to the Hub.\n\n"
        f"{verbs}\n\n`yxanul VERB --help` says more; `yxanul --version` prints the version."
    )


if __name__ == "__main__":
    sys.exit(main())
