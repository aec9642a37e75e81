"""Whether a generated answer is one of several accepted ones: TriviaQA's, by two normalisations.

    metric = evaluate.load("evaluation/metrics/exact_match")          # or ExactMatch()
    metric.compute(predictions=["The Beatles"], references=[["Beatles", "The Fab Four"]])

exact_match is lm-eval's: lower case, ASCII punctuation removed, articles stay. exact_match_official is that of
TriviaQA's authors: `_` and punctuation become spaces, articles go, spaces are joined.
"""

import re
import string

import datasets
import evaluate
import numpy as np

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
SPACES_FOR_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))


def plain(text):
    return text.lower().translate(NO_PUNCTUATION)


def official(text):
    words = re.sub(r"\b(a|an|the)\b", " ", text.replace("_", " ").lower().translate(SPACES_FOR_PUNCTUATION))
    return " ".join(words.split())


class ExactMatch(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
        return evaluate.MetricInfo(description=__doc__, citation="", features=datasets.Features(features))

    def _compute(self, predictions, references, per_sample=False):
        if not predictions:
            raise ValueError("no answers to score")
        scores = {}
        for name, normal in {"exact_match": plain, "exact_match_official": official}.items():
            pairs = zip(predictions, references, strict=True)
            scores[name] = [float(normal(said) in map(normal, accepted)) for said, accepted in pairs]
        result: dict = {"n": len(predictions), "per_sample": scores} if per_sample else {"n": len(predictions)}
        for name, values in scores.items():
            result[name] = float(np.mean(values))
            result[f"{name}_stderr"] = float(np.std(values, ddof=1) / len(values) ** 0.5) if values[1:] else None
        return result
