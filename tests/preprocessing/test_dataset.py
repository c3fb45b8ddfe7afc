"""Samples and batches equal the cache, and a cache that cannot be trusted is refused."""

import json
import pickle
import shutil
import warnings

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import preprocessing.dataset
from gen1.dat import DatReader
from gen1.labels import read_boxes, write_boxes
from gen1.spec import BOX
from preprocessing.__main__ import main
from preprocessing.augment import AugmentConfig
from preprocessing.dataset import Batch, HistogramDataset, Sample, collate
from preprocessing.geometry import Geometry
from preprocessing.histogram import (
    HistogramSettings,
    event_histogram,
    expand_last_polarity,
    last_polarity,
)

HALF = Geometry(downsample=2)


@pytest.fixture
def cache(tree, tmp_path):
    """Cache of 2 train and 1 val recordings at half resolution, T = 2."""
    return make_cache(tree(train=2, val=1), tmp_path / "cache")


def make_cache(data, path, *options: str):
    sizes = ("--time-steps", "2", "--downsample", "2")
    assert main(["--input", str(data), "--output", str(path), *sizes, *options]) == 0
    return path


def test_samples_are_the_padded_histograms_in_order(cache, tmp_path):
    dataset = HistogramDataset(cache, "train", HALF)
    assert dataset.recordings == ("r0", "r1")
    assert len(dataset) == 8
    times_us = [99_999, 349_999, 599_999, 849_999]
    assert [(dataset[i].recording, dataset[i].t_us) for i in range(8)] == [
        (name, t_us) for name in ("r0", "r1") for t_us in times_us
    ]
    events = DatReader(tmp_path / "data" / "train" / "r1_td.dat").read()
    sample = dataset[5]
    assert sample.frames.shape == (2, 2, 128, 160)
    assert sample.frames.dtype == torch.uint8
    expected = event_histogram(events, 99_999, 250_000, 2, 240, 304, downsample=2)
    np.testing.assert_array_equal(sample.frames[..., :120, :152], expected)
    assert sample.frames.sum() == expected.sum()


def test_targets_are_clipped_in_network_pixels_without_empty_boxes(cache):
    dataset = HistogramDataset(cache, "train", HALF)
    assert dataset[0].targets.tolist() == [[0, 5, 10, 25, 25]]
    assert dataset[1].targets.tolist() == [[0, 6, 10, 26, 25], [1, 0, 50, 15, 80]]
    assert dataset[2].targets.shape == (0, 5)  # one wholly outside, one without area
    assert dataset[3].targets.tolist() == [[1, 140, 100, 152, 120]]
    assert dataset[3].targets.dtype == torch.float32


def test_labels_are_all_boxes_as_stored(cache, tmp_path):
    dataset = HistogramDataset(cache, "val", HALF)
    labels = dataset.labels("r0")
    np.testing.assert_array_equal(labels, read_boxes(tmp_path / "data" / "val" / "r0_bbox.npy"))
    labels["x"] = 0  # a copy: what is scored against cannot be changed by accident
    assert dataset.labels("r0")["x"].any()


def test_keep_filters_the_targets_only(cache):
    dataset = HistogramDataset(cache, "train", HALF, keep=lambda boxes: boxes["class_id"] == 1)
    assert dataset[1].targets.tolist() == [[1, 0, 50, 15, 80]]
    assert len(dataset.labels("r0")) == 6


@pytest.mark.parametrize(
    ("every_ms", "joined"),
    [
        (50, {100_000: 99_999, 350_000: 349_999, 600_000: 599_999, 850_000: 849_999}),
        (100, {100_000: 99_999, 300_000: 349_999, 600_000: 599_999, 800_000: 849_999}),
        (400, {400_000: 349_999, 800_000: 849_999}),  # 599999 lost to a nearer label
        (70, {70_000: 99_999, 350_000: 349_999, 630_000: 599_999, 840_000: 849_999}),
    ],
)
def test_labels_join_the_nearest_sample_within_half_a_stride(tree, tmp_path, every_ms, joined):
    data = tree(train=1)
    cache = make_cache(data, tmp_path / "cache", "--every-ms", str(every_ms))
    labels = read_boxes(data / "train" / "r0_bbox.npy")
    missed = sum(t_us not in joined.values() for t_us in labels["t"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = HistogramDataset(cache, "train", HALF)
    texts = [str(warning.message) for warning in caught]
    told = (
        f"{cache}: split train: {missed} of 6 labels have no sample (samples every {every_ms} ms)"
    )
    assert texts == ([told] if missed else [])
    at_labels = HistogramDataset(make_cache(data, tmp_path / "exact"), "train", HALF)
    expected = {at_labels[i].t_us: at_labels[i].targets for i in range(4)}
    start_us = DatReader(data / "train" / "r0_td.dat").order.first_us
    for index, (_, t_us) in enumerate(dataset.label_times):
        place_us = t_us - start_us
        wanted = expected[joined[place_us]] if place_us in joined else torch.zeros(0, 5)
        assert torch.equal(dataset[index].targets, wanted), t_us


def test_two_label_times_at_one_sample_do_not_double_an_object(tree, tmp_path):
    data = tree(train=1)
    boxes = np.repeat(read_boxes(data / "train" / "r0_bbox.npy")[:1], 3)
    boxes["t"] = [390_000, 399_000, 415_000]
    boxes["w"] = [10, 20, 30]
    write_boxes(data / "train" / "r0_bbox.npy", boxes)
    cache = make_cache(data, tmp_path / "cache", "--every-ms", "200")
    with pytest.warns(UserWarning, match="split train: 2 of 3 labels have no sample"):
        dataset = HistogramDataset(cache, "train", HALF)
    targets = [dataset[i].targets.tolist() for i in range(len(dataset))]
    assert targets[1] == [[0, 5, 10, 15, 25]]
    assert sum(map(len, targets)) == 1


@pytest.mark.parametrize("class_id", [2, 255, 2**32 - 1])
@pytest.mark.parametrize("options", [[], ["--every-ms", "100"], ["--keep", "rvt"]])
def test_an_unknown_class_names_file_and_row(tree, tmp_path, capsys, class_id, options):
    data = tree(train=2)
    boxes = read_boxes(data / "train" / "r1_bbox.npy")
    boxes["class_id"][4] = class_id
    write_boxes(data / "train" / "r1_bbox.npy", boxes, "1mpx")
    assert main(["--input", str(data), "--output", str(tmp_path / "cache"), *options]) == 1
    found = f"train/r1_bbox.npy: row 4: class_id is {class_id}, expected 0 (car) or 1"
    assert found in capsys.readouterr().err


def test_a_class_that_a_network_lacks_names_file_and_row(tree, tmp_path):
    cache = make_cache(tree(train=2), tmp_path / "cache")
    found = r"r0_bbox.npy .*: row 2: class_id is 1, expected 0 \(car\)"
    refused(cache, found, num_classes=1)


def test_collate_stacks_frames_and_numbers_targets():
    frames = [torch.full((2, 2, 4, 5), i, dtype=torch.uint8) for i in range(3)]
    targets = [torch.ones(1, 5), torch.zeros(0, 5), torch.full((2, 5), 3.0)]
    batch = collate([Sample(frames[i], targets[i], f"r{i}", i) for i in range(3)])
    assert batch.frames.shape == (2, 3, 2, 4, 5)
    assert batch.frames[0, :, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.targets.tolist() == [[0] + [1] * 5, [2] + [3] * 5, [2] + [3] * 5]
    assert batch.recordings == ("r0", "r1", "r2")
    assert batch.times_us.tolist() == [0, 1, 2]
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.frames.device.type == moved.targets.device.type == "meta"


def loaded(dataset, workers: int) -> list[Batch]:
    return list(DataLoader(dataset, 3, num_workers=workers, collate_fn=collate))


def test_augmentation_depends_on_seed_and_epoch_not_on_workers(cache):
    config = AugmentConfig(event_drop=0.2)
    dataset = HistogramDataset(cache, "train", HALF, config, seed=1)
    here, there = loaded(dataset, 0), loaded(dataset, 2)
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.targets, b.targets)
    dataset.set_epoch(1)
    assert not torch.equal(loaded(dataset, 0)[0].frames, here[0].frames)
    dataset.set_epoch(0)
    assert torch.equal(loaded(dataset, 0)[0].frames, here[0].frames)
    other = HistogramDataset(cache, "train", HALF, config, seed=2)
    assert not torch.equal(other[0].frames, dataset[0].frames)


def test_running_workers_see_the_new_epoch(cache):
    dataset = HistogramDataset(cache, "train", HALF, AugmentConfig())
    loader = DataLoader(dataset, 8, num_workers=1, collate_fn=collate, persistent_workers=True)
    (first,) = list(loader)
    dataset.set_epoch(1)
    (second,) = list(loader)
    assert not torch.equal(first.frames, second.frames)
    assert torch.equal(second.frames, collate([dataset[i] for i in range(8)]).frames)


def test_in_memory_and_pickled_datasets_give_the_same_samples(cache):
    lazy = HistogramDataset(cache, "train", HALF)
    lazy[0]  # opens a file, which must not be pickled
    for other in (
        HistogramDataset(cache, "train", HALF, in_memory=True),
        pickle.loads(pickle.dumps(lazy)),
    ):
        for i in range(len(lazy)):
            assert torch.equal(other[i].frames, lazy[i].frames)
            assert torch.equal(other[i].targets, lazy[i].targets)


def test_last_polarity_expands_to_three_channels_padded_with_background(tree, tmp_path):
    data = tree(train=1)
    cache = make_cache(data, tmp_path / "cache", "--representation", "last-polarity")
    dataset = HistogramDataset(cache, "train", HALF, input="ternary")
    events = DatReader(data / "train" / "r0_td.dat").read()
    expected = last_polarity(events, 349_999, 250_000, 2, 240, 304, downsample=2)
    frames = dataset[2].frames
    assert frames.shape == (2, 3, 128, 160)
    np.testing.assert_array_equal(frames[..., :120, :152], expand_last_polarity(expected))
    assert (frames[..., 120:, :] == 127).all()
    assert (frames[..., 152:] == 127).all()


def test_a_recording_without_boxes_has_no_samples(tree, tmp_path):
    data = tree(train=2)
    write_boxes(data / "train" / "r0_bbox.npy", np.zeros(0, BOX))
    dataset = HistogramDataset(make_cache(data, tmp_path / "cache"), "train", HALF, in_memory=True)
    assert dataset.recordings == ("r0", "r1")
    assert [dataset[i].recording for i in range(len(dataset))] == ["r1"] * 4
    assert len(dataset.labels("r0")) == 0


def test_reading_leaves_the_files_as_they_are(cache):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in cache.rglob("*.h5")}
    loaded(HistogramDataset(cache, "train", HALF), 2)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in cache.rglob("*.h5")}
    assert after == before


def test_open_files_are_limited(cache, monkeypatch):
    monkeypatch.setattr(preprocessing.dataset, "OPEN_FILES", 1)
    dataset = HistogramDataset(cache, "train", HALF)
    before = h5py.h5f.get_obj_count(types=h5py.h5f.OBJ_FILE)
    for index in (0, 4, 1, 5):  # of two recordings in turn
        assert dataset[index].frames.any()
        assert h5py.h5f.get_obj_count(types=h5py.h5f.OBJ_FILE) == before + 1


@pytest.mark.parametrize(
    ("options", "asked", "sentence"),
    [
        ([], {"keep": "prophesee"}, "cache made with keep everything, expected prophesee"),
        (["--keep", "rvt"], {}, "cache made with keep rvt, expected everything"),
    ],
)
def test_an_empty_setting_is_put_in_words(tree, tmp_path, options, asked, sentence):
    cache = make_cache(tree(train=1), tmp_path / "cache", *options)
    refused(cache, sentence, settings=HistogramSettings(time_steps=2, downsample=2, **asked))


def refused(cache, sentence: str, **options) -> None:
    def read_all(dataset):
        return [dataset[i] for i in range(len(dataset))]

    geometry = options.pop("geometry", HALF)
    with pytest.raises(ValueError, match=sentence) as error:
        read_all(HistogramDataset(cache, "train", geometry, **options))
    assert "\n" not in str(error.value)


def test_a_cache_of_other_settings_is_refused(cache, tmp_path):
    asked = HistogramSettings(time_steps=4, downsample=2)
    refused(cache, "cache: cache made with time_steps 2, expected 4", settings=asked)
    refused(cache, "downsample 2, expected sensor 240x304 px with downs", geometry=Geometry())
    refused(cache, "representation count, expected last-polarity", input="ternary")
    other = make_cache(tmp_path / "data", tmp_path / "other", "--window-ms", "100")
    shutil.copy(other / "train" / "r1.h5", cache / "train" / "r1.h5")
    refused(cache, "r1.h5: window_us 100000, expected 250000")


def test_an_unfinished_or_missing_cache_is_refused(cache, tmp_path):
    refused(tmp_path / "absent", "manifest.json: there is no such file, expected the directory")
    with pytest.raises(ValueError, match=r"no recordings of split 'test', expected one of"):
        HistogramDataset(cache, "test", HALF)
    (cache / "train" / "r0.h5").unlink()
    refused(cache, "r0.h5: there is no such file")
    manifest = json.loads((cache / "manifest.json").read_text())
    (cache / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    refused(cache, "has not finished")
    (cache / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    refused(cache, "schema 99, expected 2")


def test_foreign_and_damaged_files_are_refused(cache):
    path = cache / "train" / "r0.h5"
    good = path.read_bytes()
    with h5py.File(path) as file:
        chunk = file["frames"].id.get_chunk_info(2)

    def put(content: bytes) -> None:
        path.unlink()  # a new file: HDF5 still holds the old one open
        path.write_bytes(content)

    put(good[: len(good) // 2])
    refused(cache, "r0.h5: not readable HDF5 .*expected a file written by")
    put(b"not HDF5 at all")
    refused(cache, "r0.h5: not readable HDF5")
    flipped = bytearray(good)
    flipped[chunk.byte_offset + chunk.size // 2] ^= 1
    put(bytes(flipped))
    refused(cache, "r0.h5: sample 2 is damaged")
    refused(cache, "r0.h5: sample 2 is damaged", in_memory=True)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros(3)
    refused(cache, "r0.h5: an HDF5 file of another kind, expected a file written by")
    put(good)
    with h5py.File(path, "a") as file:
        file.attrs["settings"] = "{}}"
    refused(cache, "r0.h5: attributes that cannot be understood")
