"""The command `python -m models.export`: a deployed checkpoint for other engines."""

from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gen1 import command
from gen1.atomic import atomic_write, make_way
from models.checkpoint import Checkpoint, checkpoint_file, load_model
from models.detector import MAX_STRIDE, DetectorNetwork
from models.export.golden import write_golden
from models.export.nir_graph import nir_graph
from models.export.nodes import OPSET, extra
from models.export.onnx_model import Precision, onnx_model
from models.export.quantise import Scales
from models.export.trace import trace

Format = Literal["golden", "onnx", "nir"]
FORMATS = get_args(Format)


def size_of(checkpoint: Checkpoint, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the network's input in px: those given, else those of the training."""
    seen = checkpoint.meta.get("histogram") or {}
    side = checkpoint.meta.get("images", {}).get("side")  # of a network of pictures
    height, width = height or side, width or side
    sized = {"height", "width", "downsample"} <= seen.keys()
    if checkpoint.meta.get("input") != "authors" and sized:
        height, width = (
            given or -(-seen[side] // seen["downsample"] // MAX_STRIDE) * MAX_STRIDE
            for given, side in ((height, "height"), (width, "width"))
        )
    if not height or not width:
        raise ValueError("the checkpoint does not say its input's size, expected height and width")
    return height, width


def windows_of(path: Path | None, model: DetectorNetwork, size_hw: tuple[int, int]) -> np.ndarray:
    """uint8 [n, T, C, H, W] of a file, or two windows of random events."""
    config = model.config
    shape = (config.time_steps, config.in_channels, *size_hw)
    if path is None:
        return np.random.default_rng(0).poisson(0.3, (2, *shape)).astype(np.uint8)
    try:
        windows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}), expected a .npy file") from None
    if not isinstance(windows, np.ndarray) or windows.dtype != np.uint8:
        raise ValueError(f"{path}: expected one array of uint8, {('n', *shape)}")
    if windows.shape[1:] != shape or not len(windows):
        raise ValueError(f"{path}: holds an array {windows.shape}, expected {('n', *shape)}")
    return windows


def export_file(
    checkpoint: str | Path,
    output: str | Path,
    format: Format = "golden",
    height: int | None = None,
    width: int | None = None,
    windows: Path | None = None,
    scales: Scales = "power-of-two",
    precision: Precision = "float32",
    stream: bool = False,
    decode: bool = False,
    opset: int = OPSET,
) -> str:
    """Write a deployed checkpoint in another form; returns what was written.

    Args:
        checkpoint: Deployed checkpoint, as `python -m models.deploy` writes it.
        output: Folder (golden) or file to write.
        format: "golden": a folder of graph, weights (float and int8), what every neuron did, and an
            interpreter in numpy. "onnx": a file of standard operators, any batch. "nir": a file of
            what NIR 1.0 can say: binary neurons, no pools.
        height: Of the network's input in px; that of the training if not given.
        width: As height.
        windows: Golden: .npy file of inputs, uint8 [n, T, C, H, W]; two of random events if not
            given.
        scales: Golden: of int8 weights; "power-of-two" makes the whole network integers.
        precision: ONNX: "float32", or "int8": weights of layers that read spikes, one scale per
            output channel.
        stream: ONNX: membranes are inputs and outputs.
        decode: ONNX: boxes and scores, too, before non-maximum suppression.
        opset: ONNX: operator set.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    source, target = checkpoint_file(checkpoint), Path(output)
    model, loaded = load_model(source)
    if loaded.kind != "deployed":
        expected = f"expected a deployed one: python -m models.deploy {source}"
        raise ValueError(f"{source}: is a trained checkpoint, {expected}")
    size_hw = size_of(loaded, height, width)
    if format == "golden":
        inputs = windows_of(windows, model, size_hw)
        return golden_folder(model, inputs, target, scales, source, windows)
    if format == "onnx":
        made = onnx_model(model, size_hw, precision, stream, decode, opset)
        content = BytesIO(made.SerializeToString())
    else:
        graph, content = nir_graph(trace(model, size_hw)), BytesIO()
        extra("nir", "nir").write(content, graph)
    make_way(target)
    with atomic_write(target) as file:
        file.write(content.getbuffer())
    size_mb = target.stat().st_size / 1e6
    return f"{target}: {size_mb:.1f} MB, input of {size_hw[0]}x{size_hw[1]} px"


def golden_folder(
    model: DetectorNetwork,
    inputs: np.ndarray,
    target: Path,
    scales: Scales,
    source: Path,
    windows: Path | None,
) -> str:
    """Write it; says what is in it."""
    about: dict[str, Any] = {"checkpoint": source.name, "windows": str(windows or "random events")}
    made = write_golden(model, inputs, target, scales, about)
    exact = [name for name, is_exact in made["exact"].items() if is_exact]
    height, width = inputs.shape[-2:]
    return (
        f"{target}: {len(made['layers'])} layers, {len(inputs)} windows of {height}x{width} px; "
        f"to the bit: {', '.join(exact) or 'none'}\n"
        f"check: python {target / 'run.py'}"
    )


main = command.entry(
    "python -m models.export",
    "A deployed checkpoint for hardware and other programs; docs/export.md says which form\n"
    "suits which.",
    export_file,
)
enter = command.door(main)
if __name__ == "__main__":
    enter()
