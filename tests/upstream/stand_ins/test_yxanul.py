"""transformers' own common tests on the family, one class for each embedding layout. Run by `tests/upstream/run.py`.

The tests themselves come from the mixins; here stands only what they need to know about us.
"""

import tempfile
import unittest
from pathlib import Path
from typing import Any, ClassVar

from transformers.models.auto import modeling_auto

import yxanul

from . import test_fsdp_mixin, test_tensor_parallel_mixin, text_pipelines
from .causal_lm_tester import CausalLMTester
from .generation.test_utils import GenerationTesterMixin
from .test_configuration_common import ConfigTester
from .test_fsdp_mixin import FSDPTesterMixin
from .test_modeling_common import ModelTesterMixin
from .test_pipeline_mixin import PipelineTesterMixin
from .test_tensor_parallel_mixin import TensorParallelTesterMixin
from .test_training_mixin import TrainingTesterMixin

yxanul.register()

# By these names the common tests tell which labels a class takes.
for mapping, model_class in {
    "MODEL_MAPPING_NAMES": yxanul.YxanulModel,
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": yxanul.YxanulForCausalLM,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": yxanul.YxanulForSequenceClassification,
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": yxanul.YxanulForTokenClassification,
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": yxanul.YxanulForQuestionAnswering,
}.items():
    getattr(modeling_auto, mapping)["yxanul"] = model_class.__name__

# Upstream spares itself the tests with several processes for all but a few model types; None is its word for "run".
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None
# It also wants a core for each process; four tiny ones share two cores well enough.
test_fsdp_mixin._get_available_fsdp_workers = lambda: 4


class CommonTests(
    ModelTesterMixin,
    GenerationTesterMixin,
    TrainingTesterMixin,
    TensorParallelTesterMixin,
    FSDPTesterMixin,
    PipelineTesterMixin,
):
    layout: ClassVar[dict[str, Any]]
    model_tester = None  # the mixins declare an abstract property
    all_model_classes = (
        yxanul.YxanulModel,
        yxanul.YxanulForCausalLM,
        yxanul.YxanulForSequenceClassification,
        yxanul.YxanulForTokenClassification,
        yxanul.YxanulForQuestionAnswering,
    )
    pipeline_model_mapping = {
        "feature-extraction": yxanul.YxanulModel,
        "text-generation": yxanul.YxanulForCausalLM,
        "text-classification": yxanul.YxanulForSequenceClassification,
        "token-classification": yxanul.YxanulForTokenClassification,
        "zero-shot": yxanul.YxanulForSequenceClassification,
    }
    test_can_init_all_missing_weights_before_2023 = True  # upstream dates a file by its copyright line; ours has none
    _torch_compile_train_cls = yxanul.YxanulForCausalLM

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        text_pipelines.provide(Path(folder), CausalLMTester(cls, cls.layout).get_config(), cls.all_model_classes)

    def setUp(self) -> None:
        self.model_tester = CausalLMTester(self, self.layout)
        shape = {"hidden_size": 64, "num_attention_heads": 4, **self.layout}
        self.config_tester = ConfigTester(self, config_class=yxanul.YxanulConfig, **shape)

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class PlainTied(CommonTests, unittest.TestCase):
    layout = {"embedding_rank": None, "tie_word_embeddings": True}


class PlainUntied(CommonTests, unittest.TestCase):
    layout = {"embedding_rank": None, "tie_word_embeddings": False}


class FactorisedTied(CommonTests, unittest.TestCase):
    layout = {"embedding_rank": 24, "tie_word_embeddings": True}


class FactorisedUntied(CommonTests, unittest.TestCase):
    """The input is factorised, the head a full matrix of its own."""

    layout = {"embedding_rank": 24, "tie_word_embeddings": False}
