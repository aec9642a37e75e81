"""What README and docs tell people to type works, in the order in which they read it."""

import ast
import collections
import json
import pathlib
import re
import shlex
import shutil

import pytest

from yxanul.__main__ import main

ROOT = pathlib.Path(__file__).resolve().parent.parent


def blocks(page, language):
    """The page's code blocks of one language."""
    fences = re.split(r"^```(.*)\n", (ROOT / page).read_text(), flags=re.MULTILINE)[
        1:
    ]  # language, block, "", text, ...
    return [block for found, block in zip(fences[::4], fences[1::4], strict=True) if found == language]


def files_of(page):
    """Those that the page says to write: their name between backticks and a colon, then a block."""
    return re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


PAGES = ["data", "training", "recipes", "continued-pretraining", "fine-tuning", "own-text", "laptop"]
PAGES = ["README.md", *(f"docs/{name}.md" for name in PAGES)]
OWN_TEXT = ("training", "data", "fine-tuning", "evaluation", "precision", "health")


# pages that repeat commands of another, which are run once: both work in one folder
REPEATS = {
    "docs/data.md": "README.md",
    "docs/continued-pretraining.md": "docs/recipes.md",
    "docs/fine-tuning.md": "docs/recipes.md",
}


@pytest.fixture(scope="module")
def workplaces(tmp_path_factory):
    """Of a page: its folder, and the commands that were run there."""
    return collections.defaultdict(lambda: (tmp_path_factory.mktemp("page"), []))


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_run_one_after_the_other(page, workplaces, monkeypatch):
    folder, done = workplaces[REPEATS.get(page, page)]
    monkeypatch.chdir(folder)
    for name, text in files_of(page):
        (folder / name).write_text(text)
    (folder / "my-text").mkdir(exist_ok=True)
    for name in OWN_TEXT:
        shutil.copy(ROOT / f"docs/{name}.md", folder / "my-text")
    run_commands(page, done)


def run_commands(page, done):
    lines = "".join(blocks(page, "")).splitlines()
    commands = [line.partition("#")[0] for line in lines if re.match(r"(\.venv/bin/)?yxanul ", line)]
    assert len(commands) >= 2
    for command in commands:
        words = shlex.split(command)[1:]
        if words not in done:
            assert main(words) == 0, command
            done.append(words)


def test_the_preset_stage_metric_and_task_of_the_docs_work_together(tmp_path, monkeypatch):
    """The page's files are put beside the package's own, and its commands run."""
    import yxanul.evaluation.metrics as metrics
    import yxanul.evaluation.tasks as tasks
    from yxanul import catalog

    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    for name, text in files_of("docs/extending.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "evaluation/metrics/first_letter/__init__.py").touch()
    monkeypatch.setattr(catalog, "_presets", lambda: tmp_path / "presets")
    for package, folder in ((metrics, "metrics"), (tasks, "tasks")):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "evaluation" / folder)])
    (line,) = re.findall(r"the line `(.*?),` in `CLASSES`", (ROOT / "docs/extending.md").read_text())
    name, class_name = ast.literal_eval(f"({line.replace(':', ',')})")
    monkeypatch.setitem(metrics.CLASSES, name, class_name)
    run_commands("docs/extending.md", [])
    verdicts = json.loads((tmp_path / "runs/mine/gates.json").read_text())
    assert {name: verdict["passed"] for name, verdict in verdicts.items()} == {"reasoning": True, "math": True}
    results = json.loads((tmp_path / "results/mine/results.json").read_text())
    assert results["tasks"]["capitals"]["n"] == 3


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


def test_the_sums_of_the_systems_are_those_of_their_recipes(capsys):
    sums = re.findall(r"^    together: .* for ([\w.-]+)$", (ROOT / "docs/systems.md").read_text(), re.MULTILINE)
    page = (ROOT / "docs/systems.md").read_text()
    assert len(sums) == 5
    for model, recipe in zip(sums, ["yxanul-177m-24gb", *sums[1:]], strict=True):
        assert main(["plan", recipe]) == 0
        (line,) = re.findall(rf"^together: .* for {model}$", capsys.readouterr().out, re.MULTILINE)
        assert f"    {line}\n" in page


def test_every_link_between_pages_leads_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
            place = page.parent / target if target else page
            assert place.exists(), f"{page.name}: {target}"
            if heading:
                titles = re.findall(r"^#+ (.+)", place.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
                assert heading in slugs, f"{page.name}: {target}#{heading}"
