"""Target `web`: one static folder in which people chat with the model in their browser, and nothing leaves it.

    yxanul export runs/demo --to web --out exports && python3 -m http.server 8000 --directory exports/web

WebGPU where there is one (fp16 if it was exported), else WebAssembly (int8). What runs the model, transformers.js and
ONNX Runtime's WebAssembly, comes from npm in fixed versions and stays in a cache. Not here: the page itself (page/).
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from yxanul.bad_input import BadInput
from yxanul.data.whole_files import write_json
from yxanul.hub_export import onnx
from yxanul.hub_export.source import Source
from yxanul.hub_export.verify import Artefact

AUTO = "auto"
TYPES = (AUTO, *onnx.TYPES)
DEFAULT = (AUTO,)
NEEDS = onnx.NEEDS
SMALL = 50_000_000  # parameters: fp32 is 200 MB; below, 8 bits would cost more quality than they save bytes
PAGE = Path(__file__).with_name("page")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "yxanul", "npm")
TRANSFORMERS, RUNTIME = "@huggingface/transformers@4.3.1", "onnxruntime-web@1.31.0-dev.20260914-8d85527a0"
RUN_FILES = {  # onnxruntime-web is the version that this transformers.js was built with
    TRANSFORMERS: ("dist/transformers.min.js", "LICENSE"),
    RUNTIME: ("dist/ort-wasm-simd-threaded.asyncify.mjs", "dist/ort-wasm-simd-threaded.asyncify.wasm"),
}
NEW_TOKENS = 512
EXAMPLES = ["What is 17 + 25?", "Tom has 3 boxes of 4 apples and eats 2 apples. How many are left?"]


def check(source: Source, types: Sequence[str]) -> None:
    onnx.check(source, _kinds(source, types))
    if not shutil.which("npm") and not all(_tarball(package).exists() for package in RUN_FILES):
        raise BadInput(
            "web: what runs a model in a browser comes from npm, and npm is not here: install Node.js, which brings "
            "it, and try again."
        )


def write(source: Source, folder: Path, types: Sequence[str]) -> Iterator[Artefact]:
    kinds = _kinds(source, types)
    (folder / "run").mkdir(parents=True)
    for package, files in RUN_FILES.items():
        _fetch(package, files, folder / "run")
    for file in PAGE.iterdir():
        shutil.copyfile(file, folder / file.name)
    for artefact in onnx.write(source, folder / "model", kinds):
        yield Artefact(artefact.path, artefact.name.replace("onnx", "web"), artefact.clients, artefact.limits)
    passed = [kind for kind in kinds if (folder / "model" / "onnx" / onnx.FILES[kind][0]).exists()]
    longest = source.config.max_position_embeddings
    settings = {
        "name": source.file_name,
        "longest": longest,
        "newTokens": min(NEW_TOKENS, longest // 2),
        "types": {device: onnx.FILES[_for(device, passed)][1] for device in ("webgpu", "wasm") if passed},
        "examples": EXAMPLES,
    }
    write_json(folder / "settings.json", settings)


def _kinds(source: Source, types: Sequence[str]) -> Sequence[str]:
    if AUTO not in types:
        return types
    return ("fp32",) if source.parameters <= SMALL else ("fp16", "int8")


def _for(device: str, kinds: Sequence[str]) -> str:
    """A GPU likes fp16; 8 bits are fastest without one, where 4 bits are slowest."""
    order = ("fp16", "q4f16", "fp32", "q4", "int8") if device == "webgpu" else ("int8", "fp32", "fp16", "q4", "q4f16")
    return next(kind for kind in order if kind in kinds)


def _tarball(package: str) -> Path:
    """Where `npm pack` puts it."""
    return CACHE / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")


def _fetch(package: str, files: Sequence[str], to: Path) -> None:
    """npm checks the archive against the registry's hash; nothing of it is run here."""
    archive = _tarball(package)
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        words = ["npm", "pack", package, "--ignore-scripts", "--silent"]
        done = subprocess.run(words, cwd=CACHE, capture_output=True, text=True)
        if done.returncode or not archive.exists():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise BadInput(
                f"web: npm could not fetch {package} ({reason}): try again with a network, or `npm pack {package}` "
                f"where there is one and put the archive into {CACHE}."
            )
    with tarfile.open(archive) as opened:
        for name in files:
            stream = opened.extractfile(f"package/{name}")
            assert stream is not None
            (to / Path(name).name).write_bytes(stream.read())
