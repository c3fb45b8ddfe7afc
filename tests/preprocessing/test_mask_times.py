"""Samples at the times of class masks, with box files beside them or without."""

import numpy as np
import pytest

from gen1.labels import read_boxes
from gen1.recordings import list_recordings
from preprocessing.__main__ import main
from preprocessing.cache import open_cache, read_header, read_manifest
from preprocessing.dataset import HistogramDataset
from preprocessing.geometry import Geometry
from preprocessing.verify import verify
from tests.preprocessing.conftest import LABELS

TIMES_US = [299_999, 549_999, 799_999]


@pytest.fixture
def masked(tree):
    """A data set of two recordings, the second without boxes, with masks at TIMES_US."""
    data = tree(train=2)
    for name in ("r0", "r1"):
        folder = data / "train" / f"{name}_masks"
        folder.mkdir()
        for t_us in TIMES_US:
            (folder / f"{t_us}.png").touch()  # preprocessing asks for the name alone
    (data / "train" / "r1_bbox.npy").unlink()
    return data


def run(data, cache, *options):
    return main(["--input", str(data), "--output", str(cache), "--time-steps", "2", *options])


def test_the_samples_are_those_of_the_masks(masked, tmp_path, recwarn):
    cache = tmp_path / "cache"
    assert run(masked, cache, "--keep", "masks") == 0
    assert read_manifest(cache, finished=True).settings.keep == "masks"
    with open_cache(cache / "train" / "r0.h5") as file:
        assert file["times_us"][:].tolist() == TIMES_US
        assert len(file["labels"]) == len(LABELS)
        names = [source.name for source in read_header(file).sources]
    assert names == ["r0_td.dat", "r0_masks", "r0_bbox.npy"]
    with open_cache(cache / "train" / "r1.h5") as file:
        assert (len(file["times_us"]), len(file["labels"])) == (3, 0)
    with pytest.warns(UserWarning, match=r"6 of 6 labels have no sample .*keep: masks"):
        dataset = HistogramDataset(cache, "train", Geometry())
    assert [t_us for _, t_us in dataset.label_times] == 2 * TIMES_US
    assert not recwarn.list


def test_without_the_option_masks_change_nothing(masked, tmp_path):
    (masked / "train" / "r1_td.dat").unlink()
    (masked / "train" / "r1_masks").rename(tmp_path / "away")
    assert run(masked, tmp_path / "a") == 0
    first = (tmp_path / "a" / "train" / "r0.h5").read_bytes()
    (masked / "train" / "r0_masks").rename(tmp_path / "away_too")
    assert run(masked, tmp_path / "b") == 0
    assert (tmp_path / "b" / "train" / "r0.h5").read_bytes() == first
    times_us = np.unique(read_boxes(masked / "train" / "r0_bbox.npy")["t"]).tolist()
    with open_cache(tmp_path / "a" / "train" / "r0.h5") as file:
        assert file["times_us"][:].tolist() == times_us


def test_another_time_among_the_masks_makes_the_cache_stale(masked, tmp_path, capsys):
    cache = tmp_path / "cache"
    assert run(masked, cache, "--keep", "masks") == 0
    assert [check.kind for check in verify(cache)] == ["", ""]
    (masked / "train" / "r0_masks" / "899999.png").touch()
    assert [check.kind for check in verify(cache)] == ["stale", ""]
    capsys.readouterr()
    assert run(masked, cache, "--keep", "masks") == 0
    assert "2 recordings (1 already done), 7 windows" in capsys.readouterr().out


def test_who_forgets_the_option_is_told(masked, tmp_path, capsys):
    assert run(masked, tmp_path / "cache") == 1
    error = capsys.readouterr().err
    assert "1 file without labels (r1_td.dat), expected pairs of" in error
    assert "masks are asked for by --keep masks" in error


def test_a_recording_without_masks_is_named(masked, tmp_path, capsys):
    (masked / "train" / "r1_masks").rename(tmp_path / "away")
    assert run(masked, tmp_path / "cache", "--keep", "masks") == 1
    error = capsys.readouterr().err
    assert "r1_td.dat: no masks beside it, expected a folder r1_masks of TIME.png" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "first.png").touch(), "is named 'first', expected a time in us"),
        (lambda folder: (folder / "0299999.png").touch(), "expected one mask"),
        (lambda folder: [p.unlink() for p in folder.iterdir()], "holds no masks, expected files"),
        (
            lambda folder: [p.rename(folder / f"{int(p.stem) + 10**9}.png") for p in pngs(folder)],
            "expected labels of a recording from",
        ),
    ],
)
def test_masks_that_are_none_of_the_recording(masked, tmp_path, capsys, change, message):
    change(masked / "train" / "r0_masks")
    assert run(masked, tmp_path / "cache", "--keep", "masks") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "r0_masks" in error


def pngs(folder):
    return sorted(folder.glob("*.png"))


def test_masks_without_a_recording_are_named(masked):
    (masked / "train" / "r7_masks").mkdir()
    with pytest.raises(ValueError, match=r"1 file without a recording \(r7_masks\)"):
        list_recordings(masked, require_labels=False)
