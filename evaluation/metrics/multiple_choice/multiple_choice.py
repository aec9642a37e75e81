"""Accuracy of choosing among continuations by their log-likelihood, as lm-eval's acc, acc_norm and acc_bytes.

    metric = evaluate.load("evaluation/metrics/multiple_choice")      # or MultipleChoice()
    metric.compute(predictions=[[-9.1, -7.3]], references=[1], choices=[["a dog", "a cat"]])

Predictions are summed log-likelihoods (nats), references the right choices. acc takes the
likeliest choice, acc_norm the likeliest per character, acc_bytes per UTF-8 byte; of equals the first.
"""

import math

import datasets
import evaluate
import numpy as np


class MultipleChoice(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Value("int64"),
            "choices": datasets.Sequence(datasets.Value("string")),
        }
        return evaluate.MetricInfo(description=__doc__, citation="", features=datasets.Features(features))

    def _compute(self, predictions, references, choices, per_sample=False):
        scores: dict = {"acc": [], "acc_norm": [], "acc_bytes": []}
        for number, (nats, right, texts) in enumerate(zip(predictions, references, choices, strict=True)):
            if len(nats) != len(texts) or not 0 <= right < len(texts) or not all(map(math.isfinite, nats)):
                raise ValueError(f"question {number}: {len(texts)} choices, right is {right}, log-likelihoods {nats}")
            sizes = {
                "acc": 1.0,
                "acc_norm": list(map(len, texts)),
                "acc_bytes": [len(text.encode()) for text in texts],
            }
            for name, size in sizes.items():
                scores[name].append(float(np.argmax(np.array(nats) / np.array(size, float)) == right))
        if not predictions:
            raise ValueError("no questions to score")
        result: dict = {"n": len(predictions), "per_sample": scores} if per_sample else {"n": len(predictions)}
        for name, values in scores.items():
            result[name] = float(np.mean(values))
            result[f"{name}_stderr"] = float(np.std(values, ddof=1) / len(values) ** 0.5) if values[1:] else None
        return result
