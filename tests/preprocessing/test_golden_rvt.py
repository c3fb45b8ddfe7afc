"""A set that RVT's own scripts preprocessed, as a cache of ours."""

import shutil

import h5py
import numpy as np
import pytest

from evaluation.metrics import left_out
from gen1.spec import EVENT
from preprocessing.__main__ import main
from preprocessing.cache import read_manifest
from preprocessing.dataset import HistogramDataset
from preprocessing.geometry import Geometry
from preprocessing.histogram import event_histogram
from preprocessing.rvt import FOLDER, FRAME_US, LABELS, list_sequences
from streaming.detector import Detector
from tests.conftest import GOLDEN

SETS = sorted(path.parent for path in (GOLDEN / "formats" / "rvt").glob("*/out"))


@pytest.fixture(params=SETS, ids=lambda path: path.name)
def rvt(request):
    return request.param


@pytest.fixture
def imported(rvt, tmp_path):
    assert main(["rvt", str(rvt / "out"), str(tmp_path / "cache")]) == 0
    return tmp_path / "cache"


def splits_of(cache):
    manifest = read_manifest(cache, finished=True)
    size = manifest.settings
    for split in manifest.recordings:
        yield HistogramDataset(cache, split, Geometry(size.height, size.width, size.downsample))


def test_golden_labels_are_those_of_rvts_own_loader(rvt, imported):
    loaded, compared = np.load(rvt / "loader_labels.npz"), 0
    for dataset in splits_of(imported):
        split, size = dataset.name.split()[-1], dataset.settings
        height, width = size.frame_shape[2:]
        limits = np.array([width, height] * 2) - 1
        for name in dataset.recordings:
            boxes = loaded[f"{split}/{name}/labels"]
            assert dataset.times_us(name).tolist() == sorted({*boxes[:, 0].tolist()})
            x, y, w, h = boxes[:, 1:5].T
            theirs = np.stack([boxes[:, 5], x, y, x + w, y + h], 1)
            samples = [i for i, (n, _) in enumerate(dataset.label_times) if n == name]
            ours = np.concatenate([dataset[i].targets.numpy() for i in samples])
            ours[:, 1:] = np.minimum(ours[:, 1:], limits)
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
            compared += len(ours)
    assert compared


def test_golden_frames_hold_the_events_of_50_ms(rvt, imported):
    compared = 0
    for dataset in splits_of(imported):
        split, size = dataset.name.split()[-1], dataset.settings
        for index, (name, t_us) in enumerate(dataset.label_times):
            (path,) = (rvt / "in" / split).glob(f"{name}_td.*")
            with h5py.File(path) as file:
                columns = {key: file["events"][key][:] for key in "txyp"}
            events = np.zeros(len(columns["t"]), EVENT)
            for key, column in columns.items():
                events[key] = np.maximum(column, 0) if key == "p" else column
            events["t"] = np.maximum.accumulate(events["t"])
            window = t_us - FRAME_US, FRAME_US + 1  # closed at both ends
            truth = event_histogram(events, *window, 1, size.height, size.width)
            if size.downsample == 2:
                truth = truth[..., 1::2, 1::2]
            frames = dataset.histogram(index)
            assert (frames == truth)[truth <= 10].all()
            assert (frames <= truth).all()
            compared += int(frames.sum())
    assert compared


def test_golden_several_steps_are_frames_that_touch(rvt, tmp_path, capsys):
    code = main(["rvt", str(rvt / "out"), str(tmp_path / "cache"), "--time-steps", "3"])
    apart_us = [
        np.diff(np.load(found.dat.parent / "timestamps_us.npy"))
        for found in list_sequences(rvt / "out")
    ]
    if max(gap.max() for gap in apart_us) > FRAME_US + 200:
        assert code == 1
        found = "ms apart, expected 50 ms for more than one time step: use --time-steps 1"
        assert found in capsys.readouterr().err
        return
    assert code == 0
    for dataset in splits_of(tmp_path / "cache"):
        for index, (name, t_us) in enumerate(dataset.label_times):
            (found,) = (
                f
                for f in list_sequences(rvt / "out")
                if f.name == name and f.split in dataset.name.split()
            )
            ends_us = np.load(found.dat.parent / "timestamps_us.npy")
            last = int(np.flatnonzero(ends_us == t_us)[0])
            with h5py.File(found.dat) as file:
                data = file["data"][: last + 1].reshape(last + 1, 2, 10, *file["data"].shape[2:])
            steps = data[-3:].sum(2)
            frames = dataset.histogram(index)
            assert np.array_equal(frames[3 - len(steps) :], steps)
            assert not frames[: 3 - len(steps)].any()


def test_golden_its_name_keeps_it_from_being_compared_with_ours(rvt, imported):
    manifest = read_manifest(imported)
    assert manifest.settings.representation == "rvt"
    assert manifest.dataset.name == {"gen1": "gen1", "gen4": "1mpx"}[rvt.name]
    for dataset in splits_of(imported):
        assert "have no sample" not in str(left_out(dataset))


@pytest.fixture
def copied(tmp_path):
    """One of the sets, to be damaged."""
    if not SETS:
        pytest.skip("no such figures")
    return shutil.copytree(SETS[0] / "out", tmp_path / "copied")


def refused(capsys, source, tmp_path):
    assert main(["rvt", str(source), str(tmp_path / "cache")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def change_frames(folder):
    with h5py.File(next((folder / FOLDER).glob("*.h5")), "r+") as file:
        stored = file["data"][:, :10]
        del file["data"]
        file["data"] = stored


def change_times(folder):
    path = folder / "labels_v2/timestamps_us.npy"
    np.save(path, np.load(path) + 1)


def name_no_frame(folder):
    path = folder / FOLDER / "objframe_idx_2_repr_idx.npy"
    np.save(path, np.load(path) + 1000)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / LABELS).unlink(), "is no sequence of RVT's, expected"),
        (lambda folder: (folder / LABELS).write_bytes(b"PK"), "cannot be read"),
        (lambda folder: next((folder / FOLDER).glob("*.h5")).write_bytes(b"x"), "cannot be read"),
        (change_frames, "expected uint8"),
        (change_times, "label times differ from those of their frames"),
        (name_no_frame, "expected frames that are there"),
    ],
)
def test_damage_is_one_sentence(copied, tmp_path, capsys, change, sentence):
    found = list_sequences(copied)[0]
    change(copied / found.split / found.name)
    assert sentence in refused(capsys, copied, tmp_path)


def test_another_tree_is_refused(tmp_path, capsys):
    assert "holds no sequences of RVT's" in refused(capsys, tmp_path / "nothing", tmp_path)


def test_events_do_not_become_rvts_frames(imported, tmp_path, capsys):
    settings = read_manifest(imported).settings
    with pytest.raises(ValueError, match="RVT's frames, which cannot be made of events here"):
        Detector(None, settings)
    words = ["--input", str(tmp_path), "--output", str(tmp_path / "x"), "--representation", "rvt"]
    assert main(words) == 1
    assert "representation is rvt, expected count or last-polarity" in capsys.readouterr().err
