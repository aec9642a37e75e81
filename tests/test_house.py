"""The house: its packages are listed, rooms import downwards only, and its front door is light."""

import ast
import configparser
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Who may import whom: a file's room may import the rooms that come before it here, and `run_folder`, and no others.
FLOORS = {
    "bad_input": 0,
    "shell": 1,
    "strict_yaml": 1,
    "run_folder": 0,
    "loss_yxanul": 1,
    "configuration_yxanul": 1,
    "modeling_yxanul": 2,
    "__init__": 3,
    "catalog": 4,
    "data": 5,
    "info": 6,
    "evaluation": 6,
    "training": 7,
    "hub_export": 7,
    "environment": 8,
    "demo": 8,
    "demo_problems": 8,
    "__main__": 9,
    "completion": 10,
}
HUB_FILES = ("configuration_yxanul", "modeling_yxanul", "loss_yxanul")


def package_files():
    tops = [ROOT, *(init.parent for init in ROOT.glob("*/__init__.py"))]
    return [*ROOT.glob("*.py"), *(file for top in tops[1:] for file in top.rglob("*.py"))]


def imported_modules(file):
    """(module, inside a `try`) for every import anywhere in the file; relative ones as yxanul's."""
    tree = ast.parse(file.read_text())
    guarded = {id(node) for outer in ast.walk(tree) if isinstance(outer, ast.Try) for node in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"yxanul.{node.module}" if node.level else str(node.module)
            if module == "yxanul":
                yield from ((f"yxanul.{alias.name}", id(node) in guarded) for alias in node.names)
            else:
                yield module, id(node) in guarded


def room_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def test_every_package_folder_is_listed_in_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = [ROOT, *(init.parent for top in ROOT.glob("*/__init__.py") for init in top.parent.rglob("__init__.py"))]
    found = {".".join(("yxanul", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(setup["options"]["packages"].split()) == found


@pytest.mark.parametrize("file", package_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_rooms_import_downwards_only(file):
    room = room_of(file)
    for module, _ in imported_modules(file):
        if not module.startswith("yxanul."):
            continue
        other = module.split(".")[1]
        if other not in FLOORS:  # a name of the front door, such as YxanulConfig
            other = "__init__"
        lazily_from_the_front = room == "__init__"  # it imports inside functions alone, which the next test watches
        assert other == room or FLOORS[other] < FLOORS[room] or lazily_from_the_front, f"{room} imports {module}"


@pytest.mark.parametrize("name", HUB_FILES)
def test_hub_files_import_only_torch_transformers_and_each_other(name):
    allowed = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
    file = ROOT / f"{name}.py"
    assert "yxanul." not in " ".join(line for line in file.read_text().splitlines() if "import" in line), (
        "relative ones"
    )
    for module, guarded in imported_modules(file):
        assert guarded or module.split(".")[0] in allowed or module.removeprefix("yxanul.") in HUB_FILES, module


@pytest.mark.parametrize("command", [["-c", "import yxanul"], ["-m", "yxanul", "--help"], [str(ROOT), "--help"]])
def test_the_front_door_loads_neither_torch_nor_transformers(command, tmp_path):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert any(name.startswith("yxanul") or name == "importlib.util" for name in loaded)
    assert not loaded & {"torch", "transformers", "numpy", "rich", "yaml"}


def test_names_load_on_first_use_and_register_the_auto_classes(tmp_path):
    code = (
        "import yxanul, transformers;"
        "config = yxanul.YxanulConfig();"
        "assert isinstance(transformers.AutoConfig.for_model('yxanul'), yxanul.YxanulConfig);"
        "assert transformers.AutoModelForCausalLM._model_mapping[yxanul.YxanulConfig] is yxanul.YxanulForCausalLM"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_front_door_knows_its_names_and_no_others():
    import yxanul

    assert set(yxanul._HOMES) <= set(dir(yxanul))
    with pytest.raises(AttributeError, match="no attribute 'YxanulForPoetry'"):
        _ = yxanul.YxanulForPoetry
