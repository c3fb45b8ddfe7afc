"""DSEC-Semantic and DDD17-Seg, written here in their layouts, -> recordings with masks."""

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from gen1.masks import mask_files
from gen1.recordings import list_recordings, open_recording
from preprocessing.__main__ import main as preprocess
from preprocessing.geometry import Geometry
from segmentation.convert import main
from segmentation.dataset import MaskDataset
from segmentation.layouts import DSEC_SPLITS
from segmentation.spec import IGNORED, find_mask_spec

OFFSET_US = (7 << 32) + 500_000_000  # beyond the clock of a .dat
LABELS = 10


def save(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def dsec_sequence(folder, official=True, shift=0):
    """Events in column 100 and row 200 and 10 masks at 20 Hz; rectify moves by `shift` columns."""
    n = 6000
    events = folder / "events" / "left"
    events.mkdir(parents=True)
    with h5py.File(events / "events.h5", "w") as file:
        file["t_offset"] = OFFSET_US
        file["ms_to_idx"] = np.zeros(10, np.uint64)
        file["events/t"] = np.linspace(0, 600_000, n).astype(np.uint32)
        file["events/x"] = np.full(n, 100, np.uint16)
        file["events/y"] = np.where(np.arange(n) % 2, 470, 200).astype(np.uint16)
        file["events/p"] = np.ones(n, np.uint8)
    y, x = np.indices((480, 640)).astype(np.float32)
    with h5py.File(events / "rectify_map.h5", "w") as file:
        file["rectify_map"] = np.stack([x + shift, y], axis=-1)
    semantic = folder if official else folder / "semantic" / "left"
    labels = semantic / "11classes" if official else semantic / "11classes" / "data"
    for k in range(LABELS):
        mask = np.full((440, 640), k, np.uint8)
        mask[0] = 255
        save(labels / f"{k:06d}.png", mask)
    name = f"{folder.name}_semantic_timestamps.txt" if official else "timestamps.txt"
    times = "\n".join(str(OFFSET_US + 50_000 * (k + 1)) for k in range(LABELS))
    (semantic.parent if not official else semantic).joinpath(name).write_text(times + "\n")


@pytest.fixture
def dsec(tmp_path):
    source = tmp_path / "dsec"
    dsec_sequence(source / "zurich_city_00_a", shift=3)
    dsec_sequence(source / "zurich_city_14_c", official=False, shift=-101)
    return source


def test_dsec_becomes_recordings_with_masks(dsec, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["dsec", str(dsec), str(out)]) == 0
    told = capsys.readouterr().out
    assert "zurich_city_00_a_td.dat: 6000 events, 2 masks; background 0.0%" in told
    assert "next: python -m preprocessing --input" in told
    files = mask_files(out / "train" / "zurich_city_00_a_masks")
    assert [*files] == [500_000_000 + 50_000 * k for k in (7, 9)]  # six dropped, every second
    mask = np.asarray(Image.open(files[500_350_000]))
    assert mask.shape == (480, 640)
    assert (mask[0] == IGNORED).all()
    assert (mask[1:440] == 6).all()
    assert (mask[440:] == IGNORED).all()
    with open_recording(out / "train" / "zurich_city_00_a_td.dat") as reader:
        events = reader.read()
        assert (reader.height, reader.width) == (480, 640)
    assert (events["x"] == 103).all()
    assert (events["t"][0], events["t"][-1]) == (500_000_000, 500_600_000)
    with open_recording(out / "test" / "zurich_city_14_c_td.dat") as reader:
        assert reader.n_events == 0  # all of them left of the undistorted frame
    assert find_mask_spec(out) == find_mask_spec("dsec-11")
    assert yaml.safe_load((out / "dataset.yaml").read_text())["width"] == 640


def test_a_converted_set_is_preprocessed_and_read(dsec, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    assert main(["dsec", str(dsec), str(out), "--rectify", "false", "--skip", "1"]) == 0
    assert [r.boxes for r in list_recordings(out, require_labels=False)] == [None, None]
    command = ["--input", str(out), "--output", str(cache), "--keep", "masks", "--time-steps", "1"]
    command += ["--dataset", str(out / "dataset.yaml"), "--window-ms", "50", "--downsample", "4"]
    assert preprocess(command) == 0
    dataset = MaskDataset(cache, out, "train", Geometry(480, 640, 4))
    assert len(dataset) == 5
    sample = dataset[2]  # mask 5: 300 ms after the start
    assert sample.mask.shape == (128, 160)
    assert (sample.mask[1:110] == 5).all()
    assert (sample.mask[110:] == IGNORED).all()
    assert int(sample.frames[0, 1, 50, 25]) == 250  # 500 events in 50 ms, every second in row 200


def test_events_where_the_masks_end_stay(dsec, tmp_path):
    assert main(["dsec", str(dsec), str(tmp_path / "out"), "--rectify", "false"]) == 0
    with open_recording(tmp_path / "out" / "test" / "zurich_city_14_c_td.dat") as reader:
        assert set(reader.read()["y"].tolist()) == {200, 470}


def test_masks_of_another_conversion_are_not_mixed_in(dsec, tmp_path, capsys):
    words = ["dsec", str(dsec), str(tmp_path / "out")]
    assert main([*words, "--every", "1"]) == 0
    assert main([*words, "--every", "1"]) == 0
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "zurich_city_00_a_masks: holds 2 masks of another conversion (500400000.png)" in error


def test_the_published_splits():
    assert [len(names) for names in DSEC_SPLITS.values()] == [8, 3]
    assert "zurich_city_14_c" in DSEC_SPLITS["test"]


def ddd17_folder(folder, number):
    """100,000 events a second for 0.3 s; masks 1, 3 and 5 at 50, 150 and 250 ms, class 2."""
    folder.mkdir(parents=True)
    start_ns = 1_487_000_000_000_000_000 + number
    t_ns = start_ns + np.arange(0, 300_000_000, 10_000)
    xyp = np.stack([np.full(len(t_ns), 7), np.arange(len(t_ns)) % 260, np.arange(len(t_ns)) % 2], 1)
    t_ns.astype("<i8").tofile(folder / "events.dat.t")
    xyp.astype("<i2").tofile(folder / "events.dat.xyp")
    (folder / "index").mkdir()
    pictures_ns = start_ns + 50_000_000 * np.arange(1, 6)
    places = np.searchsorted(t_ns, pictures_ns)
    np.save(folder / "index" / "index_50ms.npy", np.stack([pictures_ns, places, places - 5000], 1))
    for k in (1, 3, 5):
        mask = np.full((200, 346), 2, np.uint8)
        mask[:, :3] = 255
        save(folder / "segmentation_masks" / f"img_{k:08d}.png", mask)


@pytest.fixture
def ddd17(tmp_path):
    for k in (0, 1, 3, 4, 5, 6, 7):
        ddd17_folder(tmp_path / "ddd17" / "data" / f"dir{k}", k)
    return tmp_path / "ddd17"


def test_ddd17_becomes_recordings_with_masks(ddd17, tmp_path):
    out = tmp_path / "out"
    assert main(["ddd17", str(ddd17), str(out)]) == 0
    found = {(r.split, r.name) for r in list_recordings(out, require_labels=False)}
    assert {name for split, name in found if split == "train"} == {
        *("dir0", "dir3", "dir4", "dir6", "dir7")
    }
    assert ("val", "dir1") in found
    assert ("test", "dir5") in found
    files = mask_files(out / "val" / "dir1_masks")
    with open_recording(out / "val" / "dir1_td.dat") as reader:
        events = reader.read()
    first_us = int(events["t"][0])
    assert [t_us - first_us for t_us in files] == [
        50_001,
        150_001,
        250_001,
    ]  # 1 ns late: rounded up
    assert len(events) == 30_000
    assert (events["x"] == 7).all()
    assert events["y"].max() == 259
    assert set(events["p"].tolist()) == {0, 1}
    mask = np.asarray(Image.open(next(iter(files.values()))))
    assert mask.shape == (260, 346)
    assert (mask[:200, 3:] == 2).all()
    assert (mask[200:] == IGNORED).all()
    assert (mask[:, :3] == IGNORED).all()
    assert find_mask_spec(out) == find_mask_spec("ddd17")


def test_ddd17_in_folders_of_splits(tmp_path):
    ddd17_folder(tmp_path / "in" / "test" / "dir9", 0)
    assert main(["ddd17", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert [*mask_files(tmp_path / "out" / "test" / "dir9_masks")]


def test_a_window_ends_with_the_events_before_the_picture(ddd17, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    assert main(["ddd17", str(ddd17), str(out)]) == 0
    command = ["--input", str(out), "--output", str(cache), "--keep", "masks", "--time-steps", "1"]
    command += ["--dataset", str(out / "dataset.yaml"), "--window-ms", "50"]
    assert preprocess(command) == 0
    dataset = MaskDataset(cache, out, "train", Geometry(260, 346))
    assert dataset[1].mask.shape == (288, 352)
    assert int(dataset[1].frames.sum()) == 5000


def cut(path, rows):
    Image.fromarray(np.asarray(Image.open(path))[:rows]).save(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: cut(s / "zurich_city_00_a/11classes/000006.png", 400),
            "000006.png: is a mask of 400x640 px, expected 440x640",
        ),
        (
            lambda s: save(
                s / "zurich_city_00_a/11classes/000006.png", np.full((440, 640), 11, np.uint8)
            ),
            "000006.png: 100.0% of its pixels are 11, expected the 11 classes 0-10 of dsec-11",
        ),
        (
            lambda s: (s / "zurich_city_00_a/11classes/000003.png").unlink(),
            "10 times for 9 masks in",
        ),
        (
            lambda s: (s / "zurich_city_00_a/zurich_city_00_a_semantic_timestamps.txt").unlink(),
            "has no *timestamps.txt, expected the times of its masks",
        ),
        (
            lambda s: (s / "zurich_city_00_a/events/left/rectify_map.h5").unlink(),
            "expected it beside the events, or --rectify false",
        ),
        (
            lambda s: (s / "zurich_city_00_a/events/left/events.h5").unlink(),
            "events.h5: no such file, expected the events of the masks",
        ),
        (
            lambda s: (s / "zurich_city_00_a").rename(s / "zurich_city_99_a"),
            "zurich_city_99_a is in no split, expected the published ones",
        ),
    ],
)
def test_what_is_wrong_with_dsec_is_one_sentence(dsec, tmp_path, capsys, change, message):
    change(dsec)
    assert main(["dsec", str(dsec), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: save(f / "segmentation_masks/img_00000006.png", np.zeros((200, 346), "u1")),
            "img_00000006.png: is of no picture of its recording, expected a number from 1 to 5",
        ),
        (
            lambda f: save(f / "segmentation_masks/x_3.png", np.zeros((200, 346), "u1")),
            "x_3.png: is of the time of img_00000003.png, expected one mask",
        ),
        (lambda f: (f / "index/index_50ms.npy").unlink(), "no such file, expected the times of th"),
        (lambda f: (f / "index/index_50ms.npy").write_bytes(b"x"), "is no table of times"),
        (lambda f: (f / "events.dat.xyp").write_bytes(b"123"), "expected 6 for every 8"),
        (lambda f: (f / "events.dat.xyp").unlink(), "expected the places of events.dat.t"),
        (lambda f: (f / "events.dat.t").unlink(), "6 folders with events.dat.t, expected the 7"),
    ],
)
def test_what_is_wrong_with_ddd17_is_one_sentence(ddd17, tmp_path, capsys, change, message):
    change(ddd17 / "data" / "dir0")
    assert main(["ddd17", str(ddd17), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_sets_that_are_none(tmp_path, capsys):
    assert main(["dsec", str(tmp_path / "no"), str(tmp_path / "out")]) == 1
    assert "no: no such folder, expected sequences of dsec" in capsys.readouterr().err
    assert main(["dsec", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "holds none of DSEC-Semantic" in capsys.readouterr().err
    assert main(["dsec", str(tmp_path), str(tmp_path / "out"), "--classes", "12"]) == 1
    assert "classes 12, skip 6 and every 2 were given" in capsys.readouterr().err
