"""RAW recordings become .dat recordings with the same events."""

import numpy as np
import pytest

from gen1.convert import convert, main
from gen1.dat import DatReader
from gen1.recordings import list_recordings

pytest.importorskip("faery")


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


def evt3(times_us: list[int], pixels: list[tuple[int, int, int]]) -> bytes:
    """EVT 3 words of single events: time high and low, row, column and polarity."""
    words = []
    for t_us, (x, y, p) in zip(times_us, pixels, strict=True):
        words += [0x8000 | t_us >> 12 & 0xFFF, 0x6000 | t_us & 0xFFF, y, 0x2000 | p << 11 | x]
    return b"% evt 3.0\n% geometry 304x240\n" + np.array(words, "<u2").tobytes()


def columns(path) -> np.ndarray:
    events = DatReader(path).read()
    return np.stack([events[name].astype(np.int64) for name in "txyp"], axis=1)


def test_a_real_evt2_recording(shared_data, tmp_path):
    source = shared_data("evt2_sample.raw")
    assert convert(source, tmp_path / "a_td.dat", height=480, width=640) == 539_481
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
    assert convert(source, tmp_path / "a_td.dat") == len(decoded)
    found = columns(tmp_path / "a_td.dat")
    for i, name in enumerate("xyp", start=1):
        np.testing.assert_array_equal(found[:, i], decoded[name])
    stored_us = slow_evt3_times(np.frombuffer(words_of(source), "<u2"))
    assert np.abs(found[:, 0] - stored_us).max() < 16  # steps back are held, not followed
    assert np.all(np.diff(found[:, 0]) >= 0)


def test_evt3_times_go_on_when_the_24_bit_clock_overflows(tmp_path):
    times_us = list(range(1000, 60_000_000, 1500))
    pixels = [(i % 304, i % 240, i % 2) for i in range(len(times_us))]
    (tmp_path / "a.raw").write_bytes(evt3(times_us, pixels))
    assert main([str(tmp_path / "a.raw"), str(tmp_path / "a_td.dat")]) == 0
    expected = [(t_us, *pixel) for t_us, pixel in zip(times_us, pixels, strict=True)]
    np.testing.assert_array_equal(columns(tmp_path / "a_td.dat"), expected)
    reader = DatReader(tmp_path / "a_td.dat")
    assert (reader.height, reader.width) == (240, 304)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (evt3([5], [(900, 3, 1)]), "cannot be decoded"),
        (b"no recording", "begins with b'no rec'"),
        (b"% evt 9.0\n", "cannot be decoded"),
    ],
)
def test_what_cannot_be_decoded_is_refused_and_leaves_nothing(tmp_path, capsys, content, sentence):
    (tmp_path / "a.raw").write_bytes(content)
    assert main([str(tmp_path / "a.raw"), str(tmp_path / "a_td.dat")]) == 1
    error = capsys.readouterr().err
    assert f"a.raw: {sentence}" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.raw"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.raw: no such file, expected a Prophesee RAW"):
        convert(tmp_path / "gone.raw", tmp_path / "a_td.dat")


def test_directories_and_readers_point_to_the_converter(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"% evt 3.0\n")
    with pytest.raises(ValueError, match=r"gen1\.convert` makes them of RAW files"):
        list_recordings(tmp_path)
    (tmp_path / "a_td.dat").write_bytes(b"% evt 3.0\n% end\n\x00\x08")
    with pytest.raises(ValueError, match=r"`python -m gen1\.convert` makes one"):
        DatReader(tmp_path / "a_td.dat")
    (tmp_path / "a_td.dat").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match="metavision_file_to_dat makes one"):
        DatReader(tmp_path / "a_td.dat")
