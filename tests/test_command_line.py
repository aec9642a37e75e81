"""What all verbs share: examples that are true, --quiet and --verbose, JSON, no bars in pipes, completion."""

import io
import json
import logging
import shlex
import shutil
import subprocess
import sys
import warnings

import pytest

from yxanul import completion
from yxanul.__main__ import VERBS, main
from yxanul.data.progress import Progress, answer_table, say
from yxanul.shell import silenced

WITHOUT_FIGURES = {"demo", "pretrain", "sft", "merge", "chat", "generate", "report", "track", "completion"}
WITHOUT_FIGURES |= {"data", "tokenizer", "data publish"}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def verbs():
    return {verb.path: verb for verb in completion.verbs()}


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples_that_the_verbs_own_parser_takes(verb, capsys):
    known = completion.known_names()
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "Not here" not in shown and "--quiet" in shown
    lines = [line.partition("yxanul ")[2] for line in shown.splitlines() if line.startswith("    ")]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith(f"{verb} ")]
    assert 2 <= len(commands) <= 6
    for _, *words in commands:
        parser = completion.importlib.import_module(VERBS[verb][0]).parser()
        if verb == "completion":
            words = words[: words.index(">")]
        if f"{verb} words" in known or f"{verb} recipe" in known:
            assert words[0] in known["plan recipe"]
        parse = parser.parse_args if parser._subparsers else parser.parse_intermixed_args
        parse(words)


def test_every_part_of_a_verb_has_examples_of_its_own(verbs, capsys):
    for path in (path for path in verbs if " " in path):
        with pytest.raises(SystemExit):
            main([*path.split(), "--help"])
        assert f"    yxanul {path} " in capsys.readouterr().out


def test_whatever_prints_figures_prints_them_as_json_too(verbs):
    assert {path for path, verb in verbs.items() if "--json" not in verb.flags} == WITHOUT_FIGURES


@pytest.fixture(scope="module")
def bins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bins")
    (folder / "texts").mkdir()
    for number in range(8):
        (folder / "texts" / f"{number}.txt").write_text(f"Text {number}: " + "more and more words. " * 40)
    (folder / "notes.txt").write_text("one line\n")
    words = f"tokenizer train --kind bpe --vocabulary 270 --source {folder}/texts --out {folder}/tokenizer"
    assert main(words.split()) == 0
    words = f"data prepare --source {folder}/texts --tokenizer {folder}/tokenizer --out {folder}/made --workers 1"
    assert main(words.split()) == 0
    return folder


@pytest.mark.parametrize(
    "command, figure",
    [
        ("info tiny", "parameters"),
        ("info --all", "parameters"),
        ("plan demo --gpu a100", "estimate"),
        ("env", "torch"),
        ("data info BINS/made", "bytes"),
        ("data verify BINS/made", "bytes"),
        ("data show BINS/made/train 0", "documents"),
        ("data prepare --source BINS/texts --tokenizer BINS/tokenizer --out NEW --workers 1", "tokens"),
        ("tokenizer train --kind bpe --vocabulary 270 --source BINS/texts --out NEW", "fingerprint"),
        ("tokenizer compare BINS/tokenizer --source BINS/texts", "bytes_per_token"),
    ],
)
def test_json_is_all_that_standard_output_gets(command, figure, bins, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("yxanul.environment.threads", lambda cores: "")
    words = command.replace("BINS", str(bins)).replace("NEW", str(tmp_path / "new")).split()
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert f'"{figure}"' in json.dumps(facts)


@pytest.mark.parametrize("words", [["--quiet", "plan", "demo"], ["plan", "demo", "--quiet"]])
def test_quiet_leaves_the_figures_alone(words, capsys):
    assert main([*words, "--scale", "tiny"]) == 0
    quiet = capsys.readouterr()
    assert not quiet.err and "together: " in quiet.out


def test_without_quiet_the_same_command_speaks(capsys):
    assert main(["plan", "demo", "--scale", "tiny"]) == 0
    assert "toy" in capsys.readouterr().err


def test_quiet_does_not_hide_what_went_wrong_and_verbose_says_where(capsys):
    assert main(["--quiet", "inof"]) == 2
    assert capsys.readouterr().err == "yxanul: unknown verb 'inof': did you mean info?\n"
    assert main(["inof", "--verbose"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.endswith("did you mean info?\n")


def noisy(arguments):
    with silenced(logging.WARNING):
        logging.getLogger("some.library").warning("a silenced part of it, which ends in what was silent before")
    warnings.warn("a library's warning", UserWarning, stacklevel=1)
    logging.getLogger("some.library").warning("a library's log")
    return 0


def test_libraries_are_heard_with_verbose_alone_and_afterwards_as_before(capsys, caplog, monkeypatch):
    monkeypatch.setattr("yxanul.info.main", noisy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["info"]) == 0
        assert not caught and not caplog.records
        assert main(["info", "--verbose"]) == 0
        assert len(caught) == 1 and len(caplog.records) == 1
        assert not logging.root.manager.disable


def test_a_pipe_gets_neither_bars_nor_escapes_from_libraries():
    code = (
        "import sys; from yxanul.shell import exit_code\n"
        "def main(words):\n"
        "    from tqdm.auto import tqdm; list(tqdm(range(3)))\n"
        "    from huggingface_hub.utils import tqdm; list(tqdm(range(3)))\n"
        "    return 0\n"
        "sys.exit(exit_code('x', main, sys.argv[1:]))"
    )
    heard = [
        subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True).stderr
        for words in ([], ["--verbose"])
    ]
    assert not heard[0] and "3/3" in heard[1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def coloured_table():
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("name")
    table.add_row("[green]" + "long-" * 60 + "[/green]")
    table.add_row("short")
    return table


@pytest.mark.parametrize(
    "stream, no_color, coloured", [(Terminal, "", True), (Terminal, "1", False), (io.StringIO, "", False)]
)
def test_colours_are_for_terminals_that_want_them(stream, no_color, coloured, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stdout", stream())
    answer_table(coloured_table())
    assert ("\x1b[32m" in sys.stdout.getvalue()) == coloured


def test_a_table_in_a_pipe_is_neither_cut_nor_padded(capsys):
    answer_table(coloured_table())
    assert capsys.readouterr().out.splitlines() == ["name", "long-" * 60, "short"]


def test_quiet_has_no_progress(monkeypatch):
    monkeypatch.setenv("YXANUL_OUTPUT", "quiet")
    streams = [io.StringIO(), Terminal()]
    for stream in streams:
        with Progress("work", 2, 0, stream) as progress:
            progress.end_part()
    assert not any(stream.getvalue() for stream in streams)


def test_quiet_hides_remarks(monkeypatch, capsys):
    monkeypatch.setenv("YXANUL_OUTPUT", "quiet")
    say("a remark")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("words, message", [(["--need", ""], "empty name"), (["--need", "torch,"], "empty name")])
def test_env_is_told_what_to_need(words, message, capsys):
    assert main(["env", *words]) == 2
    assert message in capsys.readouterr().err


def test_processes_is_a_number_and_the_message_says_so(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "demo", "--out", "x", "--processes", "x"])
    assert "--processes: x must be a whole number, at least 1" in capsys.readouterr().err


# -- completion

COMPLETED = [
    (["expo"], {"export"}),
    (["export", "runs/a", "--to", "gg"], {"gguf"}),
    (["data", "pre"], {"prepare"}),
    (["data", "prepare", "--tok"], {"--tokenizer"}),
    (["info", "yxanul-1"], {"yxanul-177m", "yxanul-197m"}),
    (["pretrain", "dem"], {"demo"}),
    (["tokenizer", "train", "--kind", "s"], {"superbpe"}),
    (["chat", "--qui"], {"--quiet"}),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory, verbs):
    folder = tmp_path_factory.mktemp("scripts")
    for shell in completion.SHELLS:
        (folder / shell).write_text(getattr(completion, shell)(list(verbs.values())))
    return folder


def shell(cwd, *command):
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    assert not result.stderr
    return result.stdout


@pytest.mark.parametrize("words, expected", COMPLETED, ids=lambda value: " ".join(value))
def test_bash_completes(words, expected, scripts):
    line = shlex.join(["yxanul", *words])
    code = f"source {scripts}/bash; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _yxanul; echo ${{COMPREPLY[*]}}"
    assert set(shell(scripts, "bash", "--norc", "-c", code).split()) == expected


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
@pytest.mark.parametrize("words, expected", COMPLETED, ids=lambda value: " ".join(value))
def test_zsh_completes(words, expected, scripts):
    line = shlex.join(["yxanul", *words])
    code = (
        "compdef() { : }; compadd() { shift; print -l -- ${(M)@:#$word*} }; _files() { print FILES }\n"
        f"source {scripts}/zsh; words=({line}); CURRENT={len(words) + 1}; _yxanul"
    )
    assert set(shell(scripts, "zsh", "-f", "-c", code).split()) == expected


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
@pytest.mark.parametrize("words, expected", COMPLETED, ids=lambda value: " ".join(value))
def test_fish_completes(words, expected, scripts):
    code = f"source {scripts}/fish; complete -C {shlex.quote(shlex.join(['yxanul', *words]))}"
    assert {
        line.partition("\t")[0] for line in shell(scripts, "fish", "--no-config", "-c", code).splitlines()
    } == expected


def test_where_no_name_is_known_bash_completes_files(scripts):
    for words in ("yxanul chat ''", "yxanul data prepare --source ''"):
        code = f"source {scripts}/bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _yxanul"
        said = shell(scripts, "bash", "--norc", "-c", f"{code}; echo ${{#COMPREPLY[@]}}; complete -p yxanul")
        assert said == "0\ncomplete -o default -F _yxanul yxanul\n"


def test_names_of_tables_belong_to_arguments_that_exist(verbs):
    for where in completion.known_names():
        path, destination = where.rsplit(" ", 1)
        parser = completion.importlib.import_module(VERBS[path][0]).parser()
        assert destination in {action.dest for action in parser._actions}
