"""One sample <-> the bytes of its HDF5 chunk, without HDF5's filters and outside its lock.

A chunk is a Blosc buffer (lz4, bit shuffle) followed by the Fletcher-32 checksum that HDF5
appends, so that any HDF5 with the Blosc filter reads it. The filter of hdf5plugin is itself a
Blosc library: its functions are called here directly, which releases Python's lock.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import hdf5plugin
import numpy as np

from gen1.compiled import compiled

#: What `create_dataset` must be told for chunks made here.
FILTERS = {
    "compression": hdf5plugin.Blosc("lz4", 1, hdf5plugin.Blosc.BITSHUFFLE),
    "fletcher32": True,
}
BLOSC_OVERHEAD_BYTES = 16
BLOCK_BYTES = 1 << 18  # compressed at a time: an eighth faster both ways than Blosc's own choice
CHECKSUM_BYTES = 4


def encode_chunk(frames: np.ndarray) -> np.ndarray:
    """Compress frames, uint8 of any shape and contiguous, into the uint8 [n] of a chunk."""
    compress, _ = _blosc()
    room = frames.nbytes + BLOSC_OVERHEAD_BYTES
    chunk = np.empty(room + CHECKSUM_BYTES, np.uint8)
    size = compress(
        1,  # level
        2,  # bit shuffle
        1,  # bytes per item
        frames.nbytes,
        frames.ctypes.data,
        chunk.ctypes.data,
        room,
        b"lz4",
        BLOCK_BYTES,
        1,  # thread
    )
    assert size > 0, "Blosc fits any input into its size plus BLOSC_OVERHEAD_BYTES"
    checksum = np.array([fletcher32(chunk[:size])], "<u4")
    chunk[size : size + CHECKSUM_BYTES] = checksum.view(np.uint8)
    return chunk[: size + CHECKSUM_BYTES]


def decode_chunk(chunk: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse, uint8 of that shape; raises ValueError if the bytes are damaged."""
    _, decompress = _blosc()
    stored = np.frombuffer(chunk, np.uint8)
    data, checksum = stored[:-CHECKSUM_BYTES], chunk[-CHECKSUM_BYTES:]
    if not len(data) or fletcher32(data) != int.from_bytes(checksum, "little"):
        raise ValueError("its checksum does not match")
    frames = np.empty(shape, np.uint8)
    if decompress(data.ctypes.data, frames.ctypes.data, frames.nbytes, 1) != frames.nbytes:
        raise ValueError(f"it does not hold {frames.nbytes} bytes")
    return frames


@compiled(nogil=True)
def fletcher32(data: np.ndarray) -> np.uint32:
    """HDF5's checksum of uint8 [n]: two sums over its big-endian 16-bit words, modulo 65535.

    Both are kept in 1..65535 unless every word is zero.
    """
    n = (len(data) + 1) // 2
    total, weighted = np.uint64(0), np.uint64(0)
    for i in range(len(data) // 2):
        word = (np.uint64(data[2 * i]) << np.uint64(8)) | np.uint64(data[2 * i + 1])
        total += word
        weighted += word * np.uint64(n - i)
    if len(data) % 2:
        last = np.uint64(data[-1]) << np.uint64(8)
        total, weighted = total + last, weighted + last
    modulus = np.uint64(65535)
    low = total % modulus or modulus * (total > 0)
    high = weighted % modulus or modulus * (weighted > 0)
    return np.uint32((np.uint64(high) << np.uint64(16)) | np.uint64(low))


@cache
def _blosc() -> tuple[Any, Any]:
    """The functions blosc_compress_ctx and blosc_decompress_ctx; they keep no state."""
    library = ctypes.CDLL(str(next(Path(hdf5plugin.PLUGIN_PATH).glob("libh5blosc.*"))))
    integer, size, address = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    compress, decompress = library.blosc_compress_ctx, library.blosc_decompress_ctx
    compress.argtypes = [integer, integer, size, size, address, address]
    compress.argtypes += [size, ctypes.c_char_p, size, integer]
    decompress.argtypes = [address, address, size, integer]
    return compress, decompress
