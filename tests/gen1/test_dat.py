import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen1.clock import BLOCK
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


EVER = (-1, 2**60)


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
    assert len(reader.window(*EVER)) == 2009


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
        (bytes(80_000), "neither a .dat header nor times that rise"),
        (bytes(8), "neither a .dat header nor times that rise"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X        " + bytes(4000), "nor times that rise"),
        (records(range(0, 50_000, 10)), "neither a .dat header nor more than one pixel"),
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


def noise(n=3000, version=2):
    """Records of n events at 0, 10, 20, ... us, all over a frame of 240x304 px."""
    rng = np.random.default_rng(n)
    y_bit, p_bit = (9, 17) if version == 1 else (14, 28)
    table = np.empty((n, 2), "<u4")
    table[:, 0] = 10 * np.arange(n)
    x, y, p = (rng.integers(0, high, n) for high in (304, 240, 2))
    table[:, 1] = x | y << y_bit | p << p_bit
    return table.tobytes()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "line", ["% Height 240", "% Height: 240", "%Height 240", "% height=240", "%  HEIGHT\t: 240 "]
)
def test_headers_of_other_tools_are_understood(tmp_path, line, end):
    header = end.join(["% Date: 2017-4-4 11:0:13", "% Version 2", line, "%Width: 304", "% end", ""])
    reader = read_bytes(tmp_path, header.encode() + b"\x0c\x08" + noise())
    assert (reader.height, reader.width, reader.n_events) == (240, 304, 3000)
    assert reader.order.out_of_frame == 0


@pytest.mark.parametrize(
    "header", [b"", b"% Date 2017\n\0\x08", HEADER.replace(b"% Version 2\n", b"")]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_is_not_named_is_seen_in_the_addresses(tmp_path, header, version):
    reader = read_bytes(tmp_path, header + noise(version=version))
    events = reader.read()
    assert reader.version == version
    assert (events["x"].max(), events["y"].max()) == (303, 239)
    assert 0.4 < events["p"].mean() < 0.6


@pytest.mark.parametrize(
    ("named", "records_of"),
    [(b"% Version 2", noise(version=1)), (b"% Version 1", noise(version=2))],
)
def test_a_recording_mostly_out_of_frame_is_refused(tmp_path, named, records_of):
    content = HEADER.replace(b"% Version 2", named).replace(b"Height 240", b"Height 120")
    with pytest.raises(
        ValueError, match=r"recording.dat: \d+ of 3000 events lie beyond 120x304 px"
    ):
        _ = read_bytes(tmp_path, content + records_of).order


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.dat: no such file"):
        DatReader(tmp_path / "gone.dat")


def test_header_ends_where_records_look_like_one(tmp_path):
    first_time_us = int.from_bytes(b"% \x01\x00", "little")
    headerless = read_bytes(tmp_path, records([first_time_us]))
    assert headerless.read()["t"].tolist() == [first_time_us]
    with_header = read_bytes(tmp_path, HEADER + records([first_time_us]))
    assert with_header.read()["t"].tolist() == [first_time_us]


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
    assert reader.duration_us == 21


def test_empty_recording_has_empty_windows(files, tmp_path):
    reader = read_bytes(tmp_path, files["zero_events|bytes"])
    assert reader.duration_us == reader.index_at(5) == len(reader.window(0, 10)) == 0


def test_a_released_map_reads_the_same(tmp_path):
    stored = np.arange(3 * BLOCK + 7)
    reader = read_bytes(tmp_path, HEADER + records(stored))
    before = reader.window(5, 2 * BLOCK)
    reader.release()
    np.testing.assert_array_equal(reader.window(5, 2 * BLOCK), before)
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
        events = reader.window(*EVER)
    except ValueError as error:
        assert "recording.dat" in str(error)
        return
    assert len(reader.read()) == len(events) + reader.order.left_out == reader.n_events
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
            events = reader.window(*EVER)
        except ValueError as error:
            assert "recording.dat: " in str(error)
            assert "expected" in str(error)
            continue
        assert len(reader.read()) == len(events) + reader.order.left_out == reader.n_events
        assert np.all(np.diff(events["t"]) >= 0)
        assert reader.n_events * 8 + reader.trailing_bytes <= len(content)


@pytest.mark.parametrize("late", [False, True])
def test_times_can_begin_elsewhere(tmp_path, late):
    """Of recordings whose clock does not fit into 32 bits, as DSEC's."""
    events = np.zeros(400, EVENT)
    events["t"], events["x"] = 1000 + 500 * np.arange(400), np.arange(400) % 304
    if late:
        events["t"][200:210] -= 20_000
    write_dat(tmp_path / "a_td.dat", events, 240, 304)
    origin_us = 11 << 32
    plain, moved = DatReader(tmp_path / "a_td.dat"), DatReader(tmp_path / "a_td.dat", origin_us)
    assert moved.order.first_us == plain.order.first_us + origin_us
    assert moved.order.last_us == plain.order.last_us + origin_us
    assert moved.order.moved == plain.order.moved == 10 * late
    assert moved.duration_us == plain.duration_us
    for first_us, end_us in ((0, 300_000), (60_000, 105_000), (90_000, 101_000)):
        expected = plain.window(first_us, end_us)
        found = moved.window(first_us + origin_us, end_us + origin_us)
        np.testing.assert_array_equal(found["t"] - origin_us, expected["t"])
        np.testing.assert_array_equal(found["x"], expected["x"])
        edges_us = np.linspace(first_us, end_us, 5).astype(np.int64)
        for ours, theirs in zip(
            moved.binned(edges_us + origin_us), plain.binned(edges_us), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert moved.index_at(end_us + origin_us) == plain.index_at(end_us)
    np.testing.assert_array_equal(moved.read()["t"], plain.read()["t"] + origin_us)
