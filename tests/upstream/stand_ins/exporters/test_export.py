"""Stand-in for the mixin below the common model tests: a model exports, and the export computes the same."""

import torch


class ExportTesterMixin:
    def test_exported_program_equals_eager(self) -> None:
        """The exported graph has no fixed batch and length: it also runs at sizes that it was not exported with."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config.use_cache = False
        smaller = {name: value[:2, :5] for name, value in inputs.items()}
        batch_and_time = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
        for model_class in self.all_model_classes:
            with self.subTest(model_class.__name__), torch.no_grad():
                model = model_class(config).eval()
                shapes = dict.fromkeys(inputs, batch_and_time)
                program = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
                for call in (inputs, smaller):
                    torch.testing.assert_close(program(**call)[0], model(**call)[0], rtol=1e-5, atol=1e-6)
