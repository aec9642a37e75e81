"""`yxanul completion bash|zsh|fish`: prints a script that completes verbs, flags and the names that they take.

    yxanul completion bash > ~/.local/share/bash-completion/completions/yxanul
    yxanul completion zsh > ~/.zfunc/_yxanul
    yxanul completion fish > ~/.config/fish/completions/yxanul.fish

The script is plain text made from the verbs' own parsers, so that a key press starts no Python; after an update of
yxanul it is made anew. Where no name is known, files are completed.
"""

import argparse
import importlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from yxanul.__main__ import VERBS
from yxanul.data.progress import answer
from yxanul.shell import EVERYWHERE, command

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Flag:
    about: str
    takes_value: bool = False
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verb:
    """`path`: the words behind yxanul, such as `data prepare`; `names`: what may stand behind them without a flag."""

    path: str
    about: str
    names: tuple[str, ...]
    flags: dict[str, Flag]


def main(arguments: list[str]) -> int:
    shell = parser().parse_args(arguments).shell
    script = fish if shell == "fish" else bash if shell == "bash" else zsh
    answer(script(list(verbs())))
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("completion", __doc__)
    parser.add_argument("shell", choices=SHELLS)
    return parser


def verbs() -> Iterator[Verb]:
    names = known_names()
    for verb, (module, about) in VERBS.items():
        loaded = importlib.import_module(module)
        yield from _described(verb, about, loaded.parser(), names)


def known_names() -> dict[str, tuple[str, ...]]:
    """Of arguments (`verb destination`) that take one of a table's names and, for other answers, have no `choices`."""
    from yxanul.catalog import preset_names
    from yxanul.evaluation.task import all_tasks
    from yxanul.hub_export.export_command import TARGETS
    from yxanul.training.config import recipes
    from yxanul.training.estimate import GPUS
    from yxanul.training.trackers import NAMES

    return {
        "info model": tuple(preset_names()),
        **dict.fromkeys(("pretrain words", "sft words", "pretrain config", "sft config"), tuple(recipes())),
        "plan recipe": tuple(recipes()),
        "plan gpu": tuple(GPUS),
        "evaluate tasks": tuple(all_tasks()),
        "export to": tuple(TARGETS),
        "push more": tuple(TARGETS),
        "track to": tuple(NAMES),
    }


def _described(
    path: str, about: str, parser: argparse.ArgumentParser, known: dict[str, tuple[str, ...]]
) -> Iterator[Verb]:
    names: tuple[str, ...] = ()
    flags = {flag: Flag("of every verb") for flag in EVERYWHERE}
    for action in parser._actions:
        values = known.get(f"{path} {action.dest}", tuple(map(str, action.choices or ())))
        if action.option_strings:
            flags[action.option_strings[-1]] = Flag(action.help or "", action.nargs != 0, values)
        else:
            names += values
        if isinstance(action, argparse._SubParsersAction):
            for name, own in action.choices.items():
                yield from _described(f"{path} {name}", own.description or "", own, known)
    yield Verb(path, about, names, flags)


BASH = """\
# yxanul completion bash
_yxanul() {
    local verb=${COMP_WORDS[1]} before=${COMP_WORDS[COMP_CWORD-1]} word=${COMP_WORDS[COMP_CWORD]} found=
    if [ "$COMP_CWORD" -eq 1 ]; then verb= before=; fi
    if [ "$COMP_CWORD" -gt 2 ]; then case "$verb" in PARENTS) verb="$verb ${COMP_WORDS[2]}" ;; esac; fi
CASES
    COMPREPLY=($(compgen -W "$found" -- "$word"))
}
complete -o default -F _yxanul yxanul"""
ZSH = """\
#compdef yxanul
# yxanul completion zsh
_yxanul() {
    local verb=${words[2]} before=${words[CURRENT-1]} word=${words[CURRENT]} found=
    if [ "$CURRENT" -eq 2 ]; then verb= before=; fi
    if [ "$CURRENT" -gt 3 ]; then case "$verb" in PARENTS) verb="$verb ${words[3]}" ;; esac; fi
CASES
    compadd -- ${=found} || _files
}
if [ "$funcstack[1]" = "_yxanul" ]; then _yxanul "$@"; else compdef _yxanul yxanul; fi"""


def bash(verbs: list[Verb]) -> str:
    return _filled(BASH, verbs)


def zsh(verbs: list[Verb]) -> str:
    return _filled(ZSH, verbs)


def _filled(template: str, verbs: list[Verb]) -> str:
    """`case` is the same in both shells: what stands before the cursor decides, a flag's value first."""
    lines = ['    case "$verb $before" in']
    for verb in verbs:
        taking = {f'"{verb.path} {name}"': flag.values for name, flag in verb.flags.items() if flag.takes_value}
        lines += [f'    {where}) found="{" ".join(values)}" ;;' for where, values in taking.items() if values]
        if files := [where for where, values in taking.items() if not values]:
            lines.append(f"    {'|'.join(files)}) ;;")
    lines += ['    *) case "$verb:$word" in', f'        :*) found="{" ".join([*VERBS, "--help", "--version"])}" ;;']
    for verb in verbs:
        lines.append(f'        "{verb.path}":-*) found="{" ".join(verb.flags)}" ;;')
        lines.append(f'        "{verb.path}":*) found="{" ".join(verb.names)}" ;;')
    lines.append("        esac ;;\n    esac")
    parents = "|".join(sorted({verb.path.split()[0] for verb in verbs if " " in verb.path}))
    return template.replace("PARENTS", parents).replace("CASES", "\n".join(lines))


FISH = """\
# yxanul completion fish
function __yxanul_at
    set -l words (commandline -opc)
    test "$words[2..$(math (count $argv) + 1)]" = "$argv"
end
complete -c yxanul -n 'test (count (commandline -opc)) -eq 1' -l version"""


def fish(verbs: list[Verb]) -> str:
    lines = [FISH]
    for name, (_, about) in VERBS.items():
        lines.append(f"complete -c yxanul -n 'test (count (commandline -opc)) -eq 1' -f -a {name} -d {_quoted(about)}")
    for verb in verbs:
        at = f"complete -c yxanul -n '__yxanul_at {verb.path}'"
        lines += [f"{at} -a {_quoted(' '.join(verb.names))}"] if verb.names else []
        for name, flag in verb.flags.items():
            values = f" -x -a {_quoted(' '.join(flag.values))}" if flag.values else " -r" if flag.takes_value else ""
            lines.append(f"{at} -l {name.removeprefix('--')}{values} -d {_quoted(flag.about)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return shlex.quote(" ".join(text.replace("%%", "%").replace("'", "").split()))
