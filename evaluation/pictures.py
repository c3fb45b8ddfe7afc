"""Pictures: detections over events, precision-recall, firing and energy; the frames of a video.

A frame shows one window of a recording: events, boxes and labels, what happened when below.
Pillow draws it; matplotlib, too slow for each of them, draws the curves once.
"""

import colorsys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from models.energy import EnergyReport

OFF_COLOUR, ON_COLOUR = np.array([52, 101, 164]), np.array([204, 71, 58])
LABEL_COLOUR = "#222222"
CLASS_COLOURS = ("#d98200", "#178a4c", "#8e44ad", "#1f9aa8", "#b5306e", "#7a5c2e")
GOLDEN_SECTION = 0.618034
SPIKING, EQUIVALENT = "#178a4c", "#b9b9b9"
#: How dark a pixel with 0, 1, 2, 3 or more events is: fixed, so that pictures do not flicker.
STRENGTHS = np.array([0, 0.5, 0.75, 1])
WHITE, INK = "#ffffff", "#555555"
EVENT_RATE_COLOUR, FIRING_COLOUR = "#8a8a8a", "#7b3fa0"
DASH_PX = 6
LEGEND_LINES = 12  # more classes have none

Corners = tuple[int, int, int, int]  # left, top, right, bottom in px, the last two included


def class_colour(class_id: int) -> str:
    """One of CLASS_COLOURS, then hues that lie far from those before them, without end."""
    if class_id < len(CLASS_COLOURS):
        return CLASS_COLOURS[class_id]
    shade = (0.75, 0.5)[class_id % 2]
    rgb = colorsys.hsv_to_rgb(class_id * GOLDEN_SECTION % 1, 0.85, shade)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def event_image(frames: np.ndarray) -> np.ndarray:
    """Counts uint8 [T, 2, H, W] -> RGB uint8 [H, W, 3]: white, OFF blue, ON red, busier darker."""
    off, on = frames.sum(0, dtype=np.int64)
    busy = np.log1p(off + on)
    strength = (busy / max(np.quantile(busy, 0.995), 1e-9)).clip(0, 1)[..., None]
    share_on = (on / np.maximum(off + on, 1))[..., None]
    colour = ON_COLOUR * share_on + OFF_COLOUR * (1 - share_on)
    return (255 * (1 - strength) + colour * strength).astype(np.uint8)


def draw_detections(
    axes: Axes,
    frames: np.ndarray,
    scale: int,
    labels: np.ndarray,
    detections: np.ndarray,
    title: str,
    classes: Sequence[str],
) -> None:
    """One label time: events, dashed labels, detections with class and score.

    frames: uint8 [T, 2, H, W], one cell of which is `scale` sensor px wide; labels and
    detections: BOX [n] in sensor px, drawn as they are.
    """
    height, width = (side * scale for side in frames.shape[-2:])
    axes.imshow(event_image(frames), extent=(0, width, height, 0), interpolation="nearest")
    for box in labels:
        axes.add_patch(_outline(box, edgecolor=LABEL_COLOUR, linestyle="--", linewidth=1.2))
    for box in detections:
        colour = class_colour(int(box["class_id"]))
        axes.add_patch(_outline(box, edgecolor=colour, linewidth=1.6))
        text = f"{classes[box['class_id']]} {box['class_confidence']:.2f}"
        corner = max(box["x"], 0), max(box["y"], 8)
        frame = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        axes.text(*corner, text, bbox=frame, color="white", fontsize=6, va="bottom", clip_on=True)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)


def _outline(box: np.void, **style: Any) -> Rectangle:
    return Rectangle((box["x"], box["y"]), box["w"], box["h"], fill=False, **style)


def precision_recall(
    precision: np.ndarray, per_class: dict[str, tuple[float, float]], title: str = ""
) -> Figure:
    """Precision [n_classes, 101] over recall at IoU 0.5, a line per class that has labels."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, precision.shape[1])
    for k, (name, (_, ap50)) in enumerate(per_class.items()):
        if ap50 >= 0:
            label = f"{name}  AP@50 {ap50:.3f}" if len(per_class) <= LEGEND_LINES else None
            axes.plot(recall, precision[k], color=class_colour(k), label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left")
    return figure


def firing_rates(energy: EnergyReport) -> Figure:
    """Firing rate of every spiking layer's input, from the stem to the head."""
    rates = {la.name: la.firing_rate for la in energy.layers if la.firing_rate is not None}
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(rates)), list(rates.values()), color=SPIKING)
    axes.axhline(energy.firing_rate, color="#222222", linewidth=1, linestyle="--")
    axes.set_ylabel("firing rate (spikes / T / D)")
    _name_stages(axes, list(rates))
    return figure


def energy_per_layer(energy: EnergyReport) -> Figure:
    """Energy of every layer, spiking beside its ANN-equivalent, in microjoule."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(energy.layers))
    ann_uj = [1e-6 * layer.ann_pj for layer in energy.layers]
    snn_uj = [1e-6 * layer.snn_pj for layer in energy.layers]
    axes.bar(places, ann_uj, color=EQUIVALENT, label="ANN-equivalent")
    axes.bar(places, snn_uj, color=SPIKING, label="this network")
    axes.set_ylabel("energy per inference (uJ)")
    axes.legend(loc="upper right")
    _name_stages(axes, [layer.name for layer in energy.layers])
    return figure


def _name_stages(axes: Axes, names: Sequence[str]) -> None:
    """Mark where each stage of the network begins."""
    stages = [name.split(".")[0] for name in names]
    starts = [i for i, stage in enumerate(stages) if i == 0 or stage != stages[i - 1]]
    axes.set_xticks(starts, [stages[i] for i in starts], rotation=45, ha="right", fontsize=8)
    axes.set_xlim(-0.7, len(names) - 0.3)
    for start in starts:
        axes.axvline(start - 0.5, color="#dddddd", linewidth=0.8, zorder=0)


def event_colours() -> np.ndarray:
    """RGB uint8 [3, 4, 3]: mostly OFF, as many, mostly ON; by 0, 1, 2, 3 or more events."""
    hues = np.stack([OFF_COLOUR, (OFF_COLOUR + ON_COLOUR) / 2, ON_COLOUR])[:, None]
    strength = STRENGTHS[:, None]
    return (255 * (1 - strength) + hues * strength).astype(np.uint8)


def event_picture(events: np.ndarray, sensor_hw: tuple[int, int]) -> np.ndarray:
    """Events structured (t, x, y, p) -> RGB uint8 [H, W, 3]: OFF blue, ON red, none white."""
    height, width = sensor_hw
    events = events[(events["x"] < width) & (events["y"] < height)]
    cells = (events["p"].astype(np.int64) * height + events["y"]) * width + events["x"]
    off, on = np.bincount(cells, minlength=2 * height * width).reshape(2, height, width)
    return event_colours()[1 + np.sign(on - off), np.minimum(on + off, len(STRENGTHS) - 1)]


def near(boxes: np.ndarray, t_us: int, within_us: int) -> np.ndarray:
    """The boxes of the time closest to t_us, none if that is more than within_us away."""
    if not len(boxes):
        return boxes
    away_us = np.abs(boxes["t"] - t_us)
    return boxes[(away_us == away_us.min()) & (away_us <= within_us)]


class FramePainter:
    """Paints the pictures of one recording, all of `size` (width, height), even numbers of px.

    classes: their names. sensor_hw in px; the sensor is enlarged by an integer to at most
    picture_height, or shown as it is. times_s, event_rate (events/s) and firing_rate (in [0, 1],
    nan or None: not known) are one value per window, for the strip below. labelled: name what is
    dashed.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        sensor_hw: tuple[int, int],
        times_s: np.ndarray,
        event_rate: np.ndarray,
        firing_rate: np.ndarray | None = None,
        picture_height: int = 720,
        labelled: bool = True,
    ) -> None:
        self.classes = classes
        self.sensor_hw, self.scale = sensor_hw, max(picture_height // sensor_hw[0], 1)
        height, width = (side * self.scale for side in sensor_hw)
        text_px = max(height // 36, 13)
        self._font = _font(text_px)
        self._line = max(height // 240, 2)
        self.top, strip = 2 * text_px, max(height // 5, 110)
        self.size = (width + width % 2, self.top + height + strip + (self.top + height + strip) % 2)
        self._page = Image.new("RGB", self.size, WHITE)
        curves, self._strip_x = _strip((width, strip), text_px, times_s, event_rate, firing_rate)
        self._page.paste(curves, (0, self.top + height))
        self._strip_rows = self.top + height, self.top + height + strip - int(1.6 * text_px)
        self._legend(name, text_px, labelled)

    def paint(
        self, t_us: int, events: np.ndarray, detections: np.ndarray, labels: np.ndarray
    ) -> np.ndarray:
        """RGB uint8 [height, width, 3] at t_us. events: what to show; detections, labels: BOX [n],
        drawn as they are, best first."""
        picture = Image.fromarray(event_picture(events, self.sensor_hw))
        picture = picture.resize(
            (picture.width * self.scale, picture.height * self.scale), Image.Resampling.NEAREST
        )
        draw = ImageDraw.Draw(picture)
        for box in labels:
            for dash in _dashes(self._corners(box)):
                draw.line(dash, LABEL_COLOUR, self._line)
        for box in detections:
            colour = class_colour(int(box["class_id"]))
            draw.rectangle(self._corners(box), outline=colour, width=self._line)
        self._name_boxes(draw, picture.size, detections)

        page = self._page.copy()
        page.paste(picture, (0, self.top))
        draw = ImageDraw.Draw(page)
        stamp = f"{t_us / 1e6:.3f} s"
        draw.text((self.size[0] - 8, self.top / 2), stamp, LABEL_COLOUR, self._font, anchor="rm")
        x = self._strip_x(t_us / 1e6)
        draw.line([(x, self._strip_rows[0]), (x, self._strip_rows[1])], LABEL_COLOUR, 2)
        return np.asarray(page)

    def _corners(self, box: np.void) -> Corners:
        """Left, top, right, bottom in px of the picture, in order also for an empty box."""
        left, top = round(box["x"] * self.scale), round(box["y"] * self.scale)
        right = round((box["x"] + box["w"]) * self.scale) - 1
        bottom = round((box["y"] + box["h"]) * self.scale) - 1
        return left, top, max(right, left), max(bottom, top)

    def _name_boxes(
        self, draw: ImageDraw.ImageDraw, size: tuple[int, int], detections: np.ndarray
    ) -> None:
        """Class and score beside every box, where they cover no other name if there is such."""
        texts = [
            f"{self.classes[box['class_id']]} {box['class_confidence']:.2f}" for box in detections
        ]
        extents = [draw.textbbox((0, 0), text, self._font) for text in texts]
        sides = [(int(x2 - x1) + 6, int(y2 - y1) + 6) for x1, y1, x2, y2 in extents]
        places = place_names([self._corners(box) for box in detections], sides, size)
        for box, text, extent, place in zip(detections, texts, extents, places, strict=True):
            draw.rectangle(place, class_colour(int(box["class_id"])))
            corner = place[0] + 3 - extent[0], place[1] + 3 - extent[1]
            draw.text(corner, text, WHITE, self._font)

    def _legend(self, name: str, text_px: int, labelled: bool) -> None:
        """The line on top: name, and what the outlines mean."""
        draw, middle, x = ImageDraw.Draw(self._page), self.top // 2, 8.0
        while draw.textlength(name, self._font) > 0.45 * self.size[0]:
            name = name.removesuffix("…")[:-1] + "…"
        draw.text((x, middle), name, LABEL_COLOUR, self._font, anchor="lm")
        x += draw.textlength(name, self._font) + 2 * text_px
        half = text_px // 2
        for class_id, known in enumerate(self.classes):
            length = draw.textlength(known, self._font)
            if x + length > 0.8 * self.size[0]:
                more = f"+ {len(self.classes) - class_id}"
                draw.text((x, middle), more, INK, self._font, anchor="lm")
                x += draw.textlength(more, self._font) + text_px
                break
            square = (x, middle - half, x + text_px, middle + half)
            draw.rectangle(square, outline=class_colour(class_id), width=self._line)
            draw.text((x + 1.4 * text_px, middle), known, INK, self._font, anchor="lm")
            x += length + 2.4 * text_px
        if not labelled:
            return
        for dash in _dashes((int(x), middle - half, int(x) + text_px, middle + half)):
            draw.line(dash, LABEL_COLOUR, self._line)
        draw.text((x + 1.4 * text_px, middle), "label", INK, self._font, anchor="lm")


def place_names(
    boxes: Sequence[Corners], sides: Sequence[tuple[int, int]], size: tuple[int, int]
) -> list[Corners]:
    """Where names of `sides` px stand beside their boxes in a picture of `size`: on no other name
    if there is such a place; the first of boxes choose first."""
    taken: list[Corners] = []
    for box, side in zip(boxes, sides, strict=True):
        places = list(_places(box, side, size))
        taken.append(next((p for p in places if not any(_meet(p, t) for t in taken)), places[0]))
    return taken


def palette() -> Image.Image:
    """The few colours of these pictures, for formats that hold few."""
    flat = [*CLASS_COLOURS, LABEL_COLOUR, EVENT_RATE_COLOUR, FIRING_COLOUR]
    colours = [tuple(colour) for colour in event_colours()[:, 1:].reshape(-1, 3)]
    for colour in flat:  # with the edges of smoothed text and lines
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        colours += [tuple((255 - (255 - rgb) * share).astype(int)) for share in (1, 0.66, 0.33)]
    image = Image.new("P", (1, 1))
    image.putpalette([int(value) for colour in [(255, 255, 255), *colours] for value in colour])
    return image


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, there on every machine."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size_px)


def _dashes(corners: Corners) -> Iterator[list[tuple[int, int]]]:
    """The outline of a box in dashes."""
    left, top, right, bottom = corners
    for y in (top, bottom):
        for x in range(left, right, 2 * DASH_PX):
            yield [(x, y), (min(x + DASH_PX, right), y)]
    for x in (left, right):
        for y in range(top, bottom, 2 * DASH_PX):
            yield [(x, y), (x, min(y + DASH_PX, bottom))]


def _places(corners: Corners, side: tuple[int, int], size: tuple[int, int]) -> Iterator[Corners]:
    """Where a name of `side` px may stand, best first: above, below, inside; within the picture."""
    left, top, right, bottom = corners
    width, height = side
    for x in (left, right - width + 1):
        for y in (top - height, bottom + 1, top, bottom - height + 1):
            x_in = max(min(x, size[0] - width), 0)
            y_in = max(min(y, size[1] - height), 0)
            yield x_in, y_in, x_in + width - 1, y_in + height - 1


def _meet(a: Corners, b: Corners) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _strip(
    size: tuple[int, int],
    text_px: int,
    times_s: np.ndarray,
    event_rate: np.ndarray,
    firing_rate: np.ndarray | None,
) -> tuple[Image.Image, Callable[[float], int]]:
    """The curves over time in an image of `size` px, and where in it a time in s lies."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # so that a point is a pixel
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    edge = 5.2 * text_px / width
    low, high = 1.6 * text_px / height, 1 - 0.5 * text_px / height
    figure.subplots_adjust(left=edge, right=1 - edge, bottom=low, top=high)
    unit, factor = ("M/s", 1e-6) if np.max(event_rate, initial=0) >= 1e6 else ("k/s", 1e-3)
    axes.fill_between(times_s, event_rate * factor, color=EVENT_RATE_COLOUR, alpha=0.35, lw=0)
    _curve(axes, times_s, event_rate * factor, EVENT_RATE_COLOUR, f"events\n{unit}", text_px)
    alone_s = 0.5 if len(times_s) < 2 else 0.0
    axes.set_xlim(times_s[0] - alone_s, times_s[-1] + alone_s)
    axes.xaxis.set_major_formatter("{x:g} s")
    axes.tick_params(axis="x", labelsize=0.8 * text_px, pad=2, colors=INK)
    if firing_rate is not None and np.isfinite(firing_rate).any():
        percent = 100 * firing_rate
        _curve(axes.twinx(), times_s, percent, FIRING_COLOUR, "firing rate\n%", text_px)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    left, right = (axes.transData.transform((t_s, 0))[0] for t_s in axes.get_xlim())
    first, last = axes.get_xlim()
    return image, lambda t_s: round(left + (right - left) * (t_s - first) / (last - first))


def _curve(
    axes: Axes, times_s: np.ndarray, values: np.ndarray, colour: str, label: str, text_px: int
) -> None:
    """One curve from zero up, its axis in its colour."""
    axes.plot(times_s, values, color=colour, lw=2, marker="o" if len(values) < 3 else "")
    highest = np.nanmax(values, initial=0)
    axes.set_ylim(0, 1.15 * highest if highest > 0 else 1)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(axis="y", labelsize=0.8 * text_px, pad=2, colors=colour)
    axes.set_ylabel(label, fontsize=0.8 * text_px, color=colour)
    axes.spines[["top"]].set_visible(False)
