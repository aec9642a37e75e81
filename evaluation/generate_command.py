"""`yxanul generate MODEL --input FILE --out FILE`: answers to a file of prompts, in batches.

    yxanul generate runs/sft/final --input questions.txt --out answers.txt         # a prompt on each line
    yxanul generate runs/sft/final --input questions.jsonl --out answers.jsonl     # "prompt" or "messages" in each
    yxanul generate big-teacher --input questions.jsonl --out teacher.jsonl --dataset
    yxanul generate gpt2 --input beginnings.txt --out continued.jsonl --plain

`--dataset` writes conversations ({"messages": [...]}) to fine-tune a smaller model on; answers that are empty or were
cut off are left out and counted. Not here: talking (chat.py), judging (suite/).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import say
from yxanul.evaluation.chat import add_sampling, in_template, sampling
from yxanul.shell import command

Row = dict[str, Any]


def main(arguments: list[str]) -> int:
    options = _parsed(arguments)
    rows = read(options.input)
    if options.out.suffix != ".jsonl" and (options.dataset or options.out.suffix != ".txt"):
        raise BadInput(f"--out {options.out} must end in .jsonl{'' if options.dataset else ' or .txt'}.")
    if options.out.exists() and options.out.samefile(options.input):
        raise BadInput(f"--out {options.out} is the --input, which would be overwritten: name another file.")
    how = sampling(options)

    from yxanul.data.whole_files import write_whole
    from yxanul.evaluation.answers import write_answers
    from yxanul.evaluation.generation import Prompt
    from yxanul.evaluation.text_model import load

    subject = load(options.model)
    plain = options.plain or not subject.tokenizer.chat_template
    if options.dataset and plain:
        raise BadInput("--dataset writes conversations, and without a chat template none is asked: leave out --plain.")
    prompts = [Prompt(_text(subject, row, plain, options), (), options.new_tokens) for row in rows]
    answers = write_answers(
        subject, prompts, calculator=options.calculator, rows=options.batch_size, title="generate", **how
    )
    lines = [_line(*pair, options) for pair in zip(rows, answers, strict=True)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, [line for line in lines if line])
    form = "continued as they are" if plain else "asked through the chat template"
    say(f"{options.out}: {len(lines) - lines.count(''):,} of {len(rows):,} prompts, {form}.")
    if lines.count(""):
        say(f"{lines.count(''):,} answers were empty or cut off by --new-tokens {options.new_tokens}, and left out.")
    if options.calculator:
        say("Results in brackets are the calculator's, not the model's.")
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("generate", __doc__)
    parser.add_argument("model", help="a folder, or a name on the Hub")
    parser.add_argument("--input", required=True, type=Path, metavar="FILE", help=".jsonl, or text: a prompt a line")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".jsonl or .txt")
    parser.add_argument("--dataset", action="store_true", help="write conversations, to learn from")
    parser.add_argument("--plain", action="store_true", help="go on with each text, without the chat template")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows of a batch (default: 16 on a CPU, else 128)")
    add_sampling(parser)
    return parser


def _parsed(arguments: list[str]) -> argparse.Namespace:
    options = parser().parse_args(arguments)
    if options.batch_size is not None and options.batch_size < 1:
        raise BadInput(f"--batch-size {options.batch_size} must be at least 1.")
    return options


def read(file: Path) -> list[Row]:
    """{"prompt": text} or {"messages": [...]} whose last one is the user's; other fields are kept."""
    if not file.is_file():
        raise BadInput(f"--input {file}: there is no such file.")
    try:
        with file.open(encoding="utf-8") as handle:  # splitlines() would cut at more than ends of lines
            lines = [(number, line.rstrip("\n")) for number, line in enumerate(handle, 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise BadInput(f"--input {file} is not text in UTF-8: {error}.") from None
    if not lines:
        raise BadInput(f"--input {file} holds no prompt.")
    if file.suffix != ".jsonl":
        return [{"prompt": line} for _, line in lines]
    rows = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            raise BadInput(f"{file}, line {number} is not JSON.") from None
        if not isinstance(row, dict) or not (isinstance(row.get("prompt"), str) or _is_question(row.get("messages"))):
            raise BadInput(
                f'{file}, line {number}: give "prompt", a text, or "messages", whose last one is of the role user.'
            )
        rows.append(row)
    return rows


def _is_question(messages: Any) -> bool:
    """As chat templates read them."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(each, dict) and isinstance(each.get("content"), str) and "role" in each for each in messages
        )
        and messages[-1]["role"] == "user"
    )


def _messages(row: Row) -> list[dict[str, str]]:
    return row["messages"] if _is_question(row.get("messages")) else [{"role": "user", "content": row["prompt"]}]


def _text(subject: Any, row: Row, plain: bool, options: argparse.Namespace) -> str:
    if not plain:
        return in_template(subject.tokenizer, _messages(row), tokenize=False)
    if not isinstance(row.get("prompt"), str):
        raise BadInput(f'{options.input}: with --plain, or without a chat template, each line needs a "prompt".')
    return row["prompt"]


def _line(row: Row, answer: Any, options: argparse.Namespace) -> str:
    text = answer.text if options.plain else answer.text.strip()
    if options.dataset:
        if not (text and answer.ended):
            return ""
        found: Row = {"messages": [*_messages(row), {"role": "assistant", "content": text}]}
    elif options.out.suffix == ".txt":
        return " ".join(text.split()) + "\n"
    else:
        found = row | {"answer": text, "ended": answer.ended}
    return json.dumps(found | ({"calculator": True} if options.calculator else {}), ensure_ascii=False) + "\n"
