"""Whatever a user points at is opened, or refused in a sentence."""

import numpy as np
import pytest

from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.opening import find_recordings, open_recording
from gen1.spec import BOX, EVENT

EVENTS = np.array([(10, 1, 2, 0), (4000, 300, 200, 1)], EVENT)


def raw_recording(path):
    """The same two events as EVT 3: time high and low, row, column and polarity."""
    words = []
    for t_us, x, y, p in EVENTS.tolist():
        words += [0x8000 | t_us >> 12, 0x6000 | t_us & 0xFFF, y, 0x2000 | p << 11 | x]
    path.write_bytes(b"% evt 3.0\n% geometry 304x240\n" + np.array(words, "<u2").tobytes())


def test_a_file_is_one_recording_with_the_labels_beside_it(tmp_path):
    write_dat(tmp_path / "a_td.dat", EVENTS, 240, 304)
    write_dat(tmp_path / "other.dat", EVENTS, 240, 304)
    write_boxes(tmp_path / "a_bbox.npy", np.zeros(1, BOX))
    (a,) = find_recordings(tmp_path / "a_td.dat")
    (other,) = find_recordings(tmp_path / "other.dat")
    assert (a.name, a.boxes) == ("a", tmp_path / "a_bbox.npy")
    assert (other.name, other.boxes) == ("other", None)


def test_a_directory_is_all_recordings_in_it(tmp_path):
    raw_recording(tmp_path / "b.raw")
    write_boxes(tmp_path / "b_bbox.npy", np.zeros(1, BOX))
    assert [r.name for r in find_recordings(tmp_path)] == ["b"]
    (tmp_path / "b_bbox.npy").unlink()
    write_dat(tmp_path / "a_td.dat", EVENTS, 240, 304)
    raw_recording(tmp_path / "a.raw")  # what it was made of
    raw_recording(tmp_path / "c.RAW")
    raw_recording(tmp_path / "._b.raw")
    (tmp_path / "._a_td.dat").write_bytes(b"")
    found = [r.dat.name for r in find_recordings(tmp_path)]
    assert found == ["a_td.dat", "b.raw", "c.RAW"]
    (tmp_path / "test").mkdir()
    write_dat(tmp_path / "test" / "a_td.dat", EVENTS, 240, 304)
    found = [(r.split, r.dat.name) for r in find_recordings(tmp_path)]
    assert found == [("test", "a_td.dat"), ("", "a.raw"), ("", "b.raw"), ("", "c.RAW")]


def test_nothing_to_open_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file, expected a recording"):
        find_recordings(tmp_path / "x.dat")
    with pytest.raises(ValueError, match="holds no recordings"):
        find_recordings(tmp_path)


def test_raw_and_dat_recordings_hold_the_same(tmp_path):
    write_dat(tmp_path / "a_td.dat", EVENTS, 240, 304)
    raw_recording(tmp_path / "b.raw")
    for path in (tmp_path / "a_td.dat", tmp_path / "b.raw"):
        with open_recording(path) as reader:
            np.testing.assert_array_equal(reader.read(), EVENTS)
            assert (reader.height, reader.width) == (240, 304)
            temporary = reader.path
    assert not temporary.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a_td.dat", "b.raw"]
