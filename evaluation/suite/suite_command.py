"""`yxanul suite MODEL`: over fifty kinds of small questions, each judged by a program; what can this model do?

    yxanul suite runs/sft/final --allow-code-execution --calculator
    yxanul suite runs/sft/final --compare runs/lora/final
    yxanul suite runs/demo/final --plain                        # a base model: Question: ... Answer:
    yxanul suite runs/sft/final --mode single --input "What is 7 + 8?"
    yxanul suite runs/sft/final --mode chat

Greedy, 16 new tokens unless a category needs more. Sums, patterns and instructions come from a generator; --seed draws
others. Not here: judging what cannot be judged by a program (style, truth of free text), sampling.
"""

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import answer, answer_json, insist, say
from yxanul.shell import command

MODES = "test", "chat", "single"
WITH_CALCULATOR = "calculator format", "arithmetic"


def main(arguments: list[str]) -> int:
    options = _parsed(arguments)
    if options.mode == "chat":
        from yxanul.evaluation.chat import main as chat

        given = ["--new-tokens", str(options.new_tokens)] if options.new_tokens else []
        return chat([options.model, *given, *["--calculator"] * options.calculator])

    from yxanul.evaluation.evaluate_command import open_sandbox, tasks_before
    from yxanul.evaluation.text_model import load

    out = options.out or Path("results", f"{options.model.strip('./').replace('/', '-')}-suite")
    models = {out: options.model} | ({out / "compared": options.compare} if options.compare else {})
    if options.mode == "test":
        before = [tasks_before(*place) for place in models.items()]
    subject = load(options.model)
    if options.mode == "single":
        answer(_single(subject, options).text)
        if options.calculator:
            say("Results in brackets are the calculator's, not the model's.")
        return 0
    run_program: Callable[[str], Any] | None = None
    refused = "programs that a model wrote run only with --allow-code-execution"
    if options.allow_code_execution:
        run_program, refused = open_sandbox()
    command = f"yxanul suite {shlex.join(arguments)}"
    categories = all_categories(run_program)
    for (place, model), tasks in zip(models.items(), before, strict=True):
        subject = subject if place == out else load(model)
        _test(subject, categories, refused, options, place, tasks, command)
    found = [json.loads((place / "results.json").read_text(encoding="utf-8")) for place in models]
    facts: dict[str, Any] = {"results": found}
    if options.compare:
        from yxanul.evaluation import compare

        results = [compare.read_result(place, model) for place, model in models.items()]
        pairs, refusals = compare.compare(results)
        facts["differences"] = compare.as_rows(pairs)
        if not options.json:
            compare.show(results[0], pairs)
        for sentence in refusals:
            insist(f"not compared: {sentence}.")
    if options.json:
        answer_json(facts)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("suite", __doc__)
    argument = parser.add_argument
    argument("model", help="a folder, or a name on the Hub")
    argument("--mode", choices=MODES, default="test", help="all categories; a chat; one answer to --input")
    argument("--input", metavar="TEXT", help="of --mode single")
    argument("--compare", metavar="OTHER", help="another model: the same questions, and what differs")
    argument("--plain", action="store_true", help="Question: ... Answer: instead of the tokenizer's chat template")
    argument("--calculator", action="store_true", help="sums once more, with the calculator in the loop; shown apart")
    argument("--allow-code-execution", action="store_true", help="run generated programs, in the sandbox")
    argument("--new-tokens", type=int, metavar="N", help="of every answer (default: 16; 32 or 64 in some categories)")
    argument("--batch-size", type=int, metavar="N", help="rows of a batch (default: 16 on a CPU, else 128)")
    argument("--seed", type=int, default=0, metavar="N", help="of the generated questions")
    argument("--out", type=Path, metavar="DIR", help="default: results/MODEL-suite")
    argument("--json", action="store_true", help="print what results.json holds, and with --compare the differences")
    return parser


def _parsed(arguments: list[str]) -> argparse.Namespace:
    options = parser().parse_args(arguments)
    if (options.mode == "single") != (options.input is not None):
        raise BadInput("--mode single and --input TEXT go together: give both, or neither.")
    of_test = [name for name in ("compare", "out", "json", "allow_code_execution") if getattr(options, name)]
    if options.mode != "test" and of_test:
        raise BadInput(f"--{of_test[0].replace('_', '-')} is of --mode test, not of {options.mode}: leave it out.")
    if options.mode == "chat" and options.plain:
        raise BadInput("--mode chat needs the chat template: leave out --plain.")
    for name in ("new_tokens", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise BadInput(f"--{name.replace('_', '-')} {value} must be at least 1.")
    return options


def _form(subject: Any, plain: bool) -> str:
    return "plain" if plain or not subject.tokenizer.chat_template else "chat template"


def _prompt(subject: Any, text: str, form: str, tokens: int) -> Any:
    from yxanul.evaluation.chat import in_template
    from yxanul.evaluation.generation import Prompt

    if form == "plain":
        return Prompt(f"Question: {text}\nAnswer:", ("\nQuestion:",), tokens)
    messages = [{"role": "user", "content": text}]
    return Prompt(in_template(subject.tokenizer, messages, tokenize=False), (), tokens)


def _single(subject: Any, options: argparse.Namespace) -> Any:
    from yxanul.evaluation.answers import write_answers
    from yxanul.evaluation.suite.question import NEW_TOKENS

    prompt = _prompt(subject, options.input, _form(subject, options.plain), options.new_tokens or NEW_TOKENS)
    return write_answers(subject, [prompt], calculator=options.calculator)[0]


def all_categories(run_program: Callable[[str], Any] | None) -> list[Any]:
    from yxanul.evaluation.suite import code, facts, instructions, patterns, stopping, sums

    parts = facts.CATEGORIES, sums.CATEGORIES, code.categories(run_program), instructions.CATEGORIES
    return [category for part in (*parts, patterns.CATEGORIES, stopping.CATEGORIES) for category in part]


def _test(
    subject: Any,
    categories: list[Any],
    refused: str,
    options: argparse.Namespace,
    out: Path,
    before: dict[str, Any],
    command: str,
) -> None:
    from yxanul.evaluation.evaluate_command import begun
    from yxanul.evaluation.suite import report

    form = _form(subject, options.plain)
    tokens = f"{options.new_tokens} new tokens" if options.new_tokens else "16 new tokens (some categories 32 or 64)"
    protocol = f"yxanul suite {report.VERSION}, {form}, seed {options.seed}, greedy, {tokens}"
    results = begun(subject, [], before) | {"command": command, "protocol": protocol}
    found = judge(subject, categories, form, options, refused)
    report.write(found, out, results)
    if not options.json:
        report.show(found)
    say(f"{results['model']}: {protocol}.")
    if refused:
        insist(f"code execution was not run: {refused}.")
    say(f"{out}: report.md with failures, results.json, samples-GROUP.jsonl.")


def judge(subject: Any, categories: list[Any], form: str, options: argparse.Namespace, refused: str) -> list[Any]:
    """Every category; behind them the sums with the calculator, if it was asked for."""
    from yxanul.data.problems import Choices
    from yxanul.evaluation.answers import write_answers
    from yxanul.evaluation.suite.question import fault
    from yxanul.evaluation.suite.report import Judged

    found = []
    for calculator in (False, True) if options.calculator else (False,):
        taken = [each for each in categories if not calculator or each.group in WITH_CALCULATOR]
        runs = [each for each in taken if not (each.runs_code and refused)]
        questions = {each.name: each.questions(Choices(options.seed)) for each in runs}
        prompts = [
            _prompt(subject, question.prompt, form, options.new_tokens or each.tokens)
            for each in runs
            for question in questions[each.name]
        ]
        answers = iter(write_answers(subject, prompts, calculator=calculator, rows=options.batch_size, title="suite"))
        for each in taken:
            group = f"{each.group} with the calculator" if calculator else each.group
            if each not in runs:
                found.append(Judged(each, group, [], [], [], refused))
                continue
            said = [next(answers) for _ in questions[each.name]]
            faults = [fault(*pair) for pair in zip(questions[each.name], said, strict=True)]
            found.append(Judged(each, group, questions[each.name], said, faults))
    return found
