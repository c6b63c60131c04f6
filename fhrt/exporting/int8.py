"""INT8 by QuantizeLinear and DequantizeLinear around convolutions and products, which ONNX Runtime
and TensorRT both read; ranges are those that calibration pictures showed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.errors import ModelError, first_line
from fhrt.exporting.precision import kept_nodes
from fhrt.models import Recipe

LAYERS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
CALIBRATION = 64  # pictures, at most


def quantise(source: Path, recipe: Recipe, inputs: Sequence[np.ndarray], target: Path) -> None:
    """Write the INT8 model of an fp32 one.

    inputs: what the network will be given, float32 (N, 3, H, W) in [0, 1]. Symmetric, a scale a
    channel for weights, one a tensor for activations, biases in fp32: what TensorRT takes. The
    layers that the picture itself goes into stay fp32. Raises ModelError where ONNX Runtime's
    quantiser fails.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.feeds = iter({name: batch} for batch in inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        try:
            # folds what stands between a convolution and its weights, such as casts from fp16
            folded = Path(scratch) / "folded.onnx"
            quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
            model = onnx.load(str(folded))
            kept = [*kept_nodes(model, recipe), *_first_layers(model)]
            onnx.save(model, str(folded))
            quantize_static(
                str(folded),
                str(target),
                Pictures(model.graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=LAYERS,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=kept,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                },
            )
            made = onnx.load(str(target))
            del made.metadata_props[:]  # the quantiser adds notes of its own
            onnx.helper.set_model_props(made, recipe.metadata())
            onnx.save(made, str(target))
        except Exception as error:  # the quantiser's errors share no class
            raise ModelError(f"{recipe.name}: cannot be made int8: {first_line(error)}") from error


def _first_layers(model: Any) -> list[str]:
    """Names of the layers between which and the input there is no other: a hundredth or so of the
    work, and it matters most. (OpenVINO 2026.4 also gives `restore` back as it came where the
    concatenation before its first convolution is quantised and the batch is dynamic.)"""
    near = {value.name for value in model.graph.input}
    found = []
    for node in model.graph.node:
        if near.isdisjoint(node.input):
            continue
        if node.op_type in LAYERS:
            found.append(node.name)
        else:
            near |= set(node.output)
    return found
