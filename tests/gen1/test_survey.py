"""`python -m gen1.recordings verify`: totals, and everything suspicious named."""

import numpy as np
import pytest

from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.recordings import main
from gen1.spec import BOX, EVENT, GEN1


def make(
    folder, name, n=100, last_us=59_999_999, first_us=0, height=240, width=304, classes=(0, 1, 1)
):
    folder.mkdir(parents=True, exist_ok=True)
    events = np.zeros(n, EVENT)
    events["t"] = np.linspace(first_us, first_us + last_us, n).astype(np.int64) % 2**32
    write_dat(folder / f"{name}_td.dat", events, height, width)
    boxes = np.zeros(len(classes), BOX)
    boxes["t"], boxes["class_id"], boxes["w"], boxes["h"] = first_us + 250_000, classes, 30, 40
    write_boxes(folder / f"{name}_bbox.npy", boxes)


@pytest.fixture
def complete(tmp_path, monkeypatch):
    """A whole data set, were it published with so few recordings."""
    for split, count in {"train": 2, "val": 1, "test": 1}.items():
        monkeypatch.setitem(GEN1.published, split, count)
        for i in range(count):
            make(tmp_path / "data" / split, f"r{i}")
    return tmp_path / "data"


@pytest.mark.parametrize("options", [[], ["--deep"]])
def test_a_complete_data_set_is_summed_up(complete, tmp_path, capsys, options):
    picture = tmp_path / "picture.png"
    assert main(["verify", str(complete), "--picture", str(picture), *options]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: 2 of 2 recordings",
        "val: 1 of 1 recordings",
        "test: 1 of 1 recordings",
        "0.07 hours, 400 events, 12 boxes (4 car, 8 pedestrian)",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_or_suspicious_is_named(complete, capsys):
    train = complete / "train"
    (train / "r0_bbox.npy").unlink()
    (train / "lone_bbox.npy").write_bytes(b"not an array")
    make(train, "short", last_us=20_000_000)
    make(train, "large", height=480, width=640, classes=(0, 7))
    make(train, "empty", n=0, classes=())
    cut = train / "r1_td.dat"
    cut.write_bytes(cut.read_bytes()[:-3])
    (complete / "val" / "r0_td.dat").write_bytes(b"% Version 2\n")
    assert main(["verify", str(complete)]) == 1
    text = capsys.readouterr().out
    for problem in (
        f"{train}/r0_td.dat: no labels",
        f"{train}/lone_bbox.npy: no recording",
        f"{train}/lone_bbox.npy: is not a readable .npy file",
        f"{train}/short_td.dat: 20.0 s long, expected 60",
        f"{train}/large_td.dat: sensor of 480x640 px",
        f"{train}/large_bbox.npy: row 1: class_id is 7, expected 0 (car) or 1 (pedestrian) "
        "(1 box of unknown classes)",
        f"{train}/empty_td.dat: no events",
        f"{train}/empty_bbox.npy: no boxes",
        f"{cut}: 5 bytes of a truncated last record",
        f"{complete}/val/r0_td.dat: ends inside its header",
        f"{train}: 4 recordings with labels, published are 2",
    ):
        assert problem in text
    assert "empty_td.dat: 0.0 s long" not in text


def test_only_deep_reads_every_event(complete, capsys):
    path = complete / "test" / "r0_td.dat"
    content = bytearray(path.read_bytes())
    content[-16:-12] = (5).to_bytes(4, "little")  # the time of the last event but one
    content[-4:] = (500).to_bytes(4, "little")  # the column of the last
    path.write_bytes(content)
    assert main(["verify", str(complete)]) == 0
    capsys.readouterr()
    assert main(["verify", str(complete), "--deep"]) == 1
    text = capsys.readouterr().out
    assert f"{path}: 1 event at impossible times" in text
    assert f"{path}: 1 event out of frame" in text


def test_a_directory_without_splits_is_refused(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 1
    assert "has no folder train, val, test, expected a data set" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--deep"]])
@pytest.mark.parametrize("first_us", [7, 600_000_000, 2**32 - 30_000_000])
def test_lengths_do_not_depend_on_when_the_clock_started(complete, capsys, first_us, options):
    make(complete / "train", "r0", first_us=first_us)
    assert main(["verify", str(complete), *options]) == 0
    assert "0.07 hours, 400 events" in capsys.readouterr().out


def frozen(n, step_us):
    return {"t": step_us * np.arange(1, n + 1), "x": [50.5] * n}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"w": [0, 30, 30], "h": [40, 0, 40]}, "2 boxes with a side of 0 px"),
        ({"w": [-3, 30, 30]}, "1 box with a negative side"),
        ({"t": [-5, 500_000, 999_999]}, "1 box at a negative time"),
        ({"t": [249, 499, 749]}, "the times look like milliseconds"),
        ({"t": [10**9, 2 * 10**9, 3 * 10**9]}, "all labels lie between 1000000000 and"),
        (frozen(4, 1_000_000), "4 boxes frozen for more than 2 s"),
        (frozen(12, 250_000), "12 boxes frozen for more than 2 s"),
        (frozen(9, 250_000), ""),  # for 2 s exactly
        (frozen(3, 5_000_000), ""),  # elsewhere in between, for all that is known
        ({**frozen(12, 250_000), "x": np.arange(12)}, ""),
        ({"x": [-500, 290, 10]}, ""),  # outside the frame, as in Gen1
    ],
)
def test_what_is_odd_about_labels_is_told(complete, capsys, values, problem):
    boxes = np.zeros(len(next(iter(values.values()))), BOX)
    boxes["t"], boxes["w"], boxes["h"] = 250_000 * np.arange(1, len(boxes) + 1), 30, 40
    for name, column in values.items():
        boxes[name] = column
    path = complete / "val" / "r0_bbox.npy"
    write_boxes(path, boxes, "1mpx")
    assert main(["verify", str(complete)]) == bool(problem)
    told = [line for line in capsys.readouterr().out.splitlines() if str(path) in line]
    assert len(told) == bool(problem)
    assert all(problem in line for line in told)
