"""A model as one ONNX graph with its cache as plain inputs and outputs, named as transformers.js wants, and its types.

    graph = onnx_graph(model)                 # fp32; of `model.half()`: fp16
    save(graph, "int8", path)

A factorised embedding stays two small factors. Not here: files beside the graph, checks (onnx.py, onnx_client.py).
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

from yxanul.shell import silenced

# `num_logits_to_keep` n: logits of the last n tokens alone, 0: of all. For a prompt they would be length x vocabulary.
KEEP = "num_logits_to_keep"
TOKENS, TOTAL = ("batch_size", "sequence_length"), ("batch_size", "total_sequence_length")
CACHE = ("batch_size", None, "past_sequence_length", None)
PRESENT = ("batch_size", None, "total_sequence_length", None)
OPSET = 18
BLOCK = 32  # weights that share a scale in 4 bit; what does not divide is padded


def onnx_graph(model: Any) -> Any:
    """An onnx.ModelProto, with the plain attention, which exports to fewer nodes."""
    import torch
    from transformers import DynamicCache

    class WithCache(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> Any:
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            outputs = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            layers = outputs.past_key_values.layers
            return (outputs.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))

    config, auto = model.config, torch.export.Dim.AUTO
    rows, length, before = 2, 3, 4
    past_shape = (rows, config.num_key_value_heads, before, config.head_dim)
    inputs = (
        torch.zeros(rows, length, dtype=torch.long),
        torch.ones(rows, before + length, dtype=torch.long),
        torch.arange(before, before + length).expand(rows, length).contiguous(),
        *(torch.randn(past_shape, dtype=model.dtype) for _ in range(2 * config.num_hidden_layers)),
    )
    two = {0: auto, 1: auto}
    attention = config._attn_implementation
    model.set_attn_implementation("eager")
    # they speak of torchvision and of deprecations in torch itself
    with silenced(logging.WARNING), torch.no_grad():
        program = torch.onnx.export(
            WithCache(),
            inputs,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["input_ids", "attention_mask", "position_ids", *cache_names(config, "past_key_values")],
            output_names=["logits", *cache_names(config, "present")],
            dynamic_shapes=(two, two, two, tuple({0: auto, 2: auto} for _ in inputs[3:])),
        )
    model.set_attn_implementation(attention)
    assert program is not None
    graph = program.model_proto
    _name_dimensions(graph)
    _keep_logits(graph)
    return graph


def cache_names(config: Any, prefix: str) -> list[str]:
    return [f"{prefix}.{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]


def _name_dimensions(model: Any) -> None:
    """transformers.js knows these four names; a dimension of another name becomes 0 there, and a Reshape fails."""
    names = {"input_ids": TOKENS, "position_ids": TOKENS, "attention_mask": TOTAL, "logits": TOKENS}
    for value in (*model.graph.input, *model.graph.output):
        wanted = names.get(value.name) or (PRESENT if value.name.startswith("present") else CACHE)
        for dimension, name in zip(value.type.tensor_type.shape.dim, wanted, strict=False):
            if name:
                dimension.dim_param = name
    del model.graph.value_info[:]  # the old names live on in there


def _keep_logits(model: Any) -> None:
    """Cuts before the head: [-n:], and -0 is 0, which keeps all."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers["logits"]
    while node.op_type != "MatMul":  # a soft cap
        node = makers[node.input[0]]
    while node.op_type == "MatMul":  # the head, or its two factors
        node = makers[node.input[0]]
    normed, kept = node.output[0], "kept_hidden_states"
    place = list(model.graph.node).index(node)
    for node in model.graph.node:
        node.input[:] = [kept if name == normed else name for name in node.input]
    for name, value in (("keep_shape", 1), ("keep_end", np.iinfo(np.int64).max), ("keep_axis", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    nodes = [
        helper.make_node("Neg", [KEEP], ["keep_begin"]),
        helper.make_node("Reshape", ["keep_begin", "keep_shape"], ["keep_begins"]),
        helper.make_node("Slice", [normed, "keep_begins", "keep_end", "keep_axis"], [kept], name="keep_logits"),
    ]
    for offset, node in enumerate(nodes, place + 1):
        model.graph.node.insert(offset, node)
    model.graph.input.append(helper.make_tensor_value_info(KEEP, TensorProto.INT64, []))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "num_logits"


def save(graph: Any, kind: str, path: Path) -> None:
    """`graph` in fp32 for fp32, int8 and q4, in fp16 for fp16 and q4f16; it is not changed."""
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("fp32", "fp16"):
        onnx.save(graph, path)
        return
    with silenced(logging.WARNING):  # of preparing a graph that is prepared
        _quantise(_untied(graph), kind, path)


def _quantise(graph: Any, kind: str, path: Path) -> None:
    import onnx

    if kind == "int8":
        _dynamic_int8(graph, path, ("MatMul", "Gather"))
        return
    if kind == "q4":
        # 8 bits for the embedding: few bytes more, and its 4-bit operation is missing where a browser has no GPU
        with tempfile.TemporaryDirectory() as folder:
            _dynamic_int8(graph, Path(folder, "table.onnx"), ("Gather",))
            graph = onnx.load(Path(folder, "table.onnx"))
    onnx.save(_four_bits(graph), path)


def _untied(graph: Any) -> Any:
    """A tied head is the embedding behind a Transpose, which no quantiser touches: it gets a matrix of its own."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    weights = {weight.name: weight for weight in model.graph.initializer if len(weight.dims) == 2}
    for node in [each for each in model.graph.node if each.op_type == "Transpose" and each.input[0] in weights]:
        values = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[0]]).T)
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for weight in [each for each in model.graph.initializer if each.name not in used]:
        model.graph.initializer.remove(weight)
    return model


def _dynamic_int8(graph: Any, path: Path, operations: tuple[str, ...]) -> None:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        graph,
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=list(operations),
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def _four_bits(graph: Any) -> Any:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    how = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=("MatMul",),
        bits=4,
    )
    quantizer = MatMulNBitsQuantizer(graph, algo_config=how)
    quantizer.process()
    return quantizer.model.model
