"""The card's section on use: tools that opened this very checkpoint, how it is opened there, and what was compared.

Not here: what was opened (facts.py), the rest of the card (card.py).
"""

from typing import TYPE_CHECKING, Any

from yxanul.hub_export.markdown import grid

if TYPE_CHECKING:
    from yxanul.hub_export.card import About, Facts

BARE = "transformers"  # the target of push's own check
SUBFOLDER = 'model = AutoModelForCausalLM.from_pretrained("{repo}", subfolder="{target}")'
WITH_CODE = SUBFOLDER.replace(")", ", trust_remote_code=True)")
SESSION = """from huggingface_hub import hf_hub_download
from onnxruntime import InferenceSession

session = InferenceSession(hf_hub_download("{repo}", "onnx/{file}"))"""
SNIPPETS = {  # (target, first word of the client's name) -> how to open it there
    ("gguf", "llama.cpp"): 'from llama_cpp import Llama\n\nmodel = Llama.from_pretrained("{repo}", filename="{file}")',
    ("gguf", "transformers"): 'model = AutoModelForCausalLM.from_pretrained("{repo}", gguf_file="{file}")',
    ("onnx", "onnxruntime"): SESSION,
    ("llama", "transformers"): SUBFOLDER,
    ("int8", "transformers"): WITH_CODE,
    ("int4", "transformers"): WITH_CODE,
}


def use(about: "About", facts: "Facts") -> list[str]:
    """Only tools in which this very checkpoint was opened and compared."""
    passed = [(check, row) for check in facts.checks for row in check["rows"] if row["passed"]]
    if facts.is_adapter:
        return ["## Use", "", *_peft(about, passed[0][1] if passed else None)]
    if not passed:
        return ["## Use", "", "No tool was tested with this checkpoint."]
    lines = ["## Use", "", "Tested with this very checkpoint; other tools may work."]
    for target, client in dict.fromkeys((check["target"], row["client"].partition(" ")[0]) for check, row in passed):
        if target == BARE:
            lines += ["", *_transformers(about, facts)]
        elif (target, client) in SNIPPETS:
            files = next(check.get("files", []) for check, _ in passed if check["target"] == target)
            file = next((name for name in files if "Q8_0" in name), files[0] if files else "")
            snippet = SNIPPETS[target, client].format(repo=about.repo, target=target, file=file)
            lines += ["", f"{target}, {client}:", "", "```python", snippet, "```"]
    heads = "artefact", "opened in", "MB", "largest logit difference", "greedy tokens equal", "bits/byte, difference"
    table: list[Any] = []
    for _, row in passed:
        differs = row["bits_per_byte_difference"]
        cells = [row["artefact"], row["client"], f"{row['bytes'] / 1e6:,.1f}"]
        cells.append("-" if row["largest_logit_difference"] is None else f"{row['largest_logit_difference']:.2g}")
        cells.append("-" if row["greedy_of"] is None else f"{row['greedy_equal']} of {row['greedy_of']}")
        cells.append("-" if differs is None else f"{row['bits_per_byte']:.4f}, {differs:+.3%}")
        table.append(cells)
    compared = "Compared with the model in fp32 on fixed texts; bits per byte of them say nothing of its quality."
    return [*lines, "", compared, "", *grid(heads, table)]


def _transformers(about: "About", facts: "Facts") -> list[str]:
    trust = "" if facts.config.get("model_type") == "llama" else ", trust_remote_code=True"
    talk = 'ids = tokenizer("Question: What is 17 + 25?\\nAnswer:", return_tensors="pt")'
    if facts.talks:
        talk = (
            'messages = [{"role": "user", "content": "What is 17 + 25?"}]\n'
            "ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, "
            'return_tensors="pt")'
        )
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{about.repo}"{trust})',
        f'model = AutoModelForCausalLM.from_pretrained("{about.repo}"{trust})',
        talk,
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))",
        "```",
        *(["", "Pin `revision=` to a tag: the code that is trusted is then that one."] if trust else []),
    ]


def _peft(about: "About", row: Any) -> list[str]:
    how = "not opened before the push"
    if row:
        equal = f"{row['greedy_equal']} of {row['greedy_of']} greedy tokens"
        how = f"so opened in {row['client']}, where {equal} were those of both merged"
    return [
        f"With PEFT, on its base [{about.base}](https://huggingface.co/{about.base}); {how}.",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{about.repo}")',
        f'base = AutoModelForCausalLM.from_pretrained("{about.base}", trust_remote_code=True)',
        f'model = PeftModel.from_pretrained(base, "{about.repo}")',
        "```",
        "",
        "`yxanul merge` makes one model of both. Pin `revision=` of the base to a tag: its code is then that one.",
    ]
