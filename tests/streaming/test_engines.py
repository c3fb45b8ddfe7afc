"""A detector finds the same with onnxruntime as with torch."""

import numpy as np
import pytest

from simulator.recordings import Settings, simulate
from streaming.detector import Detector
from tests.models.export.conftest import SAMPLE

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def events():
    """A second of a simulated street."""
    return simulate(Settings(1.0, seed=0), "test", 0)[0]


def found(events, **options):
    detector = Detector.load(SAMPLE, every_ms=250, device="cpu", **options)
    detector.warm_up()
    return detector.feed(events) + detector.flush()


@pytest.mark.parametrize("carry_state", [False, True])
def test_boxes_are_those_of_torch(events, carry_state):
    ours = found(events, engine="onnx", carry_state=carry_state)
    theirs = found(events, carry_state=carry_state)
    assert sum(len(window.boxes) for window in theirs) > 3
    for a, b in zip(ours, theirs, strict=True):
        assert (a.end_us, a.n_events, len(a.boxes)) == (b.end_us, b.n_events, len(b.boxes))
        for side in "xywh":
            np.testing.assert_allclose(a.boxes[side], b.boxes[side], rtol=0, atol=1e-3)


def test_rounded_weights_find_nearly_as_much(events):
    ours, theirs = found(events, engine="onnx-int8"), found(events)
    counts = [sum(len(window.boxes) for window in windows) for windows in (ours, theirs)]
    assert abs(counts[0] - counts[1]) <= 0.25 * counts[1]


def test_what_an_engine_cannot_do_is_said():
    with pytest.raises(ValueError, match="asked with count_spikes, expected engine torch"):
        Detector.load(SAMPLE, engine="onnx", count_spikes=True, device="cpu")
    with pytest.raises(ValueError, match="engine is 'tensorrt', expected one of torch, onnx"):
        Detector.load(SAMPLE, engine="tensorrt")
