"""What a machine can do is said as it is, for people and for scripts."""

import json
import re
import sys

import pytest

from yxanul import environment
from yxanul.__main__ import main


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(environment, "_seconds_of_products", lambda count: (1.0, 1.0))


def test_json_names_every_finding_once(capsys):
    assert main(["env", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    names = [finding["name"] for finding in findings]
    assert len(set(names)) == len(names)
    here = {finding["name"]: finding for finding in findings}
    assert here["torch"]["text"] == sys.modules["torch"].__version__
    assert {"gpu", "fp8", "sandbox", "peft", "hub"} <= set(here)


def test_the_table_says_what_a_missing_package_costs_and_how_it_is_installed(capsys, monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    assert main(["env"]) == 0
    table = capsys.readouterr().out
    for extra, cost in environment.OPTIONAL.values():
        assert f'{cost} (pip install "yxanul[{extra}]")' in table


def test_every_extra_that_is_named_installs_the_package():
    import configparser
    import pathlib

    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(environment.__file__).with_name("setup.cfg"))
    for name, (extra, _) in environment.OPTIONAL.items():
        requirements = setup["options.extras_require"][extra].split()
        names = {re.match(r"[\w-]+", each)[0].lower().replace("-", "_") for each in requirements}
        assert name in names, f"{extra} does not install {name}"


def test_a_script_learns_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["env", "--need", "torch,gpu"]) == 2
    assert "needed, and not here: gpu (none that torch" in capsys.readouterr().err
    assert main(["env", "--need", "torch,compil"]) == 2
    assert "did you mean compile?" in capsys.readouterr().err


@pytest.mark.parametrize(("together", "advice"), [((0.5, 1.0), False), ((0.95, 1.9), True), ((2.0, 4.0), True)])
def test_threads_that_gain_nothing_are_advised_against(monkeypatch, together, advice):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr(environment, "_seconds_of_products", lambda count: (1.0, 1.0) if count == 1 else together)
    said = environment.threads(2)
    assert ("OMP_NUM_THREADS=1" in said) == advice
    assert f"{1 / together[0]:.2f}x as fast as one" in said
