"""Pictures -> a video: .mp4 through the ffmpeg that imageio-ffmpeg brings, .gif through Pillow.

That ffmpeg is a program of its own (GPL), run as one and never linked.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from evaluation.frames import palette
from gen1.atomic import atomic_write

#: Most pictures per second: what players keep up with; for a GIF, what keeps it small.
MAX_FPS = {".mp4": 50.0, ".gif": 12.5}
#: A GIF is held in memory until its last picture.
MAX_GIF_FRAMES = 400
#: Fewest pictures per second: neither format knows much longer ones.
MIN_FPS = 0.01


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
    stream = iter(frames)
    first = next(stream, None)
    check_length(path, 0 if first is None else 1)
    assert first is not None
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    with atomic_write(path) as file:
        return write(path, file, chain([first], stream), fps)


def _write_gif(path: Path, file: BinaryIO, frames: Iterator[np.ndarray], fps: float) -> int:
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
    next(every).save(file, "GIF", save_all=True, append_images=every, loop=0)
    return count


def _write_mp4(path: Path, file: BinaryIO, frames: Iterator[np.ndarray], fps: float) -> int:
    """H.264 that every browser plays; ffmpeg writes to the name of `file`."""
    from imageio_ffmpeg import write_frames

    encoder, count = None, 0
    try:
        for frame in frames:
            if encoder is None:
                encoder = write_frames(
                    file.name,
                    (frame.shape[1], frame.shape[0]),
                    fps=fps,
                    codec="libx264",
                    quality=None,
                    macro_block_size=2,
                    output_params=[
                        "-crf",
                        "26",
                        "-preset",
                        "veryfast",
                        "-movflags",
                        "+faststart",
                        "-f",
                        "mp4",
                    ],
                )
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
