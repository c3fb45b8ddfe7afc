"""The mAP of what moves and of what stands: which labels count, and that the others do no harm."""

from functools import partial

import numpy as np
import pytest

from evaluation.metrics import score
from evaluation.stationary import stationary_rows, stationary_scores
from gen1.coco import NothingToScore, evaluate
from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.protocol import PROTOCOLS
from gen1.spec import BOX, EVENT
from gen1.still import still_path, write_still
from preprocessing.__main__ import main
from preprocessing.cache import open_cache, read_header
from preprocessing.dataset import HistogramDataset
from preprocessing.geometry import Geometry

TIMES_US = np.repeat([999_999, 1_249_999, 1_499_999], 2)
STILL_US = np.array([0, 400_000, 100_000, 600_000, 0, 2_500_000])


def labels():
    """At each of three times a car at the left and one at the right."""
    boxes = np.zeros(6, BOX)
    boxes["t"], boxes["x"], boxes["y"] = TIMES_US, np.tile([20, 180], 3), 60
    boxes["w"], boxes["h"], boxes["class_confidence"] = 80, 50, 0.9
    return boxes


@pytest.fixture
def build(tmp_path):
    """build(still_us) -> the val split of a cache of one recording of 2 s."""

    def build(still_us):
        events = np.zeros(2000, EVENT)
        events["t"] = np.linspace(0, 1_999_999, len(events))
        folder = tmp_path / "data" / "val"
        folder.mkdir(parents=True)
        write_dat(folder / "r_td.dat", events, 240, 304)
        write_boxes(folder / "r_bbox.npy", labels(), "1mpx")
        if still_us is not None:
            write_still(folder / "r_bbox.npy", still_us)
        words = ["--time-steps=1", "--downsample=4", f"--input={tmp_path / 'data'}"]
        code = main([*words, f"--output={tmp_path / 'cache'}"])
        return HistogramDataset(tmp_path / "cache", "val", Geometry(240, 304, 4)) if not code else 1

    return build


def stationary(dataset, found):
    return stationary_scores(dataset, partial(score, dataset, {"r": found}), ["all-boxes"])


def test_times_come_through_the_cache_and_split_the_score(build, tmp_path):
    dataset = build(STILL_US)
    np.testing.assert_array_equal(dataset.still_us("r"), STILL_US)
    found = labels()
    scores = stationary(dataset, found)
    assert {name: s["all-boxes"]["labels"] for name, s in scores.items()} == {
        "moving": 4,
        "still > 0.5 s": 2,
        "still > 2 s": 1,
    }
    assert all(s["all-boxes"]["map_50_95"] == pytest.approx(1) for s in scores.values())
    missed = stationary(dataset, found[STILL_US <= 500_000])
    assert missed["moving"]["all-boxes"]["map_50_95"] == pytest.approx(1)
    assert missed["still > 0.5 s"]["all-boxes"]["map_50_95"] == 0
    rows = stationary_rows(missed)
    assert rows[0] == ("moving", "1.000")
    assert rows[1] == ("  labels", "4")
    assert rows[2] == ("still > 0.5 s", "0.000")
    with open_cache(tmp_path / "cache" / "val" / "r.h5") as file:
        names = [source.name for source in read_header(file).sources]
    assert names == ["r_td.dat", "r_still_us.npy", "r_bbox.npy"]


def test_labels_that_do_not_say_it_are_scored_as_ever(build):
    dataset = build(None)
    assert dataset.still_us("r") is None
    assert stationary(dataset, labels()) == {}
    assert stationary_rows({}) == []


def test_a_subset_without_labels_has_no_figure(build):
    scores = stationary(build(np.zeros(6, int)), labels())
    assert scores["still > 2 s"]["all-boxes"] == {
        "labels": 0,
        "map_50_95": -1.0,
        "map_50": -1.0,
        "per_class": {},
    }
    assert stationary_rows(scores)[2:4] == [("still > 0.5 s", "-"), ("  labels", "0")]


def test_times_that_do_not_fit_the_labels_are_refused(build, capsys, tmp_path):
    assert build(np.zeros(5, int)) == 1
    output = "".join(capsys.readouterr())
    assert "r_still_us.npy: holds [5] of int64, expected 6 times in us" in output
    assert still_path(tmp_path / "data" / "val" / "r_bbox.npy").exists()


def test_an_ignored_label_is_no_miss_and_what_finds_it_is_not_false():
    rule, boxes = PROTOCOLS["all-boxes"], labels()
    counts = STILL_US > 500_000
    false = boxes[:1].copy()
    false["x"], false["y"], false["class_confidence"] = 100, 150, 0.95
    whole = evaluate([boxes], [boxes], rule, counts=[counts])
    assert whole.map_50_95 == pytest.approx(1)
    assert whole.n_labels == 2
    lone = evaluate([boxes], [boxes[counts]], rule, counts=[counts])
    assert lone.map_50_95 == pytest.approx(1)
    false["t"] = TIMES_US[3]
    harmed = evaluate([boxes], [np.concatenate([boxes, false])], rule, counts=[counts])
    assert harmed.map_50_95 < 0.9
    everything = evaluate([boxes], [boxes], rule, counts=[np.ones(6, bool)])
    np.testing.assert_array_equal(everything.stats, evaluate([boxes], [boxes], rule).stats)
    with pytest.raises(NothingToScore, match="no label that counts is among the chosen"):
        evaluate([boxes], [boxes], rule, counts=[np.zeros(6, bool)])
