"""The card of a data set: token bins with their counts, sources and tokenizer, or records with their columns.

Not here: models (card.py), the formats themselves (data/bins.py).
"""

import json
from pathlib import Path
from typing import Any

import yaml

from yxanul.bad_input import BadInput
from yxanul.data.bins import MANIFEST
from yxanul.hub_export.card import About, licence_fields
from yxanul.hub_export.markdown import grid
from yxanul.hub_export.staging import bins_in


def data_card(about: About, staged: Path) -> str:
    manifests = [folder / MANIFEST for folder in bins_in(staged)]
    body, more = _bins(about, staged, manifests) if manifests else _records(staged)
    front: dict[str, Any] = {"language": list(about.languages)} if about.languages else {}
    front |= {**licence_fields(about.licence), "tags": ["yxanul"], **more}
    licence = front.get("license_name") or front.get("license") or "none was chosen"
    lines = [f"# {about.repo.partition('/')[2]}", "", *body, "", "## Licence", "", f"{licence}."]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _bins(about: About, staged: Path, manifests: list[Path]) -> tuple[list[str], dict[str, Any]]:
    rows, sources = [], []
    for file in manifests:
        found = json.loads(file.read_text(encoding="utf-8"))
        layout = found["layout"] if isinstance(found["layout"], str) else f"rows of {found['layout']['packed']:,}"
        name = file.parent.relative_to(staged).as_posix()
        counts = (f"{found[key]:,}" for key in ("documents", "tokens", "bytes"))
        rows.append((name, *counts, found["dtype"], layout))
        for source in found["source"] if isinstance(found["source"], list) else []:
            sources.append((name, source["spec"], f"{source['documents']:,}", f"{source['tokens']:,}"))
    maker = json.loads(manifests[0].read_text(encoding="utf-8"))["tokenizer"]
    lines = ["Token bins of Yxanul: ids that training reads in place. The text is in them, as ids.", ""]
    lines += grid(("bin", "documents", "tokens", "bytes of text", "ids as", "layout"), rows)
    tokenizer = f"Tokenizer: {maker['vocabulary_size']:,} ids, fingerprint `{maker['fingerprint']}`."
    download = f"hf download {about.repo} --repo-type dataset --local-dir bins/mine"
    lines += ["", tokenizer, "", "```bash", download, "yxanul data verify bins/mine", "```"]
    if sources:
        lines += ["", "## Sources", "", *grid(("bin", "source", "documents", "tokens"), sources)]
    return lines, {}


def _records(staged: Path) -> tuple[list[str], dict[str, Any]]:
    rows, configs = [], []
    for file in sorted(staged.glob("*.jsonl")):
        with file.open("rb") as lines:
            first = lines.readline()
            count = bool(first) + sum(1 for _ in lines)
        try:
            columns = ", ".join(dict(json.loads(first or b"{}")))
        except (ValueError, TypeError):
            raise BadInput(f"{file.name}, line 1, is no JSON object: records are one to a line.") from None
        rows.append((file.name, f"{count:,}", columns))
    rows += [(file.name, "not counted", "see the viewer") for file in sorted(staged.glob("*.parquet"))]
    for name, *_ in rows:  # each a configuration of its own, for their columns differ
        configs.append({"config_name": Path(name).stem, "data_files": name})
    text = "Records, one configuration for each file: `load_dataset(NAME, CONFIGURATION)`."
    return [text, "", *grid(("file", "records", "columns"), rows)], {"configs": configs}
