"""int8 and int4: a process without Yxanul's package opens the folder; every shape can go."""

import json

import pytest

from yxanul.hub_export.export_command import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target, package", [("int8", "torchao"), ("int4", "bitsandbytes")])
@pytest.mark.parametrize("layout", ["factorised-tied", "learned-positions"])
def test_a_fresh_process_opens_the_folder(exportable, target, package, layout, tmp_path, capsys):
    pytest.importorskip(package)
    assert main([str(exportable(layout)), "--to", target, "--out", str(tmp_path / "out"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["passed"] and row["logit_error"] > 1e-3, "it is quantised"
    assert any("filled up with zeros to 128" in note for note in row["notes"]) == (target == "int4")
    assert (tmp_path / "out" / target / "modeling_yxanul.py").is_file()
