"""An Ollama Modelfile for a GGUF file. Written from Ollama's documentation; no Ollama has run it here.

Ollama's templates are Go's; the one of Yxanul's own tokenizers is written out. For another chat template none is
written: Ollama then looks for it among those that it knows, in the file itself.
"""

from typing import Any

TURNS = [
    {"role": "system", "content": "A"},
    {"role": "user", "content": "B"},
    {"role": "assistant", "content": "C"},
    {"role": "user", "content": "D"},
]
GO_TEMPLATE = (
    "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}END\n{{ end }}<|assistant|>\n"  # END: the end-of-text token
)


def modelfile(gguf_name: str, tokenizer: Any, context: int) -> str:
    lines = [f"FROM ./{gguf_name}"]
    end = tokenizer.eos_token
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
        ours = "".join(f"<|{turn['role']}|>\n{turn['content']}{end}\n" for turn in TURNS) + "<|assistant|>\n"
        if rendered == ours:
            lines.append(f'TEMPLATE """{GO_TEMPLATE.replace("END", end)}"""')
    else:
        lines.append('TEMPLATE "{{ .Prompt }}"')
    lines += [f'PARAMETER stop "{end}"', f"PARAMETER num_ctx {context}", "PARAMETER temperature 0"]
    return "\n".join(lines) + "\n"
