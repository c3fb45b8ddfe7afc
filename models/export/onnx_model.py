"""A deployed network as an ONNX model, in float32 or with int8 weights."""

import json
from dataclasses import asdict
from typing import Any, Literal

from models.detector import DetectorNetwork
from models.export.int8 import IntegerWriter
from models.export.nodes import OPSET
from models.export.quantise import quantise
from models.export.scale import absorbed
from models.export.trace import trace
from models.export.writer import Writer

Precision = Literal["float32", "int8"]


def onnx_model(
    deployed: DetectorNetwork,
    size_hw: tuple[int, int],
    precision: Precision = "float32",
    stream: bool = False,
    decode: bool = False,
    opset: int = OPSET,
    fused: bool = False,
) -> Any:
    """x [T, B, C, H, W] -> map0, ... [B, C, H/s, W/s], any B; checked.

    stream: membranes are inputs "state/LAYER" and outputs "next/LAYER"; decode: "boxes" and
    "scores", too; fused: with int8, onnxruntime's own node in place of three standard ones.
    Raises ValueError for a trained network, an operation without a rule, an opset that is too old,
    a stream of a network without time, int8 of one that fires nothing, and without `onnx`.
    """
    config = deployed.config
    if stream and not config.is_spiking:
        found = f"a stream was asked of activation {config.activation!r}, which keeps no state"
        raise ValueError(f"{found}, expected a spiking one, as ilif")
    graph = absorbed(trace(deployed, size_hw))
    if precision == "int8":
        writer: Writer = IntegerWriter(graph, quantise(graph), stream, opset, fused)
    else:
        writer = Writer(graph, stream, opset)
    about = {"family": config.family, "precision": precision, "config": json.dumps(asdict(config))}
    return writer.written(decode, about)
