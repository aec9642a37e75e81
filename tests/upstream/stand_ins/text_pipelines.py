"""Stand-ins for the library's pipeline tests: each text pipeline gives what tokenizer and model give by hand.

The pipeline mixin looks for a tiny model of each class on the Hub and for a test class of each task. `provide` makes
both: models of random weights with a tokenizer of made-up words in a local folder, and the classes below.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, pipeline

import yxanul

from . import test_pipeline_mixin


class PipelineTests:
    task: str

    def get_test_pipeline(self, model: PreTrainedModel, tokenizer: Any, dtype: str, **_: Any) -> tuple[Any, list[str]]:
        model = model.to(getattr(torch, dtype))
        return pipeline(self.task, model=model, tokenizer=tokenizer), ["word3 word4", "word5 word6 word7 word8"]

    def run_pipeline_test(self, pipe: Any, examples: list[str]) -> None:
        with torch.no_grad():
            for text in examples:
                self.check(pipe, text, pipe.tokenizer(text, return_tensors="pt"))

    def check(self, pipe: Any, text: str, inputs: Any) -> None:
        raise NotImplementedError


class FeatureExtraction(PipelineTests):
    task = "feature-extraction"

    def check(self, pipe: Any, text: str, inputs: Any) -> None:
        expected = pipe.model(**inputs).last_hidden_state.float()
        torch.testing.assert_close(torch.tensor(pipe(text)), expected, rtol=0, atol=1e-6)


class TextGeneration(PipelineTests):
    task = "text-generation"

    def check(self, pipe: Any, text: str, inputs: Any) -> None:
        options = {"max_new_tokens": 5, "do_sample": False}
        new_tokens = pipe.model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
        (given,) = pipe(text, **options)
        assert given["generated_text"] == text + pipe.tokenizer.decode(new_tokens, skip_special_tokens=True)


class TextClassification(PipelineTests):
    task = "text-classification"

    def check(self, pipe: Any, text: str, inputs: Any) -> None:
        score, label = pipe.model(**inputs).logits[0].float().softmax(-1).max(-1)
        (given,) = pipe(text)
        assert given["label"] == pipe.model.config.id2label[int(label)]
        assert abs(given["score"] - float(score)) < 1e-3


class TokenClassification(PipelineTests):
    task = "token-classification"

    def check(self, pipe: Any, text: str, inputs: Any) -> None:
        labels = pipe.model(**inputs).logits[0].argmax(-1).tolist()
        given = pipe(text)
        assert [each["word"] for each in given] == text.split()
        assert [each["entity"] for each in given] == [pipe.model.config.id2label[label] for label in labels]


class ZeroShot(PipelineTests):
    """The model says for each candidate how well it follows from the text."""

    task = "zero-shot-classification"

    def run_pipeline_test(self, pipe: Any, examples: list[str]) -> None:
        pipe.model.config.label2id = {"contradiction": 0, "entailment": 1}
        candidates = ["word9", "word10", "word11"]
        for text in examples:
            given = pipe(text, candidate_labels=candidates)
            assert sorted(given["labels"]) == sorted(candidates)
            assert given["scores"] == sorted(given["scores"], reverse=True)
            assert abs(sum(given["scores"]) - 1) < 1e-3
        pipe._preprocess_params["candidate_labels"] = candidates  # for the batches that the mixin sends itself


TESTS = {
    "feature-extraction": FeatureExtraction,
    "text-generation": TextGeneration,
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "zero-shot": ZeroShot,
}


def provide(folder: Path, config: yxanul.YxanulConfig, model_classes: tuple[type[PreTrainedModel], ...]) -> None:
    config.initializer_range = 0.2  # wide enough for different answers to different texts
    words = ["<pad>", "<s>", "</s>", *(f"word{index}" for index in range(3, config.vocab_size))]
    rules = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    summary = {}
    for model_class in model_classes:
        home = folder / config.model_type / model_class.__name__
        model_class(config).save_pretrained(home)
        tokenizer.save_pretrained(home)
        summary[model_class.__name__] = {"tokenizer_classes": [type(tokenizer).__name__], "processor_classes": []}
    test_pipeline_mixin.TRANSFORMERS_TINY_MODEL_PATH = str(folder)
    test_pipeline_mixin.tiny_model_summary = summary
    for task, tests in TESTS.items():
        test_pipeline_mixin.pipeline_test_mapping[task] = {"test": f"{__name__}.{tests.__name__}"}
