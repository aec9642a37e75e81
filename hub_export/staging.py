"""What leaves this machine: files of an allow-list, copied into a fresh folder. What is not listed never leaves.

    stage_model(subject, Path("fresh"))                  # weights, config, our code, tokenizer
    stage_data(Path("bins/demo"), Path("fresh"))         # token bins, or records

Listed files that are symbolic links are refused, and so is a text in which an access token or a private key stands.
Code is this package's own, whatever lies in the folder. Not here: which folder it is (subject.py), the card (card.py),
the upload (upload.py).
"""

import re
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.bins import FORMAT, MANIFEST, verify_bin
from yxanul.data.whole_files import write_json
from yxanul.hub_export.subject import ADAPTER, CONFIG, WEIGHTS, Subject, read_object
from yxanul.run_folder import RunFolder

CARD = "README.md"
OF_MODELS = re.compile(
    rf"{WEIGHTS.pattern}|(config|generation_config|model\.safetensors\.index|adapter_config)\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json|chat_template\.jinja"
)
# Of `yxanul export`; what else lies in its folders stays
OF_EXPORTS = re.compile(
    r"\w[\w.-]*\.(safetensors|json|jinja|gguf|onnx|onnx_data|ort|html|css|m?js|wasm|md)"
    r"|\w+_yxanul\.py|Modelfile|LICENSE"
)
OF_RECORDS = re.compile(r"[\w.-]+\.(jsonl|parquet)")
# What a push may put into a repository: what of it is there and no longer pushed goes, for it is of other weights
OURS = re.compile(
    rf"{OF_MODELS.pattern}|\w+_yxanul\.py|{CARD}|(eval|training|verification|llama|int8|int4|onnx|mobile|web)/.*"
    r"|\.eval_results/[\w-]+\.yaml|[^/]+\.gguf|Modelfile|([\w.-]+/)*(tokens-\d{5}\.bin|\w+\.idx|manifest\.json)"
    rf"|{OF_RECORDS.pattern}"
)
# Of the machine on which it was saved; and the addresses of the code, which are written anew
NOT_CONFIG = ("_name_or_path", "name_or_path", "auto_map", "tokenizer_file", "is_local", "local_files_only")
SECRETS = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36}|sk-[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
PLACE = re.compile(r"(?<![\w:/.~])(~|/[\w.@+-]+)(/[\w.@+-]+)+/?")  # an absolute path


def stage_model(subject: Subject, staged: Path, base: str | None = None) -> list[str]:
    """Returns the names in the folder that stay. `base`: on the Hub, of an adapter."""
    stays = _copy_listed(subject.folder, staged, OF_MODELS, _stale(subject.folder))
    if subject.is_adapter:
        write_json(staged / ADAPTER, read_object(staged / ADAPTER) | {"base_model_name_or_path": base})
    for name in (CONFIG, "tokenizer_config.json"):
        if (staged / name).is_file():
            values = read_object(staged / name)
            values = {key: value for key, value in values.items() if key not in NOT_CONFIG}
            if name == CONFIG:
                values |= _code(values, staged)
            write_json(staged / name, values)
    return [name for name in stays if not (staged / name).exists()]


def _stale(folder: Path) -> set[str]:
    """Weights that nobody would load: shards beside one whole file, or that the index does not name."""
    stale = set()
    for stem in ("model", "adapter_model"):
        index = folder / f"{stem}.safetensors.index.json"
        named = {f"{stem}.safetensors"}
        if index.is_file() and not (folder / f"{stem}.safetensors").exists():
            named = {index.name, *read_object(index).get("weight_map", {}).values()}
            for name in sorted(named):
                if not (folder / name).exists():
                    raise BadInput(
                        f"{folder} lacks {name}, which {index.name} names: copy it there, or save it again."
                    )
        stale |= {file.name for file in folder.glob(f"{stem}*.safetensors*")} - named
    return stale


def _code(config: dict[str, Any], staged: Path) -> dict[str, Any]:
    """Copies ours; the `auto_map` of all Auto classes, which vLLM and others go by."""
    if config.get("model_type") == "llama":  # needs none
        return {}
    if config.get("model_type") != "yxanul":
        raise BadInput(f"{CONFIG}: model_type is {config.get('model_type')!r}; models of yxanul and llama are pushed.")
    from yxanul.modeling_yxanul import AUTO_MAP, HUB_FILES

    for name in HUB_FILES:
        shutil.copyfile(Path(__file__).parent.parent / name, staged / name)
    return {"auto_map": dict(AUTO_MAP)}


def is_data(folder: Path) -> bool:
    """A token bin, or a folder of such."""
    is_model = any((folder / name).is_file() for name in (CONFIG, ADAPTER, RunFolder(folder).config.name))
    return not is_model and any(bins_in(folder))


def bins_in(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob(MANIFEST)):
        if f'"{FORMAT}"' in file.read_text(encoding="utf-8"):
            yield file.parent


def stage_data(place: Path, staged: Path) -> list[str]:
    """Bins, each compared with the sha256 of its files; or records (jsonl, parquet), a file or a folder of them."""
    if place.is_file() and OF_RECORDS.fullmatch(place.name):
        return _copy_listed(place.parent, staged, re.compile(re.escape(place.name)))[:0]
    if not place.is_dir():
        raise BadInput(f"{place} is no data: give a token bin, a folder of bins, or jsonl or parquet files.")
    if not is_data(place):
        stays = _copy_listed(place, staged, OF_RECORDS)
        if not any(staged.iterdir()):
            raise BadInput(f"{place} holds no data: no token bin ({MANIFEST}), and no jsonl or parquet file.")
        return stays
    for folder in bins_in(place):
        verify_bin(folder)
        names = [re.escape(name) for name in read_object(folder / MANIFEST)["files"]]
        target = staged / folder.relative_to(place)
        target.mkdir(parents=True, exist_ok=True)
        _copy_listed(folder, target, re.compile("|".join([re.escape(MANIFEST), *names])))
        write_json(target / MANIFEST, without_places(read_object(target / MANIFEST)))
    return sorted(each.name for each in place.iterdir() if not (staged / each.name).exists())


def _copy_listed(folder: Path, staged: Path, listed: re.Pattern[str], but: Set[str] = frozenset()) -> list[str]:
    """Plain files of the folder itself whose whole name is listed. Returns what stays."""
    stays = []
    for file in sorted(folder.iterdir()):
        if not listed.fullmatch(file.name) or file.name in but or file.is_dir():
            stays.append(file.name)
        elif file.is_symlink() or not file.is_file():
            raise BadInput(f"{file} is a symbolic link or no plain file, and could be anything: put the file there.")
        else:
            shutil.copyfile(file, staged / file.name)
    return stays


def check_no_secrets(staged: Path, token: str | None) -> None:
    """Before anything leaves: no text holds an access token, this user's least of all."""
    for path, _ in files_of(staged):
        if path.endswith((".safetensors", ".bin", ".idx", ".gguf", ".onnx", ".onnx_data", ".parquet", ".pte")):
            continue
        with (staged / path).open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if SECRETS.search(line) or (token and token in line):
                    raise BadInput(f"{path}, line {number}, holds an access token or a private key: nothing was sent.")


def without_places(value: Any) -> Any:
    """A JSON value whose texts name no folder of this machine: of an absolute path the last name stays."""
    if isinstance(value, str):
        return PLACE.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], value)
    if isinstance(value, list):
        return [without_places(each) for each in value]
    if isinstance(value, dict):
        return {key: without_places(each) for key, each in value.items()}
    return value


def files_of(staged: Path) -> Iterator[tuple[str, int]]:
    for file in sorted(staged.rglob("*")):
        if file.is_file():
            yield file.relative_to(staged).as_posix(), file.stat().st_size
