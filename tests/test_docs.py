"""What README and docs tell people to type works, in the order in which they read it."""

import pathlib
import re
import shlex

import pytest

from yxanul.__main__ import main

ROOT = pathlib.Path(__file__).resolve().parent.parent


def blocks(page, language):
    """The page's code blocks of one language."""
    fences = re.split(r"^```(.*)\n", (ROOT / page).read_text(), flags=re.MULTILINE)[
        1:
    ]  # language, block, "", text, ...
    return [block for found, block in zip(fences[::4], fences[1::4], strict=True) if found == language]


PAGES = ["data", "training", "recipes", "continued-pretraining", "fine-tuning"]
PAGES = ["README.md", *(f"docs/{name}.md" for name in PAGES)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "".join(blocks(page, "")).splitlines()
    commands = [line.partition("#")[0] for line in lines if re.match(r"(\.venv/bin/)?yxanul ", line)]
    assert len(commands) >= 2
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    exec(code, {})
    assert (tmp_path / "my-model" / "modeling_yxanul.py").is_file()


PRETRAIN = re.compile(r"(?:yxanul pretrain|yxanul\.training\.pretrain) (.*)")


@pytest.mark.parametrize("page", ["README.md", "docs/training.md", "docs/clusters.md", "docs/recipes.md"])
def test_runs_that_take_longer_are_planned_as_they_are_written(page, tmp_path, monkeypatch):
    """Blocks of shell commands that need minutes, GPUs or a cluster."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-run.yaml").write_text("".join(blocks("docs/training.md", "yaml")))
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    runs = [found.group(1) for line in lines if (found := PRETRAIN.search(line.partition("#")[0]))]
    assert runs
    for words in runs:
        assert main(["pretrain", *shlex.split(words.rstrip("'")), "--dry-run"]) == 0, words
    assert not (tmp_path / "runs").exists()


def test_the_plan_of_the_docs_is_one(tmp_path):
    import yaml

    from yxanul.data.plan import Plan
    from yxanul.data.stages import read_stages

    (text,) = blocks("docs/data.md", "yaml")
    stages = yaml.safe_load(text)
    for source in stages[0]["sources"]:
        source["tokens"] = 10**6  # as if the bins were not there yet
    assert Plan(read_stages(stages, tmp_path)).tokens >= 2_000_000


def test_every_link_between_pages_leads_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
