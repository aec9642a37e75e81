"""The verb: results and samples, a resume, several processes, SuperBPE's seam, and what it refuses before any work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from yxanul.__main__ import main
from yxanul.evaluation.sandbox import SandboxUnavailable
from yxanul.evaluation.task import all_tasks


def evaluate(folder, tasks, out, *more):
    return main(["evaluate", str(folder), "--tasks", tasks, "--out", str(out), *map(str, more)])


def results(out):
    return json.loads((out / "results.json").read_text())


def figures(out):
    return {name: entry["metrics"] for name, entry in results(out)["tasks"].items()}


@pytest.fixture
def data(files):
    """Of four tasks, of which one has long texts, one choices, one generates and one has shots."""
    given = {
        "wikitext": ("EleutherAI/wikitext_document_level", "test"),
        "hellaswag": ("Rowan/hellaswag", "validation"),
        "triviaqa": ("mandarjoshi/trivia_qa", "validation"),
        "gsm8k_bits": ("openai/gsm8k", "test"),
        "gsm8k_bits.shots": ("openai/gsm8k", "train"),
    }
    words = [f"--data={name}={files[place]}" for name, place in given.items()]
    return [*words, "--shots=1", f"--data=triviaqa.shots={files['mandarjoshi/trivia_qa', 'train']}"] + [
        f"--data=hellaswag.shots={files['Rowan/hellaswag', 'train']}"
    ]


ALL = "wikitext,hellaswag,triviaqa,gsm8k_bits"


def test_results_say_what_was_measured_how_and_what_was_claimed(checkpoint, files, tmp_path, capsys):
    file = files["Rowan/hellaswag", "validation"]
    assert evaluate(checkpoint(), "hellaswag", tmp_path, "--data", file, "--limit", 4) == 0
    found = results(tmp_path)
    entry = found["tasks"]["hellaswag"]
    assert found["revision"].startswith("sha256:") and "--limit 4" in found["command"]
    assert found["parameters"] > 0 and found["protocol"] == "lm-eval 0.4.13"
    wanted = {"version": 1.0, "status": "done", "n": 4, "shots": 0, "seed": 1234, "data": file, "boundary": "joint"}
    assert {key: entry[key] for key in wanted} == wanted
    assert entry["chance"]["acc"] == 0.25 and entry["claims"]["yxanul-177m"] == "45-50 %"
    assert set(entry["metrics"]) == {"acc", "acc_norm", "acc_bytes"} and entry["metrics"]["acc"]["stderr"] is not None
    printed = capsys.readouterr().out
    assert "hellaswag" in printed and "0.25" in printed and "45-50 %" in printed and "standard error" in printed
    samples = [json.loads(line) for line in (tmp_path / "samples-hellaswag.jsonl").read_text().splitlines()]
    assert [sample["id"] for sample in samples] == [0, 1, 2, 3] and samples[0]["prompt"].startswith("Removing ice")
    assert evaluate(checkpoint(), "hellaswag", tmp_path, "--data", file, "--limit", 4, "--json") == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["hellaswag"]["metrics"] == entry["metrics"]
    mean = sum(sample["metrics"]["acc"] for sample in samples) / 4
    assert entry["metrics"]["acc"]["value"] == pytest.approx(mean)


def test_built_in_domains_need_nothing(checkpoint, tmp_path):
    assert evaluate(checkpoint(), "builtin_*", tmp_path, "--limit", 1) == 0
    found = figures(tmp_path)
    assert set(found) == {f"builtin_{domain}" for domain in ("language", "code", "reasoning", "math", "instructions")}
    assert all(0 < metrics["bits_per_byte"]["value"] < 50 for metrics in found.values())


def test_a_killed_evaluation_goes_on_as_if_undisturbed(checkpoint, data, tmp_path, monkeypatch):
    from yxanul.evaluation.generation import Writer
    from yxanul.evaluation.scoring import Scorer

    folder, whole, killed = checkpoint("learnt", "bpe", 512), tmp_path / "whole", tmp_path / "killed"
    more = *data, "--batch-size", "1"
    assert evaluate(folder, ALL, whole, *more) == 0
    ran = []
    for engine in (Scorer, Writer):

        def run(self, batch, real=engine.run):
            if len(ran) in (3, 9, 14):
                ran.append("killed")
                raise KeyboardInterrupt
            ran.append(batch)
            return real(self, batch)

        monkeypatch.setattr(engine, "run", run)
    assert [evaluate(folder, ALL, killed, *more) for _ in range(3)] == [4, 4, 4]
    partial = next(killed.glob("*.partial-0.jsonl"))
    partial.write_text(partial.read_text() + '["half a li')
    assert evaluate(folder, ALL, killed, *more) == 0
    assert figures(killed) == figures(whole)
    assert [file.name for file in sorted(killed.glob("samples*"))] == [
        f"samples-{name}.jsonl" for name in sorted(ALL.split(","))
    ]
    for file in killed.glob("samples*"):
        assert file.read_text() == (whole / file.name).read_text()
    before = len(ran)
    assert evaluate(folder, ALL, killed, *more) == 0 and len(ran) == before, "what is done is not done again"


def test_two_processes_are_as_one(checkpoint, data, tmp_path):
    folder = checkpoint("learnt", "bpe", 512)
    assert evaluate(folder, ALL, tmp_path / "one", *data, "--batch-size", "2") == 0
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "yxanul"]
    words = ["evaluate", folder, "--tasks", ALL, "--out", tmp_path / "two", *data, "--batch-size", "2"]
    done = subprocess.run([sys.executable, "-m", *launch, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two/results.json").read_text())["processes"] == 2
    assert figures(tmp_path / "two") == figures(tmp_path / "one")
    for name in ALL.split(","):
        one, two = ((tmp_path / out / f"samples-{name}.jsonl").read_text() for out in ("one", "two"))
        assert one == two
    assert done.stdout.count("standard error") == 1


def test_superbpe_is_encoded_apart_and_the_result_says_so(checkpoint, files, tmp_path, capsys):
    from yxanul.evaluation.text_model import load

    folder, file = checkpoint("yxanul", "superbpe", 512), files["Rowan/hellaswag", "validation"]
    subject = load(str(folder))
    documents = map(json.loads, Path(file).read_text().splitlines())
    pairs = [all_tasks()["hellaswag"].request(document) for document in documents]
    pairs = [(request.context, ending) for request in pairs for ending in request.continuations]
    for context, ending in pairs:
        before, after = subject.pair(context, ending)
        assert (subject.tokenizer.decode(before), subject.tokenizer.decode(after)) == (context, ending)
    subject.__dict__["boundary"] = "joint"
    lost = sum(subject.tokenizer.decode(subject.pair(*pair)[1]) != pair[1] for pair in pairs)
    assert lost > 0, "lm-eval's rule loses characters here"
    assert evaluate(folder, "hellaswag", tmp_path, "--data", file) == 0
    assert results(tmp_path)["tasks"]["hellaswag"]["boundary"] == "apart"
    assert "encoded apart, not as lm-eval does" in capsys.readouterr().err


class TestPrograms:
    TASKS = "humaneval,humaneval_stripped"

    def evaluate(self, checkpoint, files, out, *more):
        file = files["openai/openai_humaneval", "test"]
        data = f"--data=humaneval={file}", f"--data=humaneval_stripped={file}"
        return evaluate(checkpoint("yxanul", "bpe", 1100), self.TASKS, out, *data, *more)

    def test_they_run_in_the_sandbox_alone_and_only_if_allowed(self, checkpoint, files, sandbox, tmp_path, capsys):
        assert self.evaluate(checkpoint, files, tmp_path) == 2 and not list(tmp_path.iterdir())
        assert "add --allow-code-execution" in capsys.readouterr().err
        sandbox.passes = lambda program: "def add" in program
        assert self.evaluate(checkpoint, files, tmp_path, "--allow-code-execution", "--sandbox", "container") == 0
        found = figures(tmp_path)
        assert [found[name]["pass@1"]["value"] for name in self.TASKS.split(",")] == [0.5, 0.5]
        samples = [json.loads(line) for line in (tmp_path / "samples-humaneval.jsonl").read_text().splitlines()]
        program = sandbox.programs[0]
        assert program.startswith(samples[0]["prompt"] + samples[0]["output"] + "\ndef check(")
        assert program.endswith("\ncheck(add)") and all(sandbox.containers) and samples[0]["reason"] == "a test"
        assert not sandbox.programs[2].startswith(samples[0]["prompt"]), "stripped"

    def test_without_a_sandbox_they_are_not_run_and_never_0(
        self, checkpoint, files, sandbox, tmp_path, capsys, monkeypatch
    ):
        def level(container):
            raise SandboxUnavailable("this kernel does not give seccomp")

        monkeypatch.setattr("yxanul.evaluation.sandbox.level", level)
        assert self.evaluate(checkpoint, files, tmp_path, "--allow-code-execution") == 2
        entry = results(tmp_path)["tasks"]["humaneval"]
        assert entry["status"] == "not run" and "metrics" not in entry and not sandbox.programs
        assert (
            "humaneval was not run: generated code is not run: this kernel does not give seccomp."
            in capsys.readouterr().err
        )


def test_a_context_too_short_to_generate_is_not_run(checkpoint, files, tmp_path, capsys):
    file = files["mandarjoshi/trivia_qa", "validation"]
    assert evaluate(checkpoint(), "triviaqa", tmp_path, "--data", file) == 2
    assert results(tmp_path)["tasks"]["triviaqa"]["status"] == "not run"
    assert "generates 256 tokens behind each prompt, and the model takes 96" in capsys.readouterr().err


class TestBadInput:
    """One sentence, before any work: nothing is written."""

    def refused(self, capsys, folder, out, tasks, *more):
        assert evaluate(folder, tasks, out, *more) == 2
        assert not out.exists()
        return capsys.readouterr().err

    @pytest.mark.parametrize(
        "tasks, more, sentence",
        [
            ("helaswag", (), "unknown task 'helaswag': did you mean hellaswag?"),
            ("gsm8k", ("--limit", 0), "--limit 0 must be at least 1"),
            ("gsm8k,c4", ("--data", "x.jsonl"), "say whose it is, such as --data gsm8k=x.jsonl"),
            ("gsm8k", ("--data", "c4=x.jsonl"), "c4 is none of what reads files: gsm8k, gsm8k.shots"),
            ("gsm8k", ("--data", "missing.jsonl"), "there is no file missing.jsonl"),
            ("builtin_math", ("--data", "x.jsonl"), "no task that runs reads a file"),
            ("wikitext", ("--data", "wikitext.shots=x.jsonl"), "is none of what reads files: wikitext."),
            ("gsm8k", ("--harness", "--data", "x.jsonl"), "--harness takes neither --data"),
        ],
    )
    def test_arguments(self, tasks, more, sentence, checkpoint, tmp_path, capsys):
        assert sentence in self.refused(capsys, checkpoint(), tmp_path / "out", tasks, *more)

    @pytest.mark.parametrize(
        "lines, sentence",
        [
            (
                [{"question": "q"}],
                "document 0 of FILE has no answer; there are question, and the task needs question,",
            ),
            ([{"question": "q", "answer": "a"}, {"answer": None}], "document 1 of FILE has no question and no answer"),
            ([], "FILE holds no document"),
            (["x"], "FILE, line 1 holds no record"),
        ],
    )
    def test_files(self, lines, sentence, checkpoint, tmp_path, capsys):
        file = tmp_path / "data.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        said = self.refused(capsys, checkpoint(), tmp_path / "out", "gsm8k_bits", "--data", file)
        assert sentence.replace("FILE", str(file)) in said

    def test_a_test_split_without_labels(self, checkpoint, public_rows, tmp_path, capsys):
        file = tmp_path / "data.jsonl"
        file.write_text(json.dumps(public_rows["Rowan/hellaswag"]["validation"][0] | {"label": ""}) + "\n")
        said = self.refused(capsys, checkpoint(), tmp_path / "out", "hellaswag", "--data", file)
        assert f"document 0 of {file} is not as it should be" in said

    def test_data_that_cannot_be_downloaded_names_the_file_to_give(self, checkpoint, tmp_path, capsys):
        said = self.refused(capsys, checkpoint(), tmp_path / "out", "gsm8k")
        assert "openai/gsm8k cannot be read from the Hub" in said and "--data gsm8k=FILE" in said
        assert "its split test as jsonl or parquet, with the columns question, answer" in said

    def test_too_few_examples_for_the_shots(self, checkpoint, files, tmp_path, capsys):
        file = files["openai/gsm8k", "test"]
        data = f"--data=gsm8k={file}", f"--data=gsm8k.shots={file}"
        assert "5 shots need more than 4" in self.refused(capsys, checkpoint(), tmp_path / "out", "gsm8k", *data)

    def test_a_tokenizer_without_an_end_of_text(self, checkpoint, tmp_path, capsys):
        folder = tmp_path / "model"
        shutil.copytree(checkpoint(), folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings.pop("eos_token")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        said = self.refused(capsys, folder, tmp_path / "out", "builtin_math")
        assert "names no end-of-text token" in said

    def test_no_model(self, tmp_path, capsys):
        said = self.refused(capsys, tmp_path / "none", tmp_path / "out", "builtin_math")
        assert "is no folder here, and no name on the Hub" in said

    def test_no_docker_and_no_podman(self, checkpoint, files, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("yxanul.evaluation.text_model.load", lambda *_, **__: 1 / 0)
        monkeypatch.setattr("yxanul.evaluation.sandbox.container.TOOLS", ())
        more = f"--data={files['openai/openai_humaneval', 'test']}", "--allow-code-execution", "--sandbox", "container"
        said = self.refused(capsys, checkpoint(), tmp_path / "out", "humaneval", *more)
        assert "--sandbox container needs Docker or Podman" in said

    def test_no_network(self, checkpoint, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        said = self.refused(capsys, checkpoint(), tmp_path / "out", "helaswag")
        assert os.environ["HF_HUB_OFFLINE"] == "1", "so that nothing tries again and again"
        assert said.startswith("http://127.0.0.1:9 cannot be reached, so") and said.count("\n") == 2

    def test_results_of_another_model(self, checkpoint, tmp_path, capsys, monkeypatch):
        assert evaluate(checkpoint(), "builtin_math", tmp_path, "--limit", 1) == 0
        monkeypatch.setattr("yxanul.evaluation.text_model.load", lambda *_, **__: 1 / 0)
        assert evaluate(checkpoint("llama"), "builtin_math", tmp_path, "--limit", 1) == 2
        assert "give another --out" in capsys.readouterr().err


def test_a_parquet_file_is_as_good(checkpoint, files, tmp_path):
    import pyarrow.parquet
    from pyarrow import Table

    file = files["openai/gsm8k", "test"]
    rows = list(map(json.loads, Path(file).read_text().splitlines()))
    pyarrow.parquet.write_table(Table.from_pylist(rows), tmp_path / "data.parquet")
    for name, path in (("jsonl", file), ("parquet", tmp_path / "data.parquet")):
        assert evaluate(checkpoint(), "gsm8k_bits", tmp_path / name, "--data", path) == 0
    assert figures(tmp_path / "jsonl") == figures(tmp_path / "parquet")


def test_right_programs_pass_in_the_real_sandbox_and_wrong_ones_do_not(files):
    from functools import partial

    from yxanul.evaluation import sandbox
    from yxanul.evaluation.runner import judge
    from yxanul.evaluation.task import read_data

    try:
        sandbox.level()
    except sandbox.SandboxUnavailable as error:
        pytest.skip(str(error))
    task = all_tasks()["humaneval"]
    data = read_data(task, {"humaneval": files["openai/openai_humaneval", "test"]})
    run = partial(sandbox.run_program, timeout=10.0)
    figures, samples = judge(task, data, ["    return a + b\n", "    open('/etc/passwd')\n"], run)
    assert [sample["metrics"]["pass@1"] for sample in samples] == [1.0, 0.0]
    assert samples[1]["reason"] != "passed" and figures["pass@1"]["value"] == 0.5


def test_two_results_can_be_compared(checkpoint, files, tmp_path):
    file = files["Rowan/hellaswag", "validation"]
    for kind in ("learnt", "llama"):
        data = f"--data=hellaswag={file}"
        assert (
            evaluate(checkpoint(kind, "bpe", 512), "hellaswag,builtin_math", tmp_path / kind, data, "--limit", 4) == 0
        )
    page = tmp_path / "page.html"
    assert main(["compare", str(tmp_path / "learnt"), str(tmp_path / "llama"), "--html", str(page)]) == 0
    assert "acc_norm" in page.read_text() and "bits_per_byte" in page.read_text()
