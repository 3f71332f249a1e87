"""Makes ONNX models of any size, with weights that are the same in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

IR_VERSION, OPSET = 8, 17  # such as releases of onnxruntime since 2022 read


def dense(width: int, layers: int) -> bytes:
    """Return layers of MatMul and Relu; the input `x` and the output are rows of `width` floats."""
    weights = [matrix(seed, (width, width), width) for seed in range(layers)]
    return _model([None, width], _layers("MatMul", weights), weights)


def convolutions(channels: int, size: int, layers: int) -> bytes:
    """Return layers of 3 x 3 Conv and Relu on an image `x` of `channels` x `size` x `size`."""
    shape = (channels, channels, 3, 3)
    weights = [matrix(seed, shape, 9 * channels) for seed in range(layers)]
    nodes = _layers("Conv", weights, pads=[1, 1, 1, 1])
    return _model([1, channels, size, size], nodes, weights)


def matrix(seed: int, shape: tuple[int, ...], inputs: int) -> onnx.TensorProto:
    """Return random weights with which values neither grow nor vanish from layer to layer."""
    weights = np.random.default_rng(seed).standard_normal(shape) * (2 / inputs) ** 0.5
    return numpy_helper.from_array(weights.astype(np.float32), f"w{seed}")


def _layers(
    operator: str, weights: Iterable[onnx.TensorProto], **attributes: Any
) -> Iterator[onnx.NodeProto]:
    value = "x"
    for number, weight in enumerate(weights):
        product = f"product{number}"
        yield helper.make_node(operator, [value, weight.name], [product], **attributes)
        value = f"layer{number}"
        yield helper.make_node("Relu", [product], [value])


def _model(
    shape: list[int | None], nodes: Iterable[onnx.NodeProto], weights: list[onnx.TensorProto]
) -> bytes:
    chain = list(nodes)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("x", chain[-1].output[0])
    )
    graph = helper.make_graph(chain, "layers", [x], [y], weights)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    serialised: bytes = model.SerializeToString()
    return serialised
