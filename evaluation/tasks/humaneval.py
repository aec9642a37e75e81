"""HumanEval: does the completed function pass its tests? And bits per byte of the gold solution. lm-eval's version 1.

humaneval gives the prompt as it is and stops as lm-eval does; humaneval_stripped takes whitespace off its end and has
bigcode's two further stops. Which of them a tokenizer suits can decide everything, so report both.
Programs run in the sandbox alone. Not here: pass@64, which needs samples that are not greedy.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from yxanul.evaluation.generation import Prompt
from yxanul.evaluation.task import Document, Source, Task, gold_answer

STOPS = "\nclass", "\ndef", "\n#", "\nif", "\nprint"


def verdict(document: Document, prompt: str, text: str, run: Callable[[str], Any]) -> dict[str, Any]:
    """`run` takes a program to the sandbox."""
    found = run(f"{prompt}{text}\n{document['test']}\ncheck({document['entry_point']})")
    return {"predictions": [found.passed], "references": document["task_id"], "reason": found.reason}


RAW = Task(
    name="humaneval",
    version=1.0,
    source=Source("openai/openai_humaneval", None, "test"),
    columns=("task_id", "prompt", "test", "entry_point"),
    request=lambda document: Prompt(document["prompt"], STOPS, 1024),
    judged=lambda document, text, run: verdict(document, document["prompt"], text, run),
    metric="pass_at_k",
    main=("pass@1",),
    claims={"yxanul-177m": "15-20 %", "yxanul-0.6b": "30 %"},
    runs_code=True,
)
TASKS = (
    RAW,
    replace(
        RAW,
        name="humaneval_stripped",
        request=lambda document: Prompt(document["prompt"].rstrip(), (*STOPS, "\n@", "\n```"), 1024),
        judged=lambda document, text, run: verdict(document, document["prompt"].rstrip(), text, run),
    ),
    gold_answer(
        "humaneval_bits",
        ("prompt", "canonical_solution"),
        lambda document: document["prompt"],
        lambda document: document["canonical_solution"],
        source=RAW.source,
    ),
)
