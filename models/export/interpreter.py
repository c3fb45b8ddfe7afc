"""Runs the network of this folder with numpy alone and compares it with golden/: `python run.py`.

graph.json lists the layers in order, weights.npz holds their weights, golden/ what each neuron did.
Arrays are [steps, B, C, H, W]. In "float" every number is a float64. In "int8" weights are integers
and sums of them exact; if graph["integer"] is there, membranes are integers too, in units of
2**-fraction_bits, and the whole network is adds, shifts and compares.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Network:
    """graph, weights and arithmetic ("float" or "int8") of a folder."""

    def __init__(self, folder: Path, arithmetic: str = "float") -> None:
        self.graph = json.loads((folder / "graph.json").read_text())
        with np.load(folder / "weights.npz", allow_pickle=False) as file:
            self.weights = dict(file)
        self.int8 = arithmetic == "int8"
        self.integer = self.graph["integer"] if self.int8 else None
        self.spikes: dict[str, Array] = {}  # of the last run, by layer
        self.membranes: dict[str, Array] = {}  # after the reset, every step

    def run(self, x: Array, state: dict[str, Array] | None = None) -> list[Array]:
        """x [T, B, C, H, W] -> raw maps [B, ...]. `state`: where a stream's membranes are kept."""
        self.state = {} if state is None else state
        together = self.graph["time"]["bins_together"]
        bins, batch, channels, height, width = x.shape
        x = x.reshape(bins // together, together, batch, channels, height, width).swapaxes(1, 2)
        x = x.reshape(bins // together, batch, together * channels, height, width)
        values = {"input": x.astype(np.int64 if self.integer else np.float64)}
        for layer in self.graph["layers"][1:]:
            read = [values[name] for name in layer["inputs"]]
            values[layer["name"]] = getattr(self, layer["kind"])(layer, *read)
        return [values[name][0] for name in self.graph["outputs"]]

    def conv(self, layer: dict[str, Any], x: Array) -> Array:
        name, channel = layer["name"], (-1, 1, 1)
        if not self.int8 or f"{name}.int8" not in self.weights:
            sums = convolve(x, self.weights[f"{name}.weight"], layer)
            return sums + self.weights[f"{name}.bias"].reshape(channel)
        sums = convolve(x.astype(np.int64), self.weights[f"{name}.int8"].astype(np.int64), layer)
        if self.integer:  # a channel's unit is 2**-shift; bring it to that of membranes
            up = self.integer["fraction_bits"] - self.weights[f"{name}.shift"]
            bias = self.weights[f"{name}.bias_fixed"] << (
                self.integer["fraction_bits"] - self.integer["bias_bits"]
            )
            return (sums << up.reshape(channel)) + bias.reshape(channel)
        scale, bias = self.weights[f"{name}.scale"], self.weights[f"{name}.bias_int8"]
        return sums * scale.reshape(channel) + bias.reshape(channel)

    def neuron(self, layer: dict[str, Any], x: Array) -> Array:
        """U = decay * V + scale * x; S = round(clip(U, 0, D)), half to even; V = U - S, or 0."""
        name, settings = layer["name"], layer["settings"]
        v = self.state.get(name, np.zeros_like(x[0]))
        spikes, membranes = np.zeros_like(x), np.zeros_like(x)
        for t in range(len(x)):
            if self.integer:
                bits = self.integer["fraction_bits"]
                (p, q), (r, s) = settings["input_scale_dyadic"], settings["decay_dyadic"]
                u = ((x[t] * p) >> q) + ((v * r) >> s)
                half_to_even = (1 << (bits - 1)) - 1 + ((u >> bits) & 1)
                spikes[t] = np.clip((u + half_to_even) >> bits, 0, settings["max_spikes"])
                one = 1 << bits
            else:
                u, one = x[t] * settings["input_scale"] + settings["decay"] * v, 1
                spikes[t] = np.round(np.clip(u, 0, settings["max_spikes"]))
            v = u - spikes[t] * one if settings["reset"] == "soft" else u * (spikes[t] == 0)
            membranes[t] = v
        self.state[name], self.spikes[name] = v, spikes
        unit = 0.5 ** self.integer["fraction_bits"] if self.integer else 1.0
        self.membranes[name] = membranes * unit
        return spikes

    def leaky_silu(self, layer: dict[str, Any], x: Array) -> Array:
        """U = decay * V * (1 - Y) + x; Y = silu(U); V is Y where it works in place, else U."""
        name, settings, out = layer["name"], layer["settings"], np.zeros_like(x)
        v = self.state.get(name, np.zeros_like(x[0]))
        for t in range(len(x)):
            y = v if settings["in_place"] else silu(v)
            u = settings["decay"] * v * (1 - y) + x[t]
            out[t] = silu(u)
            v = out[t] if settings["in_place"] else u
        self.state[name] = v
        return out

    def relu(self, _layer: dict[str, Any], x: Array) -> Array:
        return np.maximum(x, 0)

    def add(self, _layer: dict[str, Any], x: Array, y: Array) -> Array:
        return x + y

    def concat(self, _layer: dict[str, Any], *maps: Array) -> Array:
        return np.concatenate(maps, axis=2)

    def upsample(self, _layer: dict[str, Any], x: Array) -> Array:
        return x.repeat(2, axis=3).repeat(2, axis=4)

    def repeat(self, layer: dict[str, Any], x: Array) -> Array:
        return x.repeat(layer["settings"]["times"], axis=0)

    def max_pool(self, layer: dict[str, Any], x: Array) -> Array:
        lowest = np.iinfo(np.int64).min if self.integer else -np.inf
        return np.max(list(shifted(x, layer, lowest)), axis=0)

    def mean(self, _layer: dict[str, Any], x: Array) -> Array:
        unit = 0.5 ** self.integer["fraction_bits"] if self.integer else 1.0
        return (x.sum(0) * unit / len(x))[None]

    def boxes(self, maps: list[Array]) -> tuple[Array, Array]:
        """Raw maps -> boxes x1 y1 x2 y2 [B, A, 4] in px and scores [B, A, classes]."""
        rule = self.graph["decode"]
        boxes, scores = [], []
        for i, (raw, stride) in enumerate(zip(maps, rule["strides"], strict=True)):
            batch, _, height, width = raw.shape
            y, x = np.mgrid[:height, :width].astype(np.float64)
            if rule["kind"] == "distances":
                cells = raw.reshape(batch, -1, height * width).swapaxes(1, 2)
                sides = cells[..., : 4 * rule["bins"]].reshape(batch, -1, 4, rule["bins"])
                sides = np.exp(sides - sides.max(-1, keepdims=True))
                far = (sides / sides.sum(-1, keepdims=True)) @ np.arange(rule["bins"])
                point = np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=-1)
                ends = [point - far[..., :2], point + far[..., 2:]]
                boxes.append(np.concatenate(ends, axis=-1) * stride)
                scores.append(sigmoid(cells[..., 4 * rule["bins"] :]))
                continue
            sides_wh = np.reshape(rule["anchors"][i], (-1, 1, 1, 2))
            cells = raw.reshape(batch, len(sides_wh), -1, height, width).transpose(0, 1, 3, 4, 2)
            centre = (2 * sigmoid(cells[..., :2]) - 0.5 + np.stack([x, y], axis=-1)) * stride
            half = (2 * sigmoid(cells[..., 2:4])) ** 2 * sides_wh / 2
            ends = [centre - half, centre + half]
            boxes.append(np.concatenate(ends, axis=-1).reshape(batch, -1, 4))
            found = sigmoid(cells[..., 4:5]) * sigmoid(cells[..., 5:])
            scores.append(found.reshape(batch, -1, found.shape[-1]))
        return np.concatenate(boxes, axis=1), np.concatenate(scores, axis=1)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def shifted(x: Array, layer: dict[str, Any], padded: float = 0) -> Any:
    """For every place of the kernel, row by row, what it sees: [steps, B, C, H', W']."""
    settings, (_, height, width) = layer["settings"], layer["shape"]
    (kh, kw), (sy, sx), (py, px) = (settings[k] for k in ("kernel", "stride", "padding"))
    dy, dx = settings.get("dilation", (1, 1))
    x = np.pad(x, [(0, 0)] * 3 + [(py, py), (px, px)], constant_values=padded)
    for ky in range(0, kh * dy, dy):
        for kx in range(0, kw * dx, dx):
            rows, columns = slice(ky, ky + sy * height, sy), slice(kx, kx + sx * width, sx)
            yield x[..., rows, columns][..., :height, :width]


def convolve(x: Array, weight: Array, layer: dict[str, Any]) -> Array:
    """Sums of weight [out, in / groups, k, k] times x [steps, B, C, H, W]."""
    groups, (channels, height, width) = layer["settings"]["groups"], layer["shape"]
    sums: Any = 0
    for seen, part in zip(shifted(x, layer), weight.reshape(*weight.shape[:2], -1).T, strict=True):
        kernel = part.T.reshape(groups, -1, weight.shape[1])  # [groups, out / groups, in / groups]
        sums = sums + kernel @ seen.reshape(*x.shape[:2], groups, weight.shape[1], -1)
    return np.reshape(sums, (*x.shape[:2], channels, height, width))


def differences(folder: Path, path: Path) -> list[str]:
    """What of a golden file a run does not give again: bits where it is exact, else 1e-9."""
    arithmetic = path.stem.rpartition("_")[2]
    network, wrong = Network(folder, arithmetic), []
    exact = network.graph["exact"][arithmetic]
    with np.load(path, allow_pickle=False) as golden:
        maps = network.run(golden["x"])
        found = {f"map/{i}": raw for i, raw in enumerate(maps)}
        found |= dict(zip(("boxes", "scores"), network.boxes(maps), strict=True))
        found |= {f"spikes/{name}": spikes for name, spikes in network.spikes.items()}
        found |= {f"membranes/{name}": values for name, values in network.membranes.items()}
        for name in (set(golden.files) | set(found)) - {"x"}:
            close = 0 if exact and name not in ("boxes", "scores") else 1e-9
            if not np.allclose(golden[name], found[name], rtol=close, atol=close):
                wrong.append(name)
    return sorted(wrong)


if __name__ == "__main__":
    here, code = Path(__file__).parent, 0
    for file in sorted((here / "golden").glob("*.npz")):
        wrong = differences(here, file)
        print(f"{file.name}: {'equal' if not wrong else 'differs in ' + ', '.join(wrong)}")
        code |= bool(wrong)
    sys.exit(code)
