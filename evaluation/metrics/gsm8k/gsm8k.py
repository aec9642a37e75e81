"""Whether a generated solution ends in the right number, as lm-eval's gsm8k finds it in two ways.

    metric = evaluate.load("evaluation/metrics/gsm8k")                # or Gsm8k()
    metric.compute(predictions=["3+4=7\n#### 7"], references=["3 and 4 are <<3+4=7>>7.\n#### 7"])

strict_match wants the number behind ####; flexible_extract takes the last number there is.
"""

import re

import datasets
import evaluate
import numpy as np

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
REMOVED = ",", r"\$", r"(?s).*#### ", r"\.$"
NONE = "[invalid]"  # as lm-eval calls it


def strict(text):
    found = STRICT.search(text)
    return found.group(1).strip() if found else NONE


def flexible(text):
    found = FLEXIBLE.findall(text)
    return next(filter(None, found[-1])).strip() if found else NONE


def normal(text):
    for pattern in REMOVED:
        text = re.sub(pattern, "", text)
    return text.lower()


class Gsm8k(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(description=__doc__, citation="", features=datasets.Features(features))

    def _compute(self, predictions, references, per_sample=False):
        if not predictions:
            raise ValueError("no solutions to score")
        scores = {}
        for name, extract in {"strict_match": strict, "flexible_extract": flexible}.items():
            pairs = zip(predictions, references, strict=True)
            scores[name] = [float(normal(extract(said)) == normal(answer)) for said, answer in pairs]
        result: dict = {"n": len(predictions), "per_sample": scores} if per_sample else {"n": len(predictions)}
        for name, values in scores.items():
            result[name] = float(np.mean(values))
            result[f"{name}_stderr"] = float(np.std(values, ddof=1) / len(values) ** 0.5) if values[1:] else None
        return result
