import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen1 import dat
from gen1.dat import DatReader, write_dat
from gen1.spec import EVENT

GOOD_CASES = [
    "gen1_like",
    "no_size_keys",
    "ncars_like_header",
    "openeb_end_line_type12",
    "version1_layout",
    "polarity_nibble_15",
    "out_of_frame",
    "backward_timestamps",
    "u32_wrap",
    "truncated_5_bytes",
    "zero_events",
    "no_header",
]
HEADER = b"% Version 2\n% Height 240\n% Width 304\n\x00\x08"


@pytest.fixture(scope="module")
def files(golden):
    return dict(golden("gen1/fx_dat.npz"))


def read_bytes(tmp_path, content):
    path = tmp_path / "recording.dat"
    path.write_bytes(bytes(content))
    return DatReader(path)


def records(times_us, x=1, y=1, p=1):
    """Version 2 bytes of events at one pixel."""
    table = np.empty((len(times_us), 2), "<u4")
    table[:, 0] = times_us
    table[:, 1] = x | y << 14 | p << 28
    return table.tobytes()


def slow_repair(stored_us):
    """The definition, one event at a time."""
    repaired, latest, wraps = [], 0, 0
    for stored in map(int, stored_us):
        wraps += stored + wraps * 2**32 < latest - 2**31
        late = wraps > 0 and stored + wraps * 2**32 > latest + 2**31
        latest = max(latest, stored + (wraps - late) * 2**32)
        repaired.append(latest)
    return np.array(repaired)


@pytest.mark.parametrize("case", GOOD_CASES)
def test_golden_file_decodes_exactly(files, tmp_path, case):
    reader = read_bytes(tmp_path, files[f"{case}|bytes"])
    meta = json.loads(str(files[f"{case}|meta"]))
    events = reader.read()
    wanted = files[f"{case}|events_txyp"].reshape(-1, 4)
    decoded = np.stack([events[name].astype(np.int64) for name in "txyp"], axis=1)
    wanted[:, 3] &= 1  # the figures hold address bits 28-31 whole
    np.testing.assert_array_equal(decoded, wanted)
    assert events.dtype == EVENT
    assert reader.n_events == len(wanted)
    assert reader.version == meta["version"]
    assert reader.trailing_bytes == meta["trailing"]
    sized = any(line.startswith("Height") for line in meta["header"])
    assert (reader.height, reader.width) == ((240, 304) if sized else (None, None))


def test_file_truncated_in_its_header_is_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"recording\.dat: ends inside its header"):
        read_bytes(tmp_path, files["truncated_in_header|bytes"])


def test_real_recording(shared_data):
    reader = DatReader(shared_data("sample_ncars.dat"))
    events = reader.read()
    assert (reader.n_events, reader.height, reader.width) == (2009, None, None)
    assert (events["x"].max(), events["y"].max()) == (77, 41)
    assert len(reader.window(0, reader.duration_us)) == 2009


@pytest.mark.parametrize("name", ["evt2_sample.raw", "evt3_sample.raw", "evt3_sample.npy"])
def test_other_formats_are_refused(shared_data, name):
    with pytest.raises(ValueError, match="expected a"):
        DatReader(shared_data(name))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "neither a .dat header nor records"),
        (b"a text file about something else\n" * 9, "neither a .dat header nor records"),
        (np.random.default_rng(0).bytes(4096), "neither a .dat header nor records"),
        (b"% Version 2\n", "ends inside its header"),
        (b"% Version 2\n\x00", "ends inside its header"),
        (b"% Version 2\n\x00\x10", "event type 0 with records of 16 bytes"),
        (b"% Version 2\n\x0e\x08", "event type 14"),
        (b"% Version 3\n\x00\x08", "version '3', expected 1 to 2"),
        (b"% Height tall\n\x00\x08", "height 'tall', expected 1 to"),
        (b"% Width 0\n\x00\x08", "width '0'"),
        (b"% evt 2.0\n% end\n\x00\x08", "raw EVT stream"),
    ],
)
def test_foreign_content_is_refused_in_one_sentence(tmp_path, content, sentence):
    with pytest.raises(ValueError, match=r"recording\.dat: .*expected") as error:
        read_bytes(tmp_path, content)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.dat: no such file"):
        DatReader(tmp_path / "gone.dat")


def test_header_ends_where_records_look_like_one(tmp_path):
    first_time_us = int.from_bytes(b"% \x01\x00", "little")
    headerless = read_bytes(tmp_path, records([first_time_us]))
    assert headerless.read()["t"].tolist() == [first_time_us]
    with_header = read_bytes(tmp_path, HEADER + records([first_time_us]))
    assert with_header.read()["t"].tolist() == [first_time_us]


def test_backward_steps_take_the_running_maximum(files, tmp_path):
    reader = read_bytes(tmp_path, files["backward_timestamps|bytes"])
    stored = reader.read()["t"]
    assert reader.order.backward_steps == np.sum(np.diff(stored) < 0) > 0
    assert not reader.order.is_sorted
    np.testing.assert_array_equal(
        reader.window(0, reader.duration_us)["t"], np.maximum.accumulate(stored)
    )


def test_counter_wrap_continues_time(files, tmp_path):
    reader = read_bytes(tmp_path, files["u32_wrap|bytes"])
    stored = reader.read()["t"]
    assert (reader.order.wraps, reader.order.backward_steps) == (1, 0)
    events = reader.window(0, 2**40)
    np.testing.assert_array_equal(events["t"], slow_repair(stored))
    assert reader.duration_us == events["t"][-1] + 1 > 2**32


def test_late_event_after_a_wrap_wraps_nothing_twice(tmp_path):
    stored = [2**32 - 2, 1, 2**32 - 1, 3]
    reader = read_bytes(tmp_path, HEADER + records(stored))
    assert (reader.order.wraps, reader.order.backward_steps) == (1, 1)
    wanted = [2**32 - 2, 2**32 + 1, 2**32 + 1, 2**32 + 3]
    assert reader.window(0, 2**40)["t"].tolist() == wanted


def test_out_of_frame_events_are_counted(files, tmp_path):
    reader = read_bytes(tmp_path, files["out_of_frame|bytes"])
    events = reader.read()
    outside = np.sum((events["x"] >= 304) | (events["y"] >= 240))
    assert reader.order.out_of_frame == outside > 0
    unsized = read_bytes(tmp_path, files["no_size_keys|bytes"])
    assert unsized.order.out_of_frame is None


def test_window_is_half_open_and_holds_what_there_is(tmp_path):
    reader = read_bytes(tmp_path, HEADER + records([10, 20, 20, 30]))
    assert reader.window(10, 30)["t"].tolist() == [10, 20, 20]
    assert reader.window(-500, 11)["t"].tolist() == [10]
    assert reader.window(30, 10**12)["t"].tolist() == [30]
    assert len(reader.window(21, 30)) == len(reader.window(-9, -1)) == 0
    assert len(reader.window(31, 99)) == len(reader.window(25, 15)) == 0
    assert reader.duration_us == 31


def test_empty_recording_has_empty_windows(files, tmp_path):
    reader = read_bytes(tmp_path, files["zero_events|bytes"])
    assert reader.duration_us == reader.index_at(5) == len(reader.window(0, 10)) == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_seek_equals_the_slow_repair(tmp_path_factory, data):
    """Blocks of four events, so that short recordings cross many of them."""
    near = st.integers(0, 60)
    steps = data.draw(st.lists(near | st.sampled_from([-9, -2, 2**31 - 50, -(2**31)]), max_size=40))
    stored = np.cumsum([5, *steps]) % 2**32
    wanted = slow_repair(stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dat, "BLOCK", 4)
        patch.setattr(dat, "_scan_records", dat._scan_records.py_func)
        reader = read_bytes(tmp_path_factory.mktemp("seek"), HEADER + records(stored))
        np.testing.assert_array_equal(reader.window(0, 2**50)["t"], wanted)
        for t_us in [0, *data.draw(st.lists(st.sampled_from(wanted.tolist()), max_size=8))]:
            for probe in (t_us - 1, t_us, t_us + 1):
                assert reader.index_at(probe) == np.searchsorted(wanted, probe)


def test_scan_over_many_blocks(tmp_path):
    stored = np.arange(3 * dat.BLOCK + 7)
    stored[dat.BLOCK] -= 3  # a step back across a block border
    stored[2 * dat.BLOCK + 100] = 0
    reader = read_bytes(tmp_path, HEADER + records(stored))
    wanted = np.maximum.accumulate(stored)
    assert reader.order.backward_steps == 2
    start, end = dat.BLOCK - 5, 2 * dat.BLOCK + 200
    first, last = np.searchsorted(wanted, [start, end])
    assert (reader.index_at(start), reader.index_at(end)) == (first, last)
    np.testing.assert_array_equal(reader.window(start, end)["t"], wanted[first:last])


def test_a_released_map_reads_the_same(tmp_path):
    stored = np.arange(3 * dat.BLOCK + 7)
    reader = read_bytes(tmp_path, HEADER + records(stored))
    before = reader.window(5, 2 * dat.BLOCK)
    reader.release()
    np.testing.assert_array_equal(reader.window(5, 2 * dat.BLOCK), before)
    np.testing.assert_array_equal(reader.packed & 0xFFFFFFFF, stored)


def random_events(n, height, width):
    rng = np.random.default_rng(n)
    events = np.empty(n, EVENT)
    events["t"] = np.sort(rng.integers(0, 2**32, n))
    events["x"], events["y"] = rng.integers(0, width, n), rng.integers(0, height, n)
    events["p"] = rng.integers(0, 2, n)
    return events


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_written_recording_reads_back(tmp_path, n):
    events = random_events(n, 720, 1280)
    write_dat(tmp_path / "a.dat", events, 720, 1280)
    reader = DatReader(tmp_path / "a.dat")
    np.testing.assert_array_equal(reader.read(), events)
    assert (reader.height, reader.width, reader.version) == (720, 1280, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.dat"]


@pytest.mark.parametrize(
    ("field", "value"), [("t", -1), ("t", 2**32), ("x", 304), ("y", 240), ("p", 2)]
)
def test_out_of_range_events_are_not_written(tmp_path, field, value):
    events = random_events(3, 240, 304)
    events[field][1] = value
    with pytest.raises(ValueError, match=rf"a\.dat: events have {field} from"):
        write_dat(tmp_path / "a.dat", events, 240, 304)
    assert not list(tmp_path.iterdir())


def test_events_without_a_polarity_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="expected integers t, x, y, p"):
        write_dat(tmp_path / "a.dat", np.zeros(2, [("t", "i8"), ("x", "u2"), ("y", "u2")]), 9, 9)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200)
    | st.builds(lambda tail: b"% Version 1\n" + tail, st.binary(max_size=60))
    | st.tuples(st.integers(0, 60), st.binary(max_size=6)).map(
        lambda cut: HEADER[: cut[0]] + cut[1] + (HEADER + records([7, 5, 9]))[cut[0] :]
    )
)
def test_any_bytes_give_a_value_error_or_a_consistent_read(tmp_path_factory, content):
    try:
        reader = read_bytes(tmp_path_factory.mktemp("fuzz"), content)
    except ValueError as error:
        assert "recording.dat" in str(error)
        return
    events = reader.window(0, reader.duration_us)
    assert len(reader.read()) == len(events) == reader.n_events
    assert np.all(np.diff(events["t"]) >= 0)


@pytest.mark.parametrize("case", GOOD_CASES)
def test_mutated_recordings_give_a_value_error_or_a_consistent_read(files, tmp_path, case):
    """40 copies with bytes changed, inserted and cut off; a header's last line is most at risk."""
    rng = np.random.default_rng(len(case))
    good = bytes(files[f"{case}|bytes"])
    for _ in range(40):
        content = bytearray(
            good[: int(rng.integers(1, len(good) + 1))] if rng.random() < 0.5 else good
        )
        for place in rng.integers(0, min(len(content), 200), 3):
            content[place] = int(rng.integers(0, 256))
        if rng.random() < 0.3:
            content.insert(int(rng.integers(0, len(content))), int(rng.integers(0, 256)))
        try:
            reader = read_bytes(tmp_path, content)
        except ValueError as error:
            assert "recording.dat: " in str(error)
            assert "expected" in str(error)
            continue
        events = reader.window(0, reader.duration_us)
        assert len(reader.read()) == len(events) == reader.n_events
        assert np.all(np.diff(events["t"]) >= 0)
        assert reader.n_events * 8 + reader.trailing_bytes <= len(content)
