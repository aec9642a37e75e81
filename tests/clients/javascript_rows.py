"""The exports `onnx` and `web` of a model in transformers.js: Node, and headless Chromium, where they are installed.

    python tests/clients/javascript_rows.py MODEL EXPORTS          # EXPORTS holds onnx/ and web/

programs.py installs them; NODE_PACKAGES and CHROMIUM name others. In Chromium the page's own worker must write
PyTorch's tokens and ask nobody else.
"""

import json
import pathlib
import sys

QUESTIONS = ("Tom has 3 boxes of 4 apples and eats 2 apples. How many are left?", "What is 17 + 25?", "Write a poem.")
TOKENS = 64


def rows(model, exports):
    """Verdicts; on standard error what is not installed."""
    from javascript import Chromium, Node, chromium, node_library

    from yxanul.hub_export import onnx
    from yxanul.hub_export.source import open_source
    from yxanul.hub_export.verify import Artefact, Reference, judge

    source = open_source(model)
    reference, found = Reference(source), []
    ways = [("onnx", Node, node_library(), "onnx"), ("web", Chromium, chromium(), "web/model")]
    for target, client, installed, folder in ways:
        if not installed or not (exports / folder).is_dir():
            print(f"{target}: {'no such export' if installed else 'its client is not installed'}.", file=sys.stderr)  # noqa: T201
            continue
        for kind, (file, dtype) in onnx.FILES.items():
            path = exports / folder / "onnx" / file
            if not path.exists():
                continue
            artefact = Artefact(path, f"{target} {kind}", [], onnx.LIMITS[kind])
            with client(exports / target, dtype) as opened:
                found.append(judge(reference, artefact, opened))
                if client is Chromium and kind == "fp32" == page_takes(exports) and source.tokenizer.chat_template:
                    found[-1].failures += faults_of_the_page(source, opened)
                    found[-1].passed = not found[-1].failures
    return found


def page_takes(exports):
    return json.loads((exports / "web" / "settings.json").read_text())["types"]["wasm"]


def faults_of_the_page(source, opened):
    import torch

    faults = []
    for question in QUESTIONS:
        talk = [{"role": "user", "content": question}]
        ids = source.tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        said = opened.talk(talk, tokens=TOKENS)
        options = {"max_new_tokens": TOKENS, "do_sample": False, "use_cache": True}
        with torch.no_grad():
            expected = source.model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
        if (said["prompt"], said["ids"]) != (ids, expected):
            faults.append(f"the page answers {question!r} with other tokens")
    return faults + [f"the page asked for {address}" for address in opened.elsewhere]


def main(model, exports):
    from yxanul.hub_export.verify import table

    found = rows(model, pathlib.Path(exports))
    print(table(found))  # noqa: T201
    return int(not all(row.passed for row in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
