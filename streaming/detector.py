"""Events in any chunks -> boxes, window by window."""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from gen1.spec import DatasetSpec, unnamed
from models.checkpoint import checkpoint_file, load_model
from models.decode import DetectConfig, non_max_suppression
from models.deploy import deploy
from models.detector import DetectorNetwork, refuse_other_task
from models.device import pick_device
from models.export.engine import OnnxNetwork
from models.export.onnx_model import Precision
from models.memory.carried import refuse_stateless
from models.neuron import neurons
from preprocessing.geometry import as_boxes
from preprocessing.histogram import DOWNSAMPLE_FACTORS, EventTally, HistogramSettings
from preprocessing.inputs import (
    check_input,
    check_representation,
    input_geometry,
    input_of,
    network_frames,
    network_input,
)
from streaming.windower import Window, Windower

#: What runs a network.
Engine = Literal["torch", "onnx", "onnx-int8"]
ENGINES = get_args(Engine)
#: A frame may exceed the trained one by this factor per side before sensor pixels are pooled.
LARGEST_FRAME = 1.25


@dataclass(frozen=True)
class Detections:
    """What was found in the window [start_us, end_us) of n_events.

    boxes: BOX [n] in sensor px, t = end_us, best first. forward_ms: the network alone;
    decode_ms: from its maps to boxes. spikes (all neurons, all T steps) and firing_rate (their
    share of the most possible, D per neuron and step) are None unless spikes are counted.
    """

    start_us: int
    end_us: int
    n_events: int
    boxes: np.ndarray
    forward_ms: float
    decode_ms: float
    spikes: int | None = None
    firing_rate: float | None = None


class Network(NamedTuple):
    """What a checkpoint holds: the model, the histograms it was trained on, its kind of input
    and the data set they were of."""

    model: DetectorNetwork
    settings: HistogramSettings
    input: str
    spec: DatasetSpec


def load_network(checkpoint: Path | str) -> Network:
    """The network of a checkpoint or run directory (its best.pt)."""
    path = checkpoint_file(checkpoint)
    model, loaded = load_model(path)
    refuse_other_task(loaded.config, "detection", path)
    settings, kind, spec = input_of(loaded.meta, path)
    if model.config.num_classes > len(spec.classes):
        spec = replace(spec, classes=unnamed(model.config.num_classes), label_ids=())
    return Network(model, settings, kind, spec)


class Detector:
    """The deployed network on sliding windows of a stream.

    Windows [t - window_us, t) at a stride of every_us from the first event on, boxes at t: as
    eval_gen1.py on a cache with `--every-ms`. settings: the histograms the model was trained on;
    sensor_hw: the stream's sensor in px, see fit_sensor (None: the trained one); start_us, hot: as
    of Windower. carry_state keeps membranes from window to window, which then must not overlap:
    every_us must be window_us. count_spikes costs a pass over all spikes, by engine torch alone;
    "onnx" and "onnx-int8" (rounded weights) are onnxruntime on a CPU. The model is not modified.
    Raises ValueError for a model, input, sensor, stride or engine that do not go together.
    """

    def __init__(
        self,
        model: DetectorNetwork,
        settings: HistogramSettings,
        *,
        input: str = "histogram",
        every_us: int = 50_000,
        sensor_hw: tuple[int, int] | None = None,
        start_us: int | None = None,
        hot: np.ndarray | None = None,
        score_threshold: float = 0.3,
        iou_threshold: float = 0.7,
        max_detections: int = 300,
        device: str = "auto",
        carry_state: bool = False,
        count_spikes: bool = False,
        engine: Engine = "torch",
    ) -> None:
        if settings.representation == "rvt":
            found = "the model reads RVT's frames, which cannot be made of events here"
            raise ValueError(f"{found}, expected one trained on our histograms")
        check_representation(settings, input, "the model's histograms")
        check_input(model.config.in_channels, model.config.time_steps, settings, input)
        if carry_state:
            _check_carried(model, settings.window_us, every_us)
        self.settings = fit_sensor(settings, sensor_hw, input)
        self.geometry, self.input = input_geometry(self.settings, input), input
        self.detect_config = DetectConfig(score_threshold, iou_threshold, max_detections)
        self.windower = Windower(self.settings, every_us, start_us, hot)
        self.device = pick_device(device)
        self.model = deploy(model).to(self.device)
        self.model.carry_state = carry_state
        self._spikes = SpikeCounter(self.model) if count_spikes else None
        self._onnx = None
        if engine != "torch":
            self._onnx = self._engine(engine, carry_state, count_spikes)

    @classmethod
    def load(cls, checkpoint: Path | str, *, every_ms: float = 50.0, **options: Any) -> "Detector":
        """The network of a checkpoint or run directory (its best.pt); options: of Detector."""
        network = load_network(checkpoint)
        options |= {"input": network.input, "every_us": round(1000 * every_ms)}
        return cls(network.model, network.settings, **options)

    def _engine(self, engine: str, carry_state: bool, count_spikes: bool) -> OnnxNetwork:
        if engine not in ENGINES:
            raise ValueError(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
        if self.device.type != "cpu" or count_spikes:
            asked = "count_spikes" if count_spikes else f"device {self.device.type}"
            raise ValueError(f"engine {engine!r} was asked with {asked}, expected engine torch")
        size_hw = self.geometry.network_hw
        precision: Precision = "int8" if engine == "onnx-int8" else "float32"
        return OnnxNetwork(self.model, size_hw, precision, carry_state)

    @property
    def late_events(self) -> int:
        """Events that came too late for every window, dropped."""
        return self.windower.late_events

    def feed(self, events: np.ndarray) -> list[Detections]:
        """One entry per window that these events (t in us, x, y, p; any number) complete."""
        return list(map(self.detect, self.windower.windows(events)))

    def advance(self, t_us: int) -> list[Detections]:
        """A heartbeat: every event before t_us has been fed."""
        return list(map(self.detect, self.windower.windows_until(t_us)))

    def flush(self) -> list[Detections]:
        """The recording is over: windows that end by one us past the newest event."""
        return list(map(self.detect, self.windower.last_windows()))

    @torch.no_grad()
    def detect(self, window: Window) -> Detections:
        """Boxes of one window of `windower`; feed does this for every one."""
        frames = torch.from_numpy(network_frames(window.histogram, self.geometry, self.input))
        x = network_input(frames.unsqueeze(1).to(self.device))
        started = self._now()
        maps = self.model(x) if self._onnx is None else self._onnx(x)
        found = self._now()
        boxes, scores = self.model.decode([m.float() for m in maps])
        (rows,) = non_max_suppression(boxes, scores, **asdict(self.detect_config))
        detected = as_boxes(rows.cpu().numpy(), window.end_us, self.geometry)
        forward_ms, decode_ms = 1e3 * (found - started), 1e3 * (self._now() - found)
        spikes, firing_rate = self._spikes.take() if self._spikes else (None, None)
        window_of = (window.start_us, window.end_us, window.n_events)
        return Detections(*window_of, detected, forward_ms, decode_ms, spikes, firing_rate)

    def reset(self) -> None:
        """Forget events, membranes and counters, as for another recording."""
        self.windower.reset()
        self.reset_state()

    def reset_state(self) -> None:
        """Let the membranes start from rest at the next window."""
        functional.reset_net(self.model)
        if self._onnx is not None:
            self._onnx.reset()

    def warm_up(self) -> None:
        """One forward of an empty window, so that the first real one is not the slow one."""
        self.detect(Window(0, 0, np.zeros(self.settings.frame_shape, np.uint8), EventTally()))
        self.reset_state()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class SpikeCounter:
    """Counts what all neurons of a network fire; the ANN twins fire nothing."""

    def __init__(self, model: DetectorNetwork) -> None:
        self._fired: list[Tensor] = []
        self._possible = 0
        self._spiking = model.config.is_spiking
        for name, neuron in neurons(model).items() if self._spiking else ():
            count = partial(self._count, neuron.levels)
            model.get_submodule(name).register_forward_hook(count)

    def _count(self, levels: int, _node: nn.Module, _: tuple[Tensor, ...], spikes: Tensor) -> None:
        self._fired.append(spikes.sum(dtype=torch.float64))
        self._possible += levels * spikes.numel()

    def take(self) -> tuple[int | None, float | None]:
        """Spikes since the last call and their share of the most possible."""
        if not self._spiking:
            return None, None
        spikes = int(torch.stack(self._fired).sum())
        rate = spikes / self._possible
        self._fired, self._possible = [], 0
        return spikes, rate


def fit_sensor(
    settings: HistogramSettings, sensor_hw: tuple[int, int] | None, input: str
) -> HistogramSettings:
    """The settings for a sensor of another size than the trained one.

    Cells stay as they are while the frame is at most a quarter larger per side than the trained
    one (a smaller one is padded); else the smallest of the factors 1, 2, 4 that makes it so. The
    input "authors" scales every sensor to a width of 320 px. Raises ValueError if none does.
    """
    trained_hw = settings.height, settings.width
    if sensor_hw is None or sensor_hw == trained_hw:
        return settings
    height, width = sensor_hw
    found = f"a sensor of {height}x{width} px was given to a model trained on "
    found += "{}x{} px with downsample {}".format(*trained_hw, settings.downsample)
    if input == "authors":
        if height > width:
            raise ValueError(f"{found}, expected a sensor no taller than wide")
        return replace(settings, height=height, width=width)
    for factor in DOWNSAMPLE_FACTORS:
        sides = zip(sensor_hw, trained_hw, strict=True)
        fits = all(
            side % factor == 0 and side / factor <= LARGEST_FRAME * trained / settings.downsample
            for side, trained in sides
        )
        if fits and factor >= settings.downsample:
            return replace(settings, height=height, width=width, downsample=factor)
    limit_hw = [int(LARGEST_FRAME * side / settings.downsample) for side in trained_hw]
    expected = "{}x{} cells at most after pooling 1, 2 or 4 px".format(*limit_hw)
    raise ValueError(f"{found}, expected {expected}")


def _check_carried(model: DetectorNetwork, window_us: int, every_us: int) -> None:
    refuse_stateless(model, "carry_state")
    if every_us != window_us:
        found = f"carry_state was asked with windows of {window_us} us every {every_us} us"
        raise ValueError(f"{found}, expected every {window_us} us: no event may count twice")
