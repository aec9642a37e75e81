"""What all verbs share at a shell: how help looks, exit codes, what --quiet and --verbose mean, silent libraries.

    parser = command("merge", __doc__)               # the docstring's `yxanul merge ...` lines become the examples
    exit_code("merge", main, ["runs/lora"])          # runs it; every failure becomes one sentence and a number

Not here: printing (data/progress.py), completion (completion.py).
"""

import argparse
import difflib
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from yxanul.bad_input import BadInput

OUTPUT = "YXANUL_OUTPUT"  # quiet, verbose or not set: in the environment, so that every process of a command knows it
EVERYWHERE = ("--quiet", "--verbose")  # of every verb, before it or behind it
# Bars of libraries; read when these are imported
NO_BARS = {"TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, with the nearest flag where one is misspelt."""
        wrong = re.findall(r"(?<!\S)--[\w-]+", message) if message.startswith("unrecognized") else []
        below = [
            each
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for each in action.choices.values()
        ]
        flags = [flag for each in (self, *below) for flag in each._option_string_actions]
        near = difflib.get_close_matches(wrong[0], flags, n=1) if wrong else []
        hint = f"did you mean {near[0]}?" if near else f"see `{self.prog} --help`."
        self.exit(2, f"{self.prog}: {message}: {hint}\n")


def command(verb: str, doc: str, more: str = "") -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the verb's file; `more` comes after the examples."""
    about = re.sub(r"Not here:.*?(?=\n\n|\Z)", "", doc, flags=re.DOTALL)
    about = "\n".join(line for line in about.splitlines() if not line.startswith("    "))
    return Parser(
        prog=f"yxanul {verb}",
        description=re.sub(r"\n{3,}", "\n\n", about).strip(),
        epilog="\n\n".join(filter(None, [examples(doc), f"also: {', '.join(EVERYWHERE)}, see `yxanul --help`", more])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def subcommand(verbs: Any, verb: str, name: str, about: str, doc: str) -> argparse.ArgumentParser:
    """A verb's verb, with those of the examples that are its own."""
    own = verbs.add_parser(name, help=about, description=about, epilog=examples(doc, f"yxanul {verb} {name} "))
    own.formatter_class, own.allow_abbrev = argparse.RawDescriptionHelpFormatter, False
    return own


def examples(doc: str, having: str = "yxanul") -> str:
    lines = [line for line in doc.splitlines() if line.startswith("    ") and having in line]
    return "\n".join(["examples:", *lines]) if lines else ""


def is_quiet() -> bool:
    return os.environ.get(OUTPUT) == "quiet"


@contextmanager
def silenced(level: int) -> Iterator[None]:
    """Log records up to this level and warnings go nowhere; what was silent before stays so afterwards."""
    earlier = logging.root.manager.disable
    logging.disable(max(level, earlier))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(earlier)


def _stop_as_by_ctrl_c() -> Callable[[int, Any], None]:
    """What a scheduler sends, while nothing that saves itself runs yet."""
    own = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() != own:  # a worker, forked with this handler
            os._exit(128 + number)
        raise KeyboardInterrupt

    return stop


def exit_code(verb: str, main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Runs a verb; of several processes the first one speaks."""
    given = [flag.removeprefix("--") for flag in EVERYWHERE if flag in arguments]
    is_verbose = [os.environ.get(OUTPUT, ""), *given][-1] == "verbose"

    def say(sentence: str) -> None:
        if is_verbose:
            traceback.print_exc()
        if os.environ.get("RANK", "0") == "0":
            print(f"yxanul: {sentence}", file=sys.stderr)  # noqa: T201 - the command line speaks here

    with ExitStack() as stack:
        if given:
            stack.callback(os.environ.update, {OUTPUT: os.environ.get(OUTPUT, "")})
            os.environ[OUTPUT] = given[-1]
        # a rank's SIGTERM is its launcher's, who means at once; a run listens when there is something to save
        if threading.current_thread() is threading.main_thread() and "LOCAL_RANK" not in os.environ:
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _stop_as_by_ctrl_c()))
        if not is_verbose:
            stack.enter_context(silenced(logging.WARNING))
        if not is_verbose and (is_quiet() or not sys.stderr.isatty()):
            for name in NO_BARS - os.environ.keys():
                stack.callback(os.environ.pop, name)
                os.environ[name] = "1"
        try:
            code = main([word for word in arguments if word not in EVERYWHERE])
            sys.stdout.flush()
            return code
        except BadInput as error:
            say(str(error))
            return 2
        except KeyboardInterrupt:
            say(f"{verb} was stopped.")
            return 4
        except BrokenPipeError:  # `yxanul ... | head`: the reader has what it wants
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            say(f"{error.filename or verb}: {error.strerror or error}.")
            return 2
