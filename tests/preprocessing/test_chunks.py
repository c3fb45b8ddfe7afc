"""Chunks made here are what HDF5's own filters make and read."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.chunks import CHECKSUM_BYTES, FILTERS, decode_chunk, encode_chunk, fletcher32


def make_frames(shape: tuple[int, ...], kind: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.poisson({"empty": 0.0, "sparse": 0.1}[kind], shape).astype(np.uint8)


def read_with_plain_hdf5(path, shape, chunk: np.ndarray) -> np.ndarray:
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("a", (1, *shape), np.uint8, chunks=(1, *shape), **FILTERS)
        frames.id.write_direct_chunk((0,) * frames.ndim, chunk)
    with h5py.File(path) as file:
        return file["a"][0]


@pytest.mark.parametrize("kind", ["empty", "sparse", "noise"])
@pytest.mark.parametrize("shape", [(4, 2, 240, 304), (3, 2, 11, 13), (1, 1, 1, 1)])
def test_plain_hdf5_reads_what_was_encoded(tmp_path, kind, shape):
    frames = make_frames(shape, kind)
    chunk = encode_chunk(frames)
    np.testing.assert_array_equal(read_with_plain_hdf5(tmp_path / "a.h5", shape, chunk), frames)
    np.testing.assert_array_equal(decode_chunk(chunk.tobytes(), shape), frames)


@pytest.mark.parametrize("kind", ["empty", "sparse"])
def test_the_filters_of_hdf5_make_the_same_bytes(tmp_path, kind):
    frames = make_frames((4, 2, 60, 76), kind)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", data=frames[None], chunks=(1, *frames.shape), **FILTERS)
        file.flush()
        skipped_filters, chunk = dataset.id.read_direct_chunk((0,) * 5)
    assert skipped_filters == 0
    assert chunk == encode_chunk(frames).tobytes()


def slow_fletcher32(data: bytes) -> int:
    """The definition, one big-endian word at a time; a sum folds into 1..65535."""
    data += b"\0" * (len(data) % 2)
    total = weighted = 0
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i : i + 2], "big")
        weighted += total
    low, high = ((sum_ - 1) % 65535 + 1 if sum_ else 0 for sum_ in (total, weighted))
    return high << 16 | low


@given(st.binary(max_size=300) | st.integers(1, 200).map(lambda n: b"\xff" * n))
@settings(max_examples=200, deadline=None)
def test_checksum_equals_its_definition(data):
    assert fletcher32(np.frombuffer(data, np.uint8)) == slow_fletcher32(data)


@given(st.integers(0, 10**9), st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_is_found(position, bit):
    chunk = bytearray(encode_chunk(make_frames((2, 2, 8, 8), "sparse")))
    chunk[position % len(chunk)] ^= 1 << bit
    with pytest.raises(ValueError, match="checksum does not match"):
        decode_chunk(bytes(chunk), (2, 2, 8, 8))


def test_a_chunk_of_another_length_is_refused():
    chunk = encode_chunk(make_frames((2, 2, 8, 8), "sparse")).tobytes()
    with pytest.raises(ValueError, match="does not hold 512 bytes"):
        decode_chunk(chunk, (2, 2, 8, 16))
    with pytest.raises(ValueError, match="does not hold 128 bytes"):
        decode_chunk(chunk, (1, 2, 8, 8))
    for length in (0, 3, CHECKSUM_BYTES):
        with pytest.raises(ValueError, match="checksum does not match"):
            decode_chunk(chunk[:length], (2, 2, 8, 8))
