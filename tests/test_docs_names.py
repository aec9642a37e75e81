"""What README, CONTRIBUTING and docs name exists: verbs and flags, make's targets, settings, files, README's tree."""

import configparser
import contextlib
import functools
import io
import pathlib
import re
import subprocess

import pytest

from yxanul.__main__ import VERBS, main
from yxanul.bad_input import BadInput
from yxanul.training.config import SETTINGS, _checked
from yxanul.training.training_arguments_fields import accept, field_types

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
MODULES = {"training.pretrain": "pretrain", "training.sft": "sft"}  # `-m yxanul.training.pretrain`, for launchers
RUNS = ("pretrain", "sft", "plan")  # they take settings
SUBVERBS = [["data", verb] for verb in ("prepare", "info", "verify", "show", "publish")]
SUBVERBS += [["tokenizer", verb] for verb in ("train", "compare")]
# of accelerate, torchrun and Slurm
FLAGS_OF_OTHERS = {"--cpu", "--multi_gpu", "--mixed_precision", "--node_rank", "--signal"}
PATH = re.compile(r"[\w.-]*(?:/[\w.-]+)*(?:\.(?:py|md|sh|cfg|toml|mjs)|/)")
# what a push leaves on the Hub, and what others are told to write
ELSEWHERE = {
    "training/config.yaml",
    "training/gates.json",
    "train_gpt_simple.py",
    "report.md",
    "verification.md",
    "first_letter.py",
}
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page):
    """Lines of the page's code: blocks, indented lines, spans between backticks; continued lines are joined."""
    text = page.read_text().replace("\\\n", " ")
    fenced = [line for block in re.findall(r"^```.*\n([\s\S]*?)^```", text, re.M) for line in block.splitlines()]
    prose = re.sub(r"^```.*\n[\s\S]*?^```", "", text, flags=re.M)
    indented = re.findall(r"^ {4,}(\S.*)", prose, re.M)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return fenced + indented + spans


def commands(page):
    """(verb, the words behind it) of every call of the command line."""
    for line in code(page):
        for part in re.split(r"&&|\||`|;(?= )", line.split(" #")[0]):
            found = re.search(r"(?:^|[\s/])(?:-m )?yxanul (?=[a-z-])(.*)|-m yxanul\.([\w.]+)(.*)", part)
            if found and found[1] is not None and not re.search(r"\bimport\b|\bpip\b|git ", part):
                verb, *words = found[1].split()
                yield verb, words
            elif found and found[2] in MODULES:
                yield MODULES[found[2]], found[3].split()


@functools.cache
def help_of(*words):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return printed.getvalue()


@by_page
def test_verbs_flags_and_settings_of_a_page_exist(page):
    for verb, words in commands(page):
        if verb in ("--help", "--version", "VERB"):
            continue
        assert verb in VERBS, f"yxanul {verb}"
        text = help_of(verb)
        choices = re.search(r"^usage: yxanul \w+ \[-h\] VERB", text)
        if choices and words and words[0] != "--help":
            assert re.search(rf"^ +{words[0]} ", text, re.M), f"yxanul {verb} {words[0]}"
            text = help_of(verb, words[0])
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(words)):
            assert re.search(rf"{flag}(?![\w-])", text), f"yxanul {verb} {flag}"
        if verb in RUNS and words and re.fullmatch(r"[a-z][\w.-]*", words[0]) and not words[0].endswith(".yaml"):
            assert (ROOT / "recipes" / f"{words[0]}.yaml").is_file(), f"yxanul {verb} {words[0]}"
        if verb in RUNS:
            for word in words:
                if re.match(r"[a-z_]+[a-z_.\d]*=", word):
                    check_setting(word.strip("'\""))


@by_page
def test_flags_named_alone_exist(page):
    """`--out` in prose is some verb's; behind a script of benchmarks/ a flag stands in that folder."""
    verbs = "".join(help_of(*words) for words in [[verb] for verb in VERBS] + SUBVERBS)
    scripts = "".join(file.read_text() for file in ROOT.glob("benchmarks/**/*.*") if file.suffix in (".py", ".sh"))
    for line in code(page):
        for flag in re.findall(r"^--[a-z][\w-]*", line):
            assert flag in FLAGS_OF_OTHERS or re.search(rf"{flag}(?![\w-])", verbs + scripts), flag
        if "benchmarks/" in line:
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", line):
                assert re.search(rf"""["( ]{flag}["\s)=]|"{flag[2:]}\"""", scripts), f"{line}: {flag}"


def check_setting(assignment):
    key, _, value = assignment.partition("=")
    name = key.split(".")[0]
    assert name in SETTINGS or accepted(name), assignment
    if name in SETTINGS and key == name and SETTINGS[name].metadata.get("choices") and "report" not in name:
        _checked(name, value, "docs")


def accepted(name):
    with contextlib.suppress(BadInput, TypeError, ValueError):
        accept(name, None, "docs")
    return name in field_types()


@by_page
def test_settings_between_backticks_exist(page):
    """`precision=fp8` and `parallel: zero1` in prose; a key that is no setting's is something else."""
    for span in re.findall(r"`(\w+)(?:=|: )([\w.]+)`", page.read_text()):
        if span[0] in SETTINGS and span[1].islower():
            check_setting("=".join(span))


@by_page
def test_extras_exist(page):
    """`pip install "yxanul[lora]"`."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for names in re.findall(r"(?:yxanul|\.)\[([\w,]+)\]", "\n".join(line for line in code(page) if "pip" in line)):
        assert set(names.split(",")) <= set(setup["options.extras_require"]), names


@by_page
def test_targets_of_make_exist(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in code(page):
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, f"make {target}"


def test_ci_runs_targets_of_make():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    used = re.findall(r"^make ([\w-]+)", (ROOT / ".ci/run").read_text(), re.M)
    assert used and set(used) <= set(targets)


@by_page
def test_files_of_a_page_exist(page):
    if page.name == "peers.md":  # it names files of other projects
        return
    to_write = set(re.findall(r"^`([\w./-]+)`:$", page.read_text(), re.M))  # the page says what stands in them
    rooms = {place.name for place in ROOT.iterdir()}
    files = {file.name for file in ROOT.glob("**/*.*") if not file.relative_to(ROOT).parts[0].startswith(".")}
    for word in (word.strip("'\"(),:;") for line in code(page) for word in line.split()):
        if not PATH.fullmatch(word) or word in ELSEWHERE | to_write:
            continue
        if "/" not in word:
            assert word in files, word
        elif word.split("/")[0] in rooms - {"bins", "runs", "results", "build", "exports"}:
            assert (ROOT / word).exists() or (page.parent / word).exists(), word


def test_the_tree_of_the_readme_is_the_one_on_disk():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("an unpacked archive, which may hold files of others")
    on_disk = {line.split("/")[0] for line in listed.stdout.splitlines()}
    block = (ROOT / "README.md").read_text().partition("## What is where")[2].split("```")[1]
    first = [re.match(r"(?:\S+, )*\S+", line) for line in block.splitlines()]
    named = {name.rstrip("/") for found in first if found for name in found[0].split(", ")}
    assert named == {name for name in on_disk if not name.startswith(".")}
