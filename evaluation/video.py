"""Pictures -> a video: .mp4 through the ffmpeg that imageio-ffmpeg brings, .gif through Pillow.

That ffmpeg is a program of its own (GPL), run as one and never linked.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from evaluation.pictures import palette
from gen1.atomic import atomic_write

#: Most pictures per second: what players keep up with; for a GIF, what keeps it small.
MAX_FPS = {".mp4": 50.0, ".gif": 12.5}
#: A GIF is held in memory until its last picture.
MAX_GIF_FRAMES = 400
#: Fewest pictures per second: neither format knows much longer ones.
MIN_FPS = 0.01
FLAGS = "-crf 26 -preset veryfast -movflags +faststart -f mp4"
H264 = {"codec": "libx264", "quality": None, "macro_block_size": 2, "output_params": FLAGS.split()}


def pace(path: Path, every_us: int, speed: float) -> tuple[int, float]:
    """k and pictures per second: every k-th of windows every_us apart shown at `speed`.

    speed 1 is real time. Raises ValueError for a suffix that is not .mp4 or .gif, and for less
    than MIN_FPS.
    """
    if path.suffix not in MAX_FPS:
        raise ValueError(f"{path}: has suffix {path.suffix!r}, expected .mp4 or .gif")
    windows_per_s = 1e6 * speed / every_us
    if windows_per_s < MIN_FPS:
        found = f"{windows_per_s:g} pictures per second were asked for"
        raise ValueError(f"{path}: {found}, expected {MIN_FPS:g} or more: a higher speed")
    step = max(math.ceil(windows_per_s / MAX_FPS[path.suffix]), 1)
    return step, windows_per_s / step


def check_length(path: Path, n_frames: int) -> None:
    """Raise ValueError for no pictures, and for more than a GIF may have."""
    if n_frames < 1:
        raise ValueError(f"{path}: there is no picture to show, expected one window or more")
    if path.suffix == ".gif" and n_frames > MAX_GIF_FRAMES:
        found = f"a GIF of more than {MAX_GIF_FRAMES} pictures was asked for"
        raise ValueError(f"{path}: {found}, expected a shorter time range, or an .mp4")


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write frames RGB uint8 [H, W, 3], sides even, atomically; returns how many they were.

    Raises ValueError for another suffix than .mp4 and .gif, for no frames, for too many in a
    GIF, and if ffmpeg fails.
    """
    path = Path(path)
    pace(path, 1, 1)
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    with atomic_write(path) as file:
        count = write(path, file, frames, fps)
        check_length(path, count)
    return count


def _write_gif(path: Path, file: BinaryIO, frames: Iterable[np.ndarray], fps: float) -> int:
    """Few colours, no dithering: what does not change costs next to nothing."""
    colours, count = palette(), 0

    def images() -> Iterator[Image.Image]:
        nonlocal count
        for count, frame in enumerate(frames, 1):
            check_length(path, count)
            image = Image.fromarray(frame).quantize(palette=colours, dither=Image.Dither.NONE)
            until, since = (round(100 * n / fps) for n in (count, count - 1))
            image.info["duration"] = 10 * (until - since)
            yield image

    every = images()
    if (first := next(every, None)) is not None:
        first.save(file, "GIF", save_all=True, append_images=every, loop=0)
    return count


def _write_mp4(path: Path, file: BinaryIO, frames: Iterable[np.ndarray], fps: float) -> int:
    """H.264 that every browser plays; ffmpeg writes to the name of `file`."""
    from imageio_ffmpeg import write_frames

    encoder, count = None, 0
    try:
        for frame in frames:
            if encoder is None:
                encoder = write_frames(file.name, frame.shape[1::-1], fps=fps, **H264)
                encoder.send(None)
            encoder.send(np.ascontiguousarray(frame))
            count += 1
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: ffmpeg failed ({reason}), expected it to encode H.264") from None
    finally:
        if encoder is not None:
            encoder.close()
    return count
