"""Videos are read back with the pictures and the speed that were written."""

import numpy as np
import pytest
from imageio_ffmpeg import read_frames
from PIL import Image

from evaluation.video import MAX_GIF_FRAMES, check_length, pace, write_video

RED = (204, 71, 58)  # a colour of the palette


def moving_square(count):
    for number in range(count):
        frame = np.full((48, 64, 3), 255, np.uint8)
        frame[8:24, 4 * number : 4 * number + 16] = RED
        yield frame


def left_edge(frame):
    """First column that is more red than blue."""
    return np.flatnonzero((frame[16, :, 0].astype(int) - frame[16, :, 2]) > 60).min()


def test_mp4_is_read_back(tmp_path):
    path = tmp_path / "a.mp4"
    assert write_video(path, moving_square(10), 20.0) == 10
    reader = read_frames(str(path))
    meta = next(reader)
    frames = [np.frombuffer(raw, np.uint8).reshape(48, 64, 3) for raw in reader]
    assert meta["size"] == (64, 48)
    assert meta["fps"] == 20
    assert meta["codec"] == "h264"
    assert len(frames) == 10
    assert [left_edge(frame) for frame in frames] == pytest.approx(range(0, 40, 4), abs=1)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("fps", [10.0, 12.5, 3.0, 7.3])
def test_gif_is_read_back_at_its_speed(tmp_path, fps):
    path = tmp_path / "a.gif"
    assert write_video(path, moving_square(8), fps) == 8
    durations, edges = [], []
    with Image.open(path) as image:
        assert image.n_frames == 8
        assert image.info["loop"] == 0
        for number in range(8):
            image.seek(number)
            durations.append(image.info["duration"])
            edges.append(left_edge(np.asarray(image.convert("RGB"))))
    assert sum(durations) == pytest.approx(8000 / fps, abs=5.1)  # it does not drift
    assert max(durations) - min(durations) <= 10
    assert edges == list(range(0, 32, 4))


def test_windows_are_skipped_where_a_player_could_not_follow(tmp_path):
    mp4, gif = tmp_path / "a.mp4", tmp_path / "a.gif"
    assert pace(mp4, 50_000, 1.0) == (1, 20.0)
    assert pace(mp4, 50_000, 0.25) == (1, 5.0)
    assert pace(mp4, 10_000, 1.0) == (2, 50.0)
    assert pace(gif, 50_000, 1.0) == (2, 10.0)
    assert pace(gif, 50_000, 4.0) == pytest.approx((7, 80 / 7))


@pytest.mark.parametrize("name", ["a.avi", "a", "a.MP4.txt"])
def test_unknown_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"has suffix .*, expected \.mp4 or \.gif"):
        write_video(tmp_path / name, moving_square(2), 10.0)
    assert list(tmp_path.iterdir()) == []


def test_no_pictures_and_too_many_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no picture to show"):
        write_video(tmp_path / "a.mp4", [], 10.0)
    with pytest.raises(ValueError, match="a shorter time range"):
        check_length(tmp_path / "a.gif", MAX_GIF_FRAMES + 1)
    check_length(tmp_path / "a.mp4", MAX_GIF_FRAMES + 1)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_failure_leaves_the_old_video(tmp_path, name):
    def broken():
        yield from moving_square(3)
        raise ValueError("the recording ended in smoke")

    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="in smoke"):
        write_video(path, broken(), 10.0)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_failing_ffmpeg_is_one_sentence(tmp_path, monkeypatch):
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    with pytest.raises(ValueError, match=r"ffmpeg failed \(.*\), expected") as caught:
        write_video(tmp_path / "a.mp4", moving_square(200), 10.0)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["ffmpeg"]
