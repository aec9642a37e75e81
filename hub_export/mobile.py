"""Target `mobile`: the model in ONNX Runtime's own format, for its packages on Android and iOS; see docs/mobile.md.

    model_int8.ort  tokenizer.json  tokenizer_config.json  generation_config.json  config.json

The graph is optimised here, so that the phone only reads it. ExecuTorch would be a second runtime for the same phones;
this one opens the very graph that `onnx` makes, and opens here too.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from yxanul.data.whole_files import write_json
from yxanul.hub_export import onnx
from yxanul.hub_export.onnx_client import OnnxRuntime
from yxanul.hub_export.source import Source
from yxanul.hub_export.verify import Artefact

TYPES = onnx.TYPES
DEFAULT = ("int8",)
NEEDS = onnx.NEEDS
check = onnx.check


def write(source: Source, folder: Path, types: Sequence[str]) -> Iterator[Artefact]:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch)
        for kind, artefact in zip(types, onnx.write(source, made, types), strict=True):
            if not (folder / "config.json").exists():
                _copy_beside(made, folder)
            path = folder / f"model_{kind}.ort"
            _convert(artefact.path, path)
            artefact.path.unlink()
            clients = [partial(OnnxRuntime, path, folder, config=source.config, batch=batch) for batch in (1, 3)]
            yield Artefact(path, f"mobile {kind}", clients, artefact.limits)


def _convert(graph: Path, path: Path) -> None:
    import onnxruntime

    how = onnxruntime.SessionOptions()
    how.optimized_model_filepath = str(path)
    # not ALL: its last level lays numbers out for the processor of this machine
    how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    how.add_session_config_entry("session.save_model_format", "ORT")
    how.log_severity_level = 3
    onnxruntime.InferenceSession(graph, how, providers=["CPUExecutionProvider"])


def _copy_beside(made: Path, folder: Path) -> None:
    for file in made.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["transformers.js_config"]
    write_json(folder / "config.json", config)
