"""The suite: checkers take right answers and refuse wrong ones, what is not run is no zero, two models compare."""

import json

import pytest
from small_runs.chat import learn_by_heart

from yxanul.__main__ import main
from yxanul.data.problems import Choices
from yxanul.evaluation.answers import Answer
from yxanul.evaluation.sandbox import Verdict, run_program
from yxanul.evaluation.suite import report
from yxanul.evaluation.suite.code import code_of
from yxanul.evaluation.suite.question import COUNT, Question, fault, number, one_of
from yxanul.evaluation.suite.suite_command import all_categories
from yxanul.evaluation.suite.sums import bracket

CATEGORIES = all_categories(run_program)
NAMES = [category.name for category in CATEGORIES]
GROUPS = {category.group for category in CATEGORIES}


def test_there_are_more_than_35_categories_in_system_5s_groups_and_each_has_its_name():
    assert len(set(NAMES)) == len(CATEGORIES) > 35
    assert set(report.CLAIMS) | {"code execution", "format and stopping"} == GROUPS


@pytest.mark.parametrize("category", CATEGORIES, ids=NAMES)
def test_a_checker_takes_the_right_answer_and_refuses_wrong_ones(category):
    questions = category.questions(Choices(5))
    assert len({question.prompt for question in questions}) == len(questions) >= COUNT
    if category.runs_code:
        questions = questions[:4]  # each program is a process
    for question in questions:

        def found(text, ended=True, question=question):
            return fault(question, Answer(text, ended))

        assert found(question.right) == "", question
        assert found(f" {question.right}\n") == "", question
        assert found("") == found(" \n") == found("...") == "empty"
        assert found(question.prompt) == found(f"{question.prompt} {question.right}") == "echoed"
        assert found("the the the the") == found("I am so I am so I am so ") == "repeated"
        assert found("I do not know what that could be and so I say nothing at all today", False), question


@pytest.mark.parametrize("category", [each for each in CATEGORIES if not each.runs_code], ids=lambda each: each.name)
def test_the_answer_of_another_question_is_wrong(category):
    """But where the form alone is judged: there a broken form is wrong."""
    questions = category.questions(Choices(5))
    if category.name.startswith("ends"):
        assert fault(questions[0], Answer(questions[0].right, False)) == "it does not end"
        assert fault(questions[0], Answer("one two three four five " * 2 + "six seven eight nine ten", True))
        return
    for question in questions:
        others = [other for other in questions if other.right != question.right]
        taken = [other for other in others if not fault(question, Answer(other.right, True))]
        assert len(taken) < len(others) / 4, question
        assert all(not fault(other, Answer(question.right, True)) for other in taken), "these mean the same"


def test_a_list_of_guesses_is_no_fact_and_the_last_number_counts():
    check = one_of("Paris", ["Paris", "Rome"])
    assert not check(Answer("It's Paris, not Rome.", True)) and check(Answer("Rome, Paris", True))
    assert check(Answer("Parisian", True)) and not check(Answer("paris", True))
    assert not number(1200)(Answer("It is <<600*2=7>> 1,200.", True)) and number(7)(Answer("7 or 8", True))
    assert not number(7)(Answer("3 and 4\n#### 7\n#### 9", True)) and not number(7)(Answer("<<3+4=7>>", True))
    for wrong in ("<<3+4=7>>8", "<<3+4=8>>", "<<3+4=x>>", "<<3+4=7>>\n#### 8"):
        assert number(7)(Answer(wrong, True))


def question_of(category, part):
    """The first question of a category whose prompt holds `part`."""
    found = next(each for each in CATEGORIES if each.name == category)
    return next(each for each in found.questions(Choices(0)) if part in each.prompt)


@pytest.mark.parametrize(
    "category, part, right, wrong",
    [
        ("calendar", "after Monday", "After Monday comes Tuesday.", "Monday comes after Sunday."),
        ("colours", "elephant", "It is gray.", "It is green."),
        ("languages", "Iran", "They speak Farsi.", "They speak Arabic."),
        ("opposites", "word light", "Heavy", "It is light."),
        ("capitals", "Italy", "It is not Paris but Rome.", "It is not Rome."),
        ("capitals", "Italy", "Rome", "It isn't Rome."),
        ("elements", "helium", "The symbol is He.", "he said so"),
        ("classes", " Dog ", "Here it is:\nclass Dog:\n    def __init__(self):\n        pass", "class Dog:\n    pass"),
        (
            "functions of numbers",
            " add(",
            "```py\ndef add(a, b):\n    return a\n```",
            "def add(a, b):\n    return None",
        ),
        ("functions of numbers", " add(", "Sure:\ndef add(a, b):\n    return a", "Sure:\ndef add(a):\n    return a"),
        ("ends a yes or no", "", "Yes, Bo can.", "blue"),
        ("ends a thank-you", "", "Thanks a lot!", "blue"),
    ],
)
def test_usual_wordings_are_right_and_their_likes_wrong(category, part, right, wrong):
    question = question_of(category, part)
    assert fault(question, Answer(right, True)) == "" and fault(question, Answer(wrong, True))


@pytest.mark.parametrize(
    "category, right, wrong",
    [
        ("counting by small steps", "The next number is {}.", "{}.5"),
        ("counting by small steps", "{} comes next.", "{},000"),
        ("counting by small steps", "Each number is 7 more than the last, so {}.", "Each number is {} more, so 7."),
        ("numbers that double", "{},70,80", "1{}"),
        ("letters", 'It is "{}".', "{}{}"),
        ("first word", 'The first word is "{}".', "The first word is {} red."),
        ("count words", "There are {} words.", "3 or {}"),
        ("addition", "It is {}.", "1, 2 or {}"),
        ("addition", "{}", "7 8 9 {}"),
        ("stories", "I have 2 and 3 there. In all: {}", "2 / 3 / {}"),
        ("JSON objects", "```json\n{}\n```", "[{}]"),
        ("lists", "{} ", "{}\n- more"),
    ],
)
def test_a_sentence_around_a_right_answer_does_no_harm_and_a_guess_does(category, right, wrong):
    question = question_of(category, "")
    said = question.right.split(" = ")[-1].split("#### ")[-1]
    assert fault(question, Answer(right.replace("{}", said), True)) == "", question
    assert fault(question, Answer(wrong.replace("{}", said), True)), question


def test_a_row_may_be_written_out_to_say_what_is_missing_in_it():
    question = question_of("missing numbers", "")
    row = question.prompt.partition(": ")[2].rstrip("?")
    assert not fault(question, Answer(row.replace("_", question.right), True))
    assert fault(question, Answer(row.replace("_", "1"), True))


def test_saying_words_again_is_never_sorting_them():
    category = next(each for each in CATEGORIES if each.name == "sort")
    for question in category.questions(Choices(0)):
        assert fault(question, Answer(question.prompt.partition("\n")[2], True))


def test_a_program_that_says_one_thing_always_does_not_work():
    for name in ("numbers that work", "texts and lists that work"):
        category = next(each for each in all_categories(runs_here) if each.name == name)
        for question in category.questions(Choices(0)):
            assert fault(question, Answer(question.right, True)) == ""
            head = question.right.partition("\n")[0]
            for constant in ("14", "3", "True", "'a'", "[]", "0", "-1", "'HI'"):
                assert fault(question, Answer(f"{head}\n    return {constant}", True)), question


def runs_here(program):
    """Programs that the test wrote; a sandbox for each would be slow."""
    try:
        exec(program, {})
    except Exception as error:
        return Verdict(False, str(error) or "failed")
    return Verdict(True, "passed")


def test_the_format_of_a_bracket_is_judged_apart_from_its_result():
    check = bracket((7, "+", 8))
    assert not check(Answer("<<7+8=99>>", True)) and not check(Answer("<<8 + 7=15>>", True))
    for wrong in ("7+8=15", "<<7+8=15", "<<7+8>>", "<<7-8=15>>", "<<7+9=16>>", "<<7+8=x>>", "<<=15>>"):
        assert check(Answer(wrong, True)), wrong
    assert bracket((8, "-", 7))(Answer("<<7-8=1>>", True))


def test_code_is_taken_out_of_a_fence_and_a_last_line_that_was_cut_off_is_dropped():
    assert code_of("Sure:\n```python\nx = 1\n```\nDone (yes") == "x = 1"
    assert code_of(" def f(a):\n    return a\n    if a ==") == "def f(a):\n    return a"
    assert code_of("Dear all,") == "" and code_of("") == ""


@pytest.mark.parametrize(
    "code",
    [
        "def add(a, b):\n    return a - b",
        "import sys\nsys.exit(0)",
        "def add(a, b):\n    while True: pass",
        "print(5)",
    ],
)
def test_a_program_that_does_not_work_is_wrong(code):
    category = next(each for each in CATEGORIES if each.name == "numbers that work")
    assert fault(category.questions(Choices(0))[0], Answer(code, True))


def test_another_seed_asks_other_sums():
    category = next(each for each in CATEGORIES if each.name == "addition")
    first, again, other = ({question.prompt for question in category.questions(Choices(seed))} for seed in (0, 0, 1))
    assert first == again != other


def test_wilsons_interval_is_the_books():
    assert report.wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert report.wilson(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)


def test_a_run_writes_results_that_compare_reads_and_code_is_not_run_unless_allowed(
    checkpoint, tmp_path, capsys, monkeypatch
):
    from yxanul.evaluation.suite import suite_command

    few = [each for each in CATEGORIES if each.name in ("capitals", "addition", "numbers that work", "one word")]
    monkeypatch.setattr(suite_command, "all_categories", lambda run_program: few)
    out, one, other = tmp_path / "out", str(checkpoint("yxanul")), str(checkpoint("llama"))
    arguments = ["suite", one, "--plain", "--calculator", "--new-tokens", "4", "--out", str(out), "--compare", other]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    tasks = json.loads((out / "results.json").read_text())["tasks"]
    assert list(tasks) == [
        "facts",
        "arithmetic",
        "code_execution",
        "format_and_stopping",
        "arithmetic_with_the_calculator",
    ]
    assert tasks["code_execution"]["status"] == "not run" and "metrics" not in tasks["code_execution"]
    assert tasks["facts"]["n"] == 22 and tasks["facts"]["claims"] == {"elite-112m": "20 %"}
    samples = [json.loads(line) for line in (out / "samples-facts.jsonl").read_text().splitlines()]
    assert sum(sample["metrics"]["right"] for sample in samples) / 22 == tasks["facts"]["metrics"]["right"]["value"]
    page = (out / "report.md").read_text()
    assert "numbers that work: not run" in page and "| facts | all |" in page and samples[0]["prompt"] in page
    assert f"{other} against {one}" in printed.out and "not compared: code_execution: not run" in printed.err
    results = json.loads((out / "results.json").read_text())
    results["tasks"]["gsm8k"] = {"task": "gsm8k", "status": "done"}
    (out / "results.json").write_text(json.dumps(results))
    capsys.readouterr()
    assert main([*arguments[:3], "--out", str(out), "--json"]) == 0  # the same model goes on in its folder
    assert json.loads(capsys.readouterr().out)["results"] == [json.loads((out / "results.json").read_text())]
    tasks = json.loads((out / "results.json").read_text())["tasks"]
    assert "gsm8k" in tasks, "of another command"
    assert "arithmetic_with_the_calculator" not in tasks, "it was not asked for again"
    assert not (out / "samples-arithmetic_with_the_calculator.jsonl").exists()


def test_what_does_not_go_together_is_one_sentence(capsys):
    for words in (
        *(["--mode", "single"], ["--input", "x"], ["--new-tokens", "0"], ["--mode", "chat", "--plain"]),
        *(["--mode", "chat", "--compare", "other"], ["--mode", "single", "--input", "x", "--out", "there"]),
    ):
        assert main(["suite", "nowhere", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_single_mode_answers_its_input(checkpoint, capsys):
    folder = str(checkpoint("learnt"))
    question = "Which river runs through Paris?"
    assert main(["suite", folder, "--mode", "single", "--plain", "--input", question, "--new-tokens", "6"]) == 0
    assert capsys.readouterr().out.strip()


def test_chat_mode_hands_on_what_was_asked_for(monkeypatch):
    from yxanul.evaluation import chat

    given = []
    monkeypatch.setattr(chat, "main", lambda words: given.append(words) or 0)
    assert main(["suite", "model", "--mode", "chat", "--calculator", "--new-tokens", "9"]) == 0
    assert given == [["model", "--new-tokens", "9", "--calculator"]]


def test_code_runs_only_through_what_the_sandbox_gives(monkeypatch):
    seen = []
    category = next(
        each
        for each in all_categories(lambda program: seen.append(program) or Verdict(True, "passed"))
        if each.name == "texts and lists that work"
    )
    question = category.questions(Choices(0))[0]
    assert isinstance(question, Question) and fault(question, Answer(question.right, True)) == ""
    assert seen == [f'{question.right}\nassert length("abc") == 3\nassert length("") == 0']


def test_a_model_that_has_learnt_the_answers_is_right_and_ends(checkpoint, tmp_path, capsys, monkeypatch):
    """From the chat template to the figure; and with the calculator it is right where what it learnt is wrong."""
    from yxanul.evaluation.suite import suite_command
    from yxanul.evaluation.text_model import load

    few = [each for each in CATEGORIES if each.name in ("sums of one digit", "ends a thank-you")]
    subject = load(str(checkpoint("yxanul")))
    tokenizer, texts = subject.tokenizer, []
    for category in few:
        for question in category.questions(Choices(0)):
            messages = [{"role": "user", "content": question.prompt}]
            right = question.right
            if category.group == "arithmetic":
                right = f"<<{right.partition(' =')[0].replace(' ', '')}=99>>"
            messages.append({"role": "assistant", "content": right})
            texts.append(tokenizer.apply_chat_template(messages, tokenize=False))
    learn_by_heart(subject.model, tokenizer, texts, steps=150)
    subject.model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(suite_command, "all_categories", lambda run_program: few)
    out, folder = tmp_path / "out", str(tmp_path / "model")
    assert main(["suite", folder, "--out", str(out), "--calculator", "--new-tokens", "24"]) == 0
    tasks = json.loads((out / "results.json").read_text())["tasks"]
    assert tasks["format_and_stopping"]["metrics"]["right"]["value"] > 0.9
    assert tasks["arithmetic"]["metrics"]["right"]["value"] == 0
    assert tasks["arithmetic_with_the_calculator"]["metrics"]["right"]["value"] > 0.9
