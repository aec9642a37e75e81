"""`make clients`: every artefact of `yxanul export` in every client that is installed, as one table.

    python tests/clients/run.py                       # a small BPE and a small SuperBPE model, trained here
    python tests/clients/run.py runs/demo/final       # a trained one

Writes build/clients/table.md; ends with 1 if a client disagrees. A target that refuses, or whose packages are missing,
is named with the reason and is no failure.
"""

import json
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "build/clients"
STEPS, ROWS, LENGTH = 300, 8, 128
TYPES = {"gguf": "f32,f16,bf16,Q8_0,Q4_0", "K": "Q6_K,Q5_K_M,Q4_K_M"}


def made(kind: str) -> pathlib.Path:
    """The preset `tiny` and its tokenizer, both trained on text that Python carries."""
    from yxanul.__main__ import main

    folder = OUT / "models" / kind
    if not (folder / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        source = ["--source", "builtin:language", "--limit-bytes", "500000"]
        main(["tokenizer", "train", "--kind", kind, "--vocabulary", "2048", *source, "--out", str(folder)])
        trained(folder)
    return folder


def trained(folder: pathlib.Path) -> None:
    """Enough for weights that are no longer random: rounding is smaller in these, and bits per byte say something."""
    from pydoc_data.topics import topics

    import torch
    from transformers import AutoTokenizer

    from yxanul import YxanulForCausalLM
    from yxanul.catalog import load_shape

    torch.manual_seed(0)
    model = YxanulForCausalLM(load_shape("tiny", {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}).config)
    tokenizer, optimizer = AutoTokenizer.from_pretrained(folder), torch.optim.AdamW(model.parameters(), lr=2e-3)
    ids = torch.tensor(tokenizer("\n\n".join(topics.values())).input_ids)
    for _ in range(STEPS):
        starts = torch.randint(len(ids) - LENGTH, (ROWS, 1))
        rows = ids[starts + torch.arange(LENGTH)]
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def exported(model: str, name: str) -> list[dict]:
    from yxanul.bad_input import BadInput
    from yxanul.hub_export.export_command import TARGETS, main
    from yxanul.hub_export.llama_cpp import is_installed

    rows = []
    for target in TARGETS:
        out = OUT / "exports" / name
        shutil.rmtree(out / target, ignore_errors=True)
        types = ["--types", TYPES["gguf"] + (f",{TYPES['K']}" if is_installed() else "")] if target == "gguf" else []
        try:
            code = main([model, "--to", target, "--out", str(out), *types])
        except (BadInput, ImportError) as reason:
            print(f"{name}, {target}: {reason}", file=sys.stderr)
            continue
        file = out / target / "verification.json"
        rows += json.loads(file.read_text())["rows"] if file.is_file() else []
        if code:
            rows.append({"artefact": target, "client": "-", "bytes": 0, "failures": ["see above"]})
    return rows


def main(models: list[str]) -> int:
    import javascript_rows
    import training_rows

    from yxanul.hub_export.verify import Verdict, table

    named = {model: pathlib.Path(model).parent.name for model in models}
    named = named or {str(made(kind)): kind for kind in ("bpe", "superbpe")}
    pages, failed = [], False
    for model, name in named.items():
        rows = [Verdict(**row) for row in exported(model, name)]
        rows += javascript_rows.rows(model, OUT / "exports" / name)
        rows += training_rows.rows(model, OUT / "exports" / name)
        failed |= not all(row.passed for row in rows)
        pages.append(f"## {name}\n\n{table(rows)}\n")
    (OUT / "table.md").write_text("\n".join(pages), encoding="utf-8")
    print((OUT / "table.md").read_text())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
