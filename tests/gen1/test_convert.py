"""RAW recordings become .dat recordings with the same events."""

import numpy as np
import pytest

from gen1.convert import convert, main
from gen1.dat import DatReader
from gen1.recordings import list_recordings


def words_of(path) -> bytes:
    """The bytes after the header."""
    content = path.read_bytes()
    while content.startswith(b"% "):
        content = content[content.index(b"\n") + 1 :]
    return content


def slow_evt2(words: np.ndarray) -> np.ndarray:
    """The format's definition: 4 bits of type, then time's upper 28 bits or an event; [n, 4]."""
    kind, upper_us, rows = words >> 28, 0, []
    for word, what in zip(words.tolist(), kind.tolist(), strict=True):
        if what == 8:
            upper_us = (word & 0x0FFFFFFF) << 6
        elif what < 2:
            rows.append((upper_us | word >> 22 & 63, word >> 11 & 2047, word & 2047, what))
    return np.array(rows)


def slow_evt3_times(words: np.ndarray) -> np.ndarray:
    """Time of every event in us: upper and lower 12 bits as last sent; vectors hold many."""
    upper = lower = 0
    times_us: list[int] = []
    for word in words.tolist():
        kind, value = word >> 12, word & 0xFFF
        upper, lower = (value if kind == 8 else upper), (value if kind == 6 else lower)
        n_events = {2: 1, 4: value.bit_count(), 5: (value & 0xFF).bit_count()}.get(kind, 0)
        times_us += [upper << 12 | lower] * n_events
    return np.array(times_us)


Event = tuple[int, int, int, int]


def words2(events: list[Event]) -> bytes:
    """EVT 2 words: the upper time before every event."""
    words = []
    for t, x, y, p in events:
        words += [8 << 28 | t >> 6 & 0xFFFFFFF, p << 28 | (t & 63) << 22 | x << 11 | y]
    return np.array(words, "<u4").tobytes()


def words21(events: list[Event], legacy: bool = False) -> bytes:
    """EVT 2.1 words of one event each, not at the first of their 32 columns; halves may swap."""
    halves = []
    for t, x, y, p in events:
        first = x - min(x, 31)
        event = p << 28 | (t & 63) << 22 | first << 11 | y
        halves += [(8 << 28 | t >> 6 & 0xFFFFFFF, 0), (event, 1 << x - first)]
    pairs = np.array(halves, "<u4")
    return (pairs if legacy else pairs[:, ::-1]).tobytes()


def legacy21(events: list[Event]) -> bytes:
    return words21(events, legacy=True)


def words3(events: list[Event]) -> bytes:
    """EVT 3 words: time high and low, row, then a single event or a vector of it."""
    words = []
    for i, (t, x, y, p) in enumerate(events):
        words += [0x8000 | t >> 12 & 0xFFF, 0x6000 | t & 0xFFF, y]
        base = max(x - 9, 0)
        vector = [0x3000 | p << 11 | base, 0x4000 | 1 << x - base]
        words += [vector, [0x2000 | p << 11 | x]][i % 2]
    return np.array(words, "<u2").tobytes()


FORMATS = [("2.0", words2), ("2.1", words21), ("2.1", legacy21), ("3.0", words3)]
formats = pytest.mark.parametrize(
    ("version", "encode"), FORMATS, ids=["evt2", "evt21", "evt21_legacy", "evt3"]
)


def some_events(start_us: int, n: int = 500, step_us: int = 997) -> list[Event]:
    return [(start_us + i * step_us, i * 7 % 304, i * 3 % 240, i % 2) for i in range(n)]


def header(version: str, *lines: str, eol: str = "\n") -> bytes:
    return "".join(f"% {line}{eol}" for line in (f"evt {version}", *lines)).encode()


def converted(tmp_path, content: bytes, **size) -> tuple[np.ndarray, list[str]]:
    (tmp_path / "a.raw").write_bytes(content)
    found = convert(tmp_path / "a.raw", tmp_path / "a_td.dat", **size)
    return columns(tmp_path / "a_td.dat"), found.notes


def columns(path) -> np.ndarray:
    events = DatReader(path).read()
    return np.stack([events[name].astype(np.int64) for name in "txyp"], axis=1)


def test_a_real_evt2_recording(shared_data, tmp_path):
    source = shared_data("evt2_sample.raw")
    assert convert(source, tmp_path / "a_td.dat") == (539_481, [])
    expected = slow_evt2(np.frombuffer(words_of(source), "<u4"))
    np.testing.assert_array_equal(columns(tmp_path / "a_td.dat"), expected)
    assert (DatReader(tmp_path / "a_td.dat").height, DatReader(tmp_path / "a_td.dat").width) == (
        480,
        640,
    )


def test_a_real_evt3_recording(shared_data, tmp_path):
    """Pixels equal the decoded sample. Its times do not: they were decoded by expelliarmus,
    which adds 4096 us whenever the camera's clock steps back a little, 45 ms in all."""
    source = shared_data("evt3_sample.raw")
    decoded = np.load(shared_data("evt3_sample.npy"))
    assert convert(source, tmp_path / "a_td.dat") == (len(decoded), [])
    found = columns(tmp_path / "a_td.dat")
    for i, name in enumerate("xyp", start=1):
        np.testing.assert_array_equal(found[:, i], decoded[name])
    stored_us = slow_evt3_times(np.frombuffer(words_of(source), "<u2"))
    np.testing.assert_array_equal(found[:, 0], stored_us)
    assert np.all(np.diff(found[:, 0]) >= 0)


@formats
@pytest.mark.parametrize("lines", [["geometry 304x240"], ["Geometry 304x240", "end"]])
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_events_are_decoded(tmp_path, version, encode, lines, eol):
    events = some_events(1_000_000)
    found, notes = converted(tmp_path, header(version, *lines, eol=eol) + encode(events))
    np.testing.assert_array_equal(found, events)
    assert notes == []


@pytest.mark.parametrize(("encode", "word"), [(words21, "little"), (legacy21, "legacy")])
def test_the_header_may_name_the_order_of_evt21(tmp_path, encode, word):
    head = f"% format EVT21;height=240;width=304;endianness={word}\n% end\n".encode()
    events = some_events(64_000, n=1)
    np.testing.assert_array_equal(converted(tmp_path, head + encode(events))[0], events)


def test_vectors_go_on_where_the_last_one_ended(tmp_path):
    words = [0x8001, 0x6005, 7, 0x3000 | 1 << 11 | 20, 0x4801, 0x5081, 0x2000 | 3, 0x5001]
    found, _ = converted(
        tmp_path, header("3.0", "geometry 304x240") + np.array(words, "<u2").tobytes()
    )
    expected = [(x, 7, p) for x, p in [(20, 1), (31, 1), (32, 1), (39, 1), (3, 0), (40, 1)]]
    np.testing.assert_array_equal(found, [(4101, *pixel) for pixel in expected])


@formats
@pytest.mark.parametrize("start_us", [2**24 - 200_000, 2**32 - 200_000, 7_200_000_000, 2**34 - 90])
def test_any_clock_is_converted(tmp_path, version, encode, start_us):
    events = some_events(start_us)
    found, _ = converted(tmp_path, header(version, "geometry 304x240") + encode(events))
    assert len(found) == len(events)
    steps_us = np.diff(found[:, 0]) % 2**32  # DatReader undoes the overflow
    np.testing.assert_array_equal(steps_us, np.diff([t for t, *_ in events]))


@formats
def test_a_late_event_keeps_its_time(tmp_path, version, encode):
    events = some_events(1_000_000)
    events[100], events[103] = events[103], events[100]
    found, _ = converted(tmp_path, header(version, "geometry 304x240") + encode(events))
    np.testing.assert_array_equal(found, events)


@formats
def test_events_before_the_first_time_are_left_out_and_counted(tmp_path, version, encode):
    events = some_events(640_000_000, n=200)
    size = {words2: 4, words3: 4}.get(encode, 8)  # bytes that hold the first time
    content = header(version, "geometry 304x240") + encode(events)[size:]
    found, notes = converted(tmp_path, content)
    assert len(found) == 199
    assert notes == ["1 event before the first time of the stream, left out"]


@formats
def test_a_truncated_last_word_is_left_out(tmp_path, version, encode):
    events = some_events(1000)
    found, notes = converted(tmp_path, header(version, "geometry 304x240") + encode(events) + b"x")
    np.testing.assert_array_equal(found, events)
    assert notes == ["1 byte of a truncated last word, left out"]


@formats
def test_a_stray_event_is_counted_and_many_are_a_wrong_size(tmp_path, version, encode):
    events = some_events(1000)
    content = header(version, "geometry 304x240") + encode([*events, (9_000_000, 900, 9, 1)])
    found, notes = converted(tmp_path, content)
    np.testing.assert_array_equal(found, events)
    assert notes == ["1 event beyond 240x304 px, left out"]
    with pytest.raises(ValueError, match=r"lie beyond 240x100 px, expected --height and --width"):
        converted(tmp_path, content, width=100)
    assert converted(tmp_path, content, width=1280)[1] == [
        "header says 240x304 px, taken as 240x1280 px as given"
    ]


@pytest.mark.parametrize(
    ("line", "size_hw"),
    [
        ("format EVT3;height=320;width=320", (320, 320)),
        ("plugin_name hal_plugin_gen31_fx3", (480, 640)),
        ("plugin_name hal_plugin_imx636_evk4", (720, 1280)),
        ("sensor_generation 4.1", (720, 1280)),
        ("system_ID 21", (480, 640)),
        ("serial_number 5", None),
    ],
)
def test_the_size_is_that_of_the_sensor_that_the_header_names(tmp_path, line, size_hw):
    _, notes = converted(tmp_path, header("3.0", line) + words3(some_events(0)))
    reader = DatReader(tmp_path / "a_td.dat")
    assert (reader.height, reader.width) == (size_hw or (720, 1280))
    guess = "names no sensor size, taken as 720x1280 px; --height, --width say another"
    assert notes == ([] if size_hw else [guess])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (header("3.0", "geometry 304x240") + words3([(5, 900, 3, 1)]), "1 of 1 events lie beyond"),
        (b"no recording", "begins with b'no rec'"),
        (b"", "is empty"),
        (b"% evt 4.0\n", "is of format '4.0', expected EVT 2, 2.1 or 3"),
        (b"% date 2020\n% end\n", "names no format"),
        (b"% evt 3.0", "ends inside its header"),
        (b"% evt 3.0\n% geometry big\n", "header says geometry 'big'"),
    ],
)
def test_what_cannot_be_decoded_is_refused_and_leaves_nothing(tmp_path, capsys, content, sentence):
    (tmp_path / "a.raw").write_bytes(content)
    assert main([str(tmp_path / "a.raw"), str(tmp_path / "a_td.dat")]) == 1
    error = capsys.readouterr().err
    assert f"a.raw: {sentence}" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.raw"]


def test_errors_of_the_target_name_the_target(tmp_path):
    (tmp_path / "a.raw").write_bytes(header("3.0", "geometry 304x240") + words3(some_events(0)))
    with pytest.raises(ValueError, match=r"gone/a_td\.dat: cannot be written \(No such file"):
        convert(tmp_path / "a.raw", tmp_path / "gone" / "a_td.dat")
    with pytest.raises(ValueError, match=r"a\.raw: is the source itself, expected another name"):
        convert(tmp_path / "a.raw", tmp_path / "a.raw")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.raw: no such file, expected a recording"):
        convert(tmp_path / "gone.raw", tmp_path / "a_td.dat")


def test_directories_and_readers_point_to_the_converter(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"% evt 3.0\n")
    with pytest.raises(ValueError, match=r"gen1\.convert` makes them of RAW files"):
        list_recordings(tmp_path)
    (tmp_path / "a_td.dat").write_bytes(b"% evt 3.0\n% end\n\x00\x08")
    with pytest.raises(ValueError, match=r"`python -m gen1\.convert` makes one"):
        DatReader(tmp_path / "a_td.dat")
    (tmp_path / "a_td.dat").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"`python -m gen1\.convert` makes one"):
        DatReader(tmp_path / "a_td.dat")
