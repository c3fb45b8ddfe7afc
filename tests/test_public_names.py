"""The names that others script against: each is called as it is promised to be, on tiny shapes."""

import inspect
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.compare import compare
from evaluation.detect import open_split
from evaluation.metrics import EvalConfig, run
from gen1.coco import evaluate
from gen1.dat import DatReader, write_dat
from gen1.labels import read_boxes, write_boxes
from gen1.protocol import PROTOCOLS, EvalProtocol
from gen1.recordings import find_recordings, list_recordings, open_recording
from gen1.spec import BOX, EVENT
from gen1.survey import survey
from models import build_model
from models.authors import FROZEN, convert_state_dict, tensor_names
from models.authors.__main__ import convert_file
from models.checkpoint import checkpoint_file, load_checkpoint, load_model, save_checkpoint
from models.decode import decode, non_max_suppression
from models.deploy import deploy
from models.deploy.__main__ import deploy_file
from models.ems.loss import AnchorLoss
from models.ems.network import COCO_ANCHORS
from models.energy import measure_energy
from models.loss import DetectionLoss
from models.neuron import ILIFNode
from models.share import share
from models.spike_driven import spike_driven
from preprocessing.cache import open_cache, read_manifest
from preprocessing.dataset import HistogramDataset
from preprocessing.geometry import Geometry
from preprocessing.histogram import event_histogram
from preprocessing.verify import verify
from streaming.detector import Detector


def parameters_of(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def boxes_at(t_us: int) -> np.ndarray:
    box = np.zeros(1, BOX)
    for name, value in (("t", t_us), ("x", 10), ("y", 20), ("w", 60), ("h", 40)):
        box[name] = value
    box["class_confidence"] = 0.9
    return box


def test_recordings_and_labels(tmp_path):
    events = np.array([(5, 1, 2, 0), (40, 3, 4, 1), (90, 3, 4, 1)], EVENT)
    write_dat(tmp_path / "a_td.dat", events, height=6, width=8)
    reader = DatReader(tmp_path / "a_td.dat")
    assert (reader.height, reader.width, reader.n_events) == (6, 8, 3)
    assert reader.duration_us == 86
    assert reader.read()[["t", "x", "y", "p"]].tolist() == events[["t", "x", "y", "p"]].tolist()
    assert reader.window(start_us=5, end_us=90)["t"].tolist() == [5, 40]

    write_boxes(tmp_path / "a_bbox.npy", boxes_at(7))
    read = read_boxes(tmp_path / "a_bbox.npy")
    names = ("t", "x", "y", "w", "h", "class_id", "class_confidence", "track_id")
    assert read.dtype.names == names
    assert np.array_equal(read, boxes_at(7))

    counts = event_histogram(events, 0, window_us=100, time_steps=2, height=6, width=8)
    assert (counts.dtype, counts.shape, counts.sum()) == (np.uint8, (2, 2, 6, 8), 3)
    assert counts[0, 0, 2, 1] == counts[0, 1, 4, 3] == counts[1, 1, 4, 3] == 1
    expected = ["events", "start_us", "window_us", "time_steps", "height", "width"]
    assert parameters_of(event_histogram)[:6] == expected


@pytest.mark.parametrize("name", ["prophesee", "all-boxes", "rvt"])
def test_scores(name):
    protocol = PROTOCOLS[name]
    assert isinstance(protocol, EvalProtocol)
    metrics = evaluate(
        labels=[boxes_at(999_999)], detections=[boxes_at(999_999)], protocol=protocol
    )
    assert metrics.stats.shape == (12,)
    assert (
        [metrics.map_50_95, metrics.map_50] == metrics.stats[:2].tolist() == pytest.approx([1, 1])
    )
    assert metrics.per_class["car"] == pytest.approx((1, 1))


OVERRIDES = {
    "num_classes": 3, "in_channels": 1, "time_steps": 2, "max_spikes": 3, "decay": 0.75,
    "input_scale": 0.5, "activation": "nilif",
}  # fmt: skip
SPIKEYOLO = [f"spikeyolo-{size}" for size in "pnsml"]
EMS = [f"ems-{size}" for size in ("res10", "res18", "res34", "resnet10-cat", "resnet34-cat")]


@pytest.mark.parametrize("name", SPIKEYOLO + EMS)
def test_every_network_takes_every_override(name):
    with torch.device("meta"):
        model = build_model(name, **OVERRIDES)
    assert {field: getattr(model.config, field) for field in OVERRIDES} == OVERRIDES
    nodes = [module for module in model.modules() if isinstance(module, ILIFNode)]
    settings = {(n.max_spikes, n.decay, n.input_scale, n.spike_value) for n in nodes}
    assert settings == {(3, 0.75, 0.5, 1 / 3)}


def test_names_of_the_authors_convert_strictly():
    model = build_model("spikeyolo-p", variant="gen1")
    state = {theirs: model.state_dict()[ours] for ours, theirs in tensor_names(model).items()}
    state["model.26.dfl.conv.weight"] = torch.arange(16.0).view(1, 16, 1, 1)
    model.load_state_dict(convert_state_dict(state), strict=True)
    del state["model.1.encode_conv.bias"]
    with pytest.raises(ValueError, match=r"missing tensor 'model\.1\.encode_conv\.bias'"):
        convert_state_dict(state)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("spikeyolo-p", variant="gen1", num_classes=3).double()


@pytest.mark.parametrize("training", [True, False])
def test_maps_boxes_and_loss(model, training):
    x = torch.ones(4, 2, 2, 32, 64, dtype=torch.float64)
    maps = model.train(training)(x)
    shapes = [(2, 64 + 3, 32 // stride, 64 // stride) for stride in (8, 16, 32)]
    assert [tuple(raw.shape) for raw in maps] == shapes
    targets = torch.tensor([[1, 2, 4.0, 4, 30, 20]])
    losses = DetectionLoss(num_classes=3)(maps, targets)
    assert [*losses] == ["box", "cls", "dfl"]
    assert sum(losses.values()).requires_grad

    anchors = sum(shape[2] * shape[3] for shape in shapes)
    boxes_xyxy, scores = decode(maps)
    assert (boxes_xyxy.shape, scores.shape) == ((2, anchors, 4), (2, anchors, 3))
    options = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_detections": 5}
    found = non_max_suppression(boxes_xyxy, scores, **options, multi_label=False)
    assert all(0 < len(rows) <= 5 and rows.shape[1] == 6 for rows in found)


@torch.no_grad()
def test_twins_and_energy(model):
    x = torch.ones(4, 1, 2, 32, 32, dtype=torch.float64)
    deployed = deploy(model)
    for twin in (deployed, spike_driven(deployed)):
        for ours, theirs in zip(twin(x), model.eval()(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    report = measure_energy(model, [x])
    assert report.mac == sum(layer.mac for layer in report.layers) > 0 < report.ac
    assert report.ratio == report.ann_mj / report.snn_mj


def test_neuron():
    names = ["max_spikes", "decay", "input_scale", "detach_reset", "backend"]
    assert parameters_of(ILIFNode)[:5] == names
    node = ILIFNode(2, 0.5, 1.0, True, "torch")
    assert node(torch.tensor([[2.4], [0.4]])).tolist() == [[2.0], [1.0]]


def test_anchor_based_networks_and_their_loss():
    """Built by name with other anchors and channels; the loss of COCO's 80 classes by itself."""
    anchors = ((8.0, 8.0), (40.0, 30.0, 64.0, 64.0))
    model = build_model("ems-res10", variant="gen1", in_channels=1, anchors=anchors).double()
    maps = model(torch.ones(2, 1, 1, 32, 64, dtype=torch.float64))
    assert [tuple(raw.shape) for raw in maps] == [(1, 7, 2, 4), (1, 14, 1, 2)]
    boxes_xyxy, scores = model.decode(maps)
    assert (boxes_xyxy.shape, scores.shape) == ((1, 8 + 4, 4), (1, 8 + 4, 2))

    maps = [torch.zeros(2, 3 * 85, side, side, dtype=torch.float64) for side in (4, 2)]
    targets = torch.tensor([[1, 79, 4.0, 4, 30, 20]])
    losses = AnchorLoss(80, COCO_ANCHORS, image_size=640)(maps, targets)
    assert [*losses] == ["box", "obj", "cls"]
    assert all(loss.shape == () for loss in losses.values())


@pytest.fixture(scope="module")
def place(street_cache, tmp_path_factory):
    """A directory of recordings, a cache, a run and the authors' file of the same weights."""
    place = tmp_path_factory.mktemp("place")
    for name in ("recordings", "cache"):
        (place / name).symlink_to(street_cache.parent / name)
    shutil.copy(street_cache.parent / "recordings/test/r0_td.dat", place / "a_td.dat")
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2, activation="relu")
    settings = asdict(read_manifest(street_cache).settings)
    meta = {"name": "spikeyolo-p", "histogram": settings, "input": "histogram"}
    save_checkpoint(place / "run" / "best.pt", model.config, model.state_dict(), meta)
    theirs = {theirs: model.state_dict()[ours] for ours, theirs in tensor_names(model).items()}
    torch.save(theirs | FROZEN, place / "theirs.pt")
    return place


def evaluated(run_directory, cache, output):
    options = {"batch_size": 4, "device": "cpu", "energy_samples": 1, "pictures": 0}
    run(EvalConfig(run_directory, cache, output, split="val", **options))
    return compare([output])


def opened(path):
    with open_recording(path) as reader:
        return reader.n_events


def split_of(cache):
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2)
    return open_split(cache, "val", model.config, read_manifest(cache).settings, "histogram")


#: Functions that take paths, each with files of `place`; one that ends in .new is written.
TAKE_PATHS = [
    (DatReader, "a_td.dat"),
    (lambda path: write_dat(path, np.zeros(1, EVENT), 6, 8), "b.new"),
    (read_boxes, "recordings/test/r0_bbox.npy"),
    (lambda path: write_boxes(path, boxes_at(7)), "c.new"),
    (list_recordings, "recordings"),
    (find_recordings, "recordings"),
    (opened, "a_td.dat"),
    (survey, "recordings"),
    (read_manifest, "cache"),
    (lambda path: open_cache(path).close(), "cache/val/r0.h5"),
    (lambda path: list(verify(path)), "cache"),
    (lambda path: HistogramDataset(path, "val", Geometry(downsample=2)), "cache"),
    (split_of, "cache"),
    (checkpoint_file, "run"),
    (load_checkpoint, "run/best.pt"),
    (load_model, "run/best.pt"),
    (share, "run", "small.new"),
    (deploy_file, "run", "deployed.new"),
    (convert_file, "theirs.pt", "ours.new"),
    (Detector.load, "run"),
    (evaluated, "run", "cache", "scored.new"),
]


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(("function", "names"), [(f, names) for f, *names in TAKE_PATHS])
def test_paths_are_text_or_paths(function, names, kind, place):
    function(*(kind(place / name) for name in names))
    assert all((place / name).exists() for name in names)
