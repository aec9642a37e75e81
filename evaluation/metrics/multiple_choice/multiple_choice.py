"""Accuracy of choosing among continuations by their log-likelihood, as lm-eval's acc, acc_norm and acc_bytes.

    metric = evaluate.load("evaluation/metrics/multiple_choice")      # or MultipleChoice()
    metric.compute(predictions=[[-9.1, -7.3]], references=[1], choices=[["a dog", "a cat"]])

acc takes the likeliest choice, acc_norm the likeliest per character, acc_bytes per UTF-8 byte; of equals the first.
"""

import math

import datasets
import evaluate
import numpy as np

DESCRIPTION = (
    "Share of questions whose right choice has the largest log-likelihood: as it is, per character, per byte."
)
INPUTS = """
predictions: for each question the summed log-likelihood (nats) of every choice
references: index of the right choice
choices: the choices' texts, without the space that joins them to the question
per_sample: also return every question's scores
"""


class MultipleChoice(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Value("int64"),
            "choices": datasets.Sequence(datasets.Value("string")),
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions, references, choices, per_sample=False):
        scores = {"acc": [], "acc_norm": [], "acc_bytes": []}
        for number, (nats, right, texts) in enumerate(zip(predictions, references, choices, strict=True)):
            if len(nats) != len(texts) or not 0 <= right < len(texts) or not all(map(math.isfinite, nats)):
                raise ValueError(f"question {number}: {len(texts)} choices, right is {right}, log-likelihoods {nats}")
            lengths = {
                "acc": [1] * len(texts),
                "acc_norm": [len(text) for text in texts],
                "acc_bytes": [len(text.encode()) for text in texts],
            }
            for name, sizes in lengths.items():
                scores[name].append(float(np.argmax(np.array(nats) / np.array(sizes, float)) == right))
        if not predictions:
            raise ValueError("no questions to score")
        result = {"n": len(predictions)}
        for name, values in scores.items():
            result[name] = float(np.mean(values))
            result[f"{name}_stderr"] = float(np.std(values, ddof=1) / len(values) ** 0.5) if values[1:] else None
        return result | ({"per_sample": scores} if per_sample else {})
