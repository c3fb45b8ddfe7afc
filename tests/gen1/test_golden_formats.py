"""One recording in every layout that people have: all readers give the same events."""

import hashlib
import shutil

import h5py
import numpy as np
import pytest

from gen1 import ecf
from gen1.convert import convert
from gen1.dat import DatReader
from gen1.opening import name_of, open_recording
from gen1.recordings import list_recordings
from gen1.spec import EVENT
from tests.conftest import GOLDEN, golden_json

FORMATS = GOLDEN / "formats"
LAYOUTS = golden_json("formats/same/formats.json")
EDGE = golden_json("formats/edge/edge.json")
INPUTS = golden_json("formats/rvt/expected.json")
needs_same = pytest.mark.skipif(not LAYOUTS, reason="no such figures")
needs_edge = pytest.mark.skipif(not EDGE, reason="no such figures")


def events_of(path, **size):
    with open_recording(path, **size) as reader:
        if not reader.n_events:
            return np.zeros(0, EVENT)
        events = reader.window(reader.order.first_us, reader.order.last_us + 1)
        edges_us = np.array([reader.order.first_us, reader.order.last_us + 1])
        assert len(reader.binned(edges_us)[0]) == len(events)
        return events


def check(events, expected):
    assert len(events) == len(expected)
    for name in "txyp":
        np.testing.assert_array_equal(events[name], expected[name], err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_golden_events_are_the_same_in_every_layout(layout):
    path = FORMATS / "same" / LAYOUTS[layout]["events"]
    if path.is_dir():  # PEDRo's samples follow one another, DSEC's file lies below
        files = sorted(path.glob("*.npy")) or [path / "events/left/events.h5"]
        events = np.concatenate([events_of(file) for file in files])
    else:
        events = events_of(path)
    events["t"] -= LAYOUTS[layout]["subtract_us"]
    check(events, np.load(FORMATS / "same/expected.npz")["events"])


@pytest.mark.parametrize("name", INPUTS)
def test_golden_rvts_recordings_are_read_as_rvt_reads_them(name, capsys):
    expected = INPUTS[name]
    events = events_of(FORMATS / "rvt" / name)
    assert len(events) == expected["events"]
    assert (events["t"][0], events["t"][-1]) == (expected["first_us"], expected["last_us"])
    assert events["p"].sum() == expected["on_events"]
    parts = zip("txyp", ("<i8", "<u2", "<u2", "u1"), strict=True)
    content = b"".join(np.ascontiguousarray(events[key], kind).tobytes() for key, kind in parts)
    assert hashlib.sha256(content).hexdigest() == expected["sha256_of_t_i8_x_u2_y_u2_p_u1"]
    noted = f"{expected['repaired_events']} events stepped back in time"
    assert (noted in capsys.readouterr().err) == bool(expected["repaired_events"])


@needs_same
def test_golden_all_three_ways_of_ecf_are_decoded():
    modes = np.load(FORMATS / "same/expected.npz")["ecf_modes"]
    check(events_of(FORMATS / "same/metavision_ecf/modes.hdf5"), modes)
    with h5py.File(FORMATS / "same/metavision_ecf/modes.hdf5") as file:
        _, chunk = file["CD/events"].id.read_direct_chunk((0,))
    whole = ecf.decode_chunk(chunk)
    for length in range(0, len(chunk), max(len(chunk) // 50, 1)):
        with pytest.raises(ValueError, match="a chunk "):
            ecf.decode_chunk(chunk[:length])
    assert len(whole) > 0


def edge(name):
    return FORMATS / "edge" / next(file for file in EDGE if name in file)


def before():
    """The events before anything was made odd."""
    columns = np.load(FORMATS / "edge/expected.npz")
    events = np.zeros(len(columns["t"]), EVENT)
    for name in "txyp":
        events[name] = columns[name]
    return events


@needs_edge
def test_golden_strays_are_left_out_and_counted(capsys):
    events = events_of(edge("y33014"))
    truth = before()
    check(events, np.delete(truth, 17))
    assert "1 event beyond 720x1280 px, left out" in capsys.readouterr().err


@needs_edge
def test_golden_steps_back_get_the_latest_time_before(capsys):
    events = events_of(edge("step_back"))
    truth = before()
    expected = truth.copy()
    expected["t"][30:34] = truth["t"][29]
    expected["t"] = np.maximum.accumulate(expected["t"])
    check(events, expected)
    assert "4 events stepped back in time" in capsys.readouterr().err


@needs_edge
@pytest.mark.parametrize("name", ["no_size", "compound"])
def test_golden_what_is_odd_but_clear_is_read(name):
    truth = before()
    check(events_of(edge(name)), truth)


@needs_edge
def test_golden_an_empty_recording_is_empty():
    assert len(events_of(edge("empty"))) == 0


@needs_edge
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("divider2", "events/divider is 2, expected 1: coordinates in whole px"),
        ("negative", "an event at -1 us, expected times of 0 or later"),
        ("short", "of p, expected as many of each"),
    ],
)
def test_golden_what_cannot_be_read_is_one_sentence(name, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence) as error, open_recording(edge(name)):
        pass
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=sentence):
        convert(edge(name), tmp_path / "a_td.dat")
    assert not list(tmp_path.iterdir())


def written_as(folder, ending):
    """The first events of the recording in another format."""
    events = np.load(FORMATS / "same/expected.npz")["events"][:500]
    path = folder / f"r{ending}"
    columns = {name: events[name] for name in "txyp"}
    if ending == ".npy":
        np.save(path, events)
    elif ending == ".npz":
        np.savez(path, **columns)
    elif ending == ".csv":
        np.savetxt(
            path,
            np.stack([columns[n] for n in "xytp"], 1),
            "%d",
            ",",
            header="x,y,t,p",
            comments="",
        )
    elif ending == ".txt":
        np.savetxt(path, np.stack([*columns.values()], 1), "%d")
    else:
        faery = pytest.importorskip("faery")
        stored = np.zeros(len(events), faery.EVENTS_DTYPE)
        for name, theirs in zip("txyp", ("t", "x", "y", "on"), strict=True):
            stored[theirs] = columns[name]
        faery.events_stream_from_array(stored, (304, 240)).to_file(path)
    return path, events


@needs_same
@pytest.mark.parametrize("ending", [".npy", ".npz", ".csv", ".txt", ".aedat4"])
def test_tables_are_read(tmp_path, ending):
    path, events = written_as(tmp_path, ending)
    check(events_of(path), events)
    assert convert(path, tmp_path / "r_td.dat").n_events == len(events)
    check(DatReader(tmp_path / "r_td.dat").read(), events)


@pytest.mark.parametrize(
    ("ending", "content", "sentence"),
    [
        (".npy", np.zeros((3, 3)), "expected columns t, x, y, p"),
        (".npy", np.full((3, 4), 0.5), "t is float64, expected whole numbers"),
        (".npy", np.full((3, 4), 7), "p from 7 to 7, expected 0 and 1, or -1 and 1"),
        (".npy", np.zeros(3, [("t", int), ("x", int)]), "has the columns t, x, expected t, x, y"),
        (".csv", b"a,b\n1,2\n", "has the columns a, b, expected t, x, y and p"),
        (".csv", b"1,2,3\n", "begins with '1,2,3', expected lines of t, x, y, p"),
        (".csv", b"t,x,y,p\n1,2,3,later\n", "expected lines of t, x, y, p"),
        (".csv", b"", "expected lines of t, x, y, p"),
        (".h5", b"\x89HDF\r\n\x1a\nxx", "cannot be read"),
        (".h5", b"none", "cannot be read"),
        (".npz", b"PK\x03\x04", "is not readable"),
        (".aedat4", b"#!AER-DAT4.0\r\n", "expected AEDAT 4|expected faery"),
    ],
)
def test_damaged_tables_are_one_sentence(tmp_path, ending, content, sentence):
    path = tmp_path / f"r{ending}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ValueError, match=sentence) as error, open_recording(path):
        pass
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_hdf5_without_events_or_codec_is_one_sentence(tmp_path):
    path = tmp_path / "r_td.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(ValueError, match="holds data, expected a group `events`"):
        convert(path, tmp_path / "a_td.dat")
    with h5py.File(path, "w") as file:
        for name in "txyp":
            created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            created.set_chunk((4,))
            created.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, ())
            space = h5py.h5s.create_simple((8,))
            group = file.require_group("events")
            h5py.h5d.create(group.id, name.encode(), h5py.h5t.STD_I64LE, space, created)
    with pytest.raises(ValueError, match=r"/events/t is compressed by filter 32099 .*hdf5plugin"):
        convert(path, tmp_path / "a_td.dat")


@needs_same
def test_folders_of_other_formats_are_listed(tmp_path):
    same, train = FORMATS / "same", tmp_path / "train"
    train.mkdir()
    for source in ("rvt_gen1/rec_td.dat.h5", "dat/rec_td.dat", "dat/rec_bbox.npy"):
        shutil.copy(same / source, train)
    shutil.copy(same / "rvt_1mpx/rec_td.h5", train / "other_td.h5")
    shutil.copy(same / "rvt_1mpx/rec_bbox.npy", train / "other_bbox.npy")
    found = {one.name: one.dat.name for one in list_recordings(tmp_path)}
    assert found == {"rec": "rec_td.dat", "other": "other_td.h5"}

    (one,) = list_recordings(same / "dsec")
    assert (one.name, one.split, one.boxes.name) == ("zurich_city_00_a", "train", "tracks.npy")
    assert name_of(one.dat) == one.name

    pedro = shutil.copytree(same / "pedro/numpy", tmp_path / "pedro")
    names = [path.stem for path in sorted((pedro / "train").glob("*.npy"))]
    assert [one.name for one in list_recordings(pedro, require_labels=False)] == names
