"""The command line: verbs, bad input in one sentence, exit codes."""

import signal
import subprocess
import sys

import pytest

from yxanul.__main__ import VERBS, main


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_without_a_verb_help_is_shown_and_the_exit_code_is_2(capsys):
    assert main([]) == 2
    assert "usage: yxanul VERB" in capsys.readouterr().out


def test_version_is_printed(capsys):
    import yxanul

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"yxanul {yxanul.__version__}\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["inof"], "unknown verb 'inof': did you mean info?"),
        (["info", "yxanul-17m"], "unknown preset or folder 'yxanul-17m': did you mean yxanul-"),
        (["info", "tiny", "rms_norm_ep=1"], "command line: unknown field 'rms_norm_ep': did you mean rms_norm_eps?"),
        (["info", "tiny", "rms_norm_eps"], "'rms_norm_eps' is no setting: write key=value."),
        (["info", "tiny", "vocab_size=8", "vocab_size=9"], "'vocab_size' is given twice on the command line."),
        (["info", "tiny", "rms_norm_eps=1e-6"], "write it without quotes and, in YAML, with a dot"),
        (["info", "tiny", "num_key_value_heads=3"], "num_key_value_heads=3 must divide num_attention_heads=4"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize("flag", ["--lenght=3", "--len=3"])
def test_unknown_and_abbreviated_flags_end_the_program(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["info", "tiny", flag])
    assert stop.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_a_misspelt_flag_is_one_sentence_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "demo", "--outt", "x"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "yxanul pretrain: unrecognized arguments: --outt x: did you mean --out?\n"


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m yxanul info --all --json | head -c 10"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "Traceback" not in result.stderr and "BrokenPipe" not in result.stderr and result.returncode == 0


@pytest.mark.parametrize(
    "error, message, code",
    [
        (KeyboardInterrupt(), "yxanul: info was stopped.", 4),
        (signal.SIGTERM, "yxanul: info was stopped.", 4),
        (PermissionError(13, "Permission denied", "/x"), "yxanul: /x: Permission denied.", 2),
    ],
)
def test_a_signal_and_a_system_that_refuses_are_one_sentence(error, message, code, capsys, monkeypatch):
    from yxanul import info

    def fail(arguments):
        if isinstance(error, int):
            signal.raise_signal(error)
        raise error

    monkeypatch.setattr(info, "main", fail)
    assert main(["info", "tiny"]) == code
    assert capsys.readouterr().err == f"{message}\n"
