"""What a user gave and we cannot use: one sentence that names the file, the field and the mend; and exit codes."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable


class BadInput(ValueError):
    """Its text is shown to the user as it is, without a traceback."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """For a key, preset, stage ... that does not exist: names the nearest one that does, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
    return BadInput(f"unknown {kind} {name!r}: {hint}")


def exit_code(verb: str, main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Runs a verb; of several processes the first one speaks."""

    def say(sentence: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            print(f"yxanul: {sentence}", file=sys.stderr)  # noqa: T201 - the command line speaks here

    try:
        code = main(arguments)
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
