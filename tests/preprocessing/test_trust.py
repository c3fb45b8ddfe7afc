"""What a cache survives: kills, two runs at once, full disks; and that `verify` sees the rest."""

import errno
import fcntl
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import preprocessing.build
from preprocessing.__main__ import main
from preprocessing.build import claim
from preprocessing.cache import open_cache, read_header, read_manifest, read_sample
from preprocessing.dataset import HistogramDataset
from preprocessing.geometry import Geometry

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits")


def run(data: Path, cache: Path, *options: str) -> int:
    return main(["--input", str(data), "--output", str(cache), "--time-steps", "2", *options])


def contents(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*.*")}


def verified(cache: Path, capsys, *options: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["verify", str(cache), *options])
    return code, capsys.readouterr().out


def in_child(*arguments: object) -> multiprocessing.Process:
    """Start a run in a process that has imported all it needs, so that a kill hits its work.

    Forked by a server without threads: the process of the tests may have some.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preprocessing.__main__"])
    process = context.Process(target=main, args=([*map(str, arguments)],))
    process.start()
    return process


def script(code: str, *arguments: object) -> subprocess.Popen:
    """Start Python code with arguments in sys.argv."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def read_everything(path: Path) -> None:
    """Raises unless the file is whole."""
    with open_cache(path) as file:
        windows = read_header(file).report.windows
        assert len(file["labels"][:]) == 6
        for row in range(windows):
            read_sample(file, row)


@pytest.mark.slow
@linux_only
def test_kill_9_at_random_moments_never_leaves_a_file_that_passes_as_complete(
    tree, tmp_path, capsys
):
    data, cache = tree(train=6, n_events=100_000), tmp_path / "cache"
    assert run(data, tmp_path / "undisturbed") == 0
    moments, kills = random.Random(0), 0
    for attempt in range(25):
        options = ("--time-steps", 2, "--workers", 1 + attempt % 2)
        child = in_child("--input", data, "--output", cache, *options)
        time.sleep(moments.uniform(0.01, 0.12))
        child.kill()
        child.join()
        kills += child.exitcode == -9
        for path in cache.rglob("r*.h5"):
            read_everything(path)
        if attempt % 6 == 5:
            shutil.rmtree(cache, ignore_errors=True)  # or all would soon be done
    assert kills > 10
    assert run(data, cache) == 0
    assert contents(cache) == contents(tmp_path / "undisturbed")
    assert verified(cache, capsys, "--deep") == (0, "6 files: all good\n")


def test_a_second_run_on_the_same_output_is_refused(tree, tmp_path, monkeypatch, capsys):
    data, cache = tree(train=2), tmp_path / "cache"
    run(data, cache)
    before = contents(cache)
    monkeypatch.setattr(preprocessing.build, "PATIENCE_S", 0.0)
    with claim(cache):
        assert run(data, cache, "--time-steps", "3", "--overwrite") == 1
        assert "another run of `python -m preprocessing` is writing here" in capsys.readouterr().err
    assert contents(cache) == before
    assert run(data, cache) == 0


@linux_only
def test_the_claim_of_a_killed_run_does_not_outlive_it(tmp_path):
    hold = (
        "import pathlib, sys, time; from preprocessing.build import claim; "
        "path = pathlib.Path(sys.argv[1]); held = claim(path); "
        "(path / 'claimed').touch(); time.sleep(60)"
    )
    holder = script(hold, tmp_path)
    while not (tmp_path / "claimed").exists():
        assert holder.poll() is None
        time.sleep(0.01)
    holder.kill()
    holder.communicate()
    with claim(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with claim(tmp_path), claim(tmp_path):
        assert not any(path.read_bytes() for path in tmp_path.iterdir())


@linux_only
def test_two_runs_started_together_do_not_corrupt_the_cache(tree, tmp_path):
    data, cache = tree(train=4, n_events=100_000), tmp_path / "cache"
    options = ("--input", data, "--output", cache, "--time-steps", 2)
    children = [in_child(*options) for _ in range(2)]
    for child in children:
        child.join()
    assert run(data, tmp_path / "undisturbed") == 0
    assert contents(cache) == contents(tmp_path / "undisturbed")


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_ends_in_one_sentence_and_keeps_what_is_finished(tree, tmp_path, workers):
    data, cache = tree(train=3), tmp_path / "cache"
    assert run(data, cache) == 0
    limit = (cache / "train" / "r1.h5").stat().st_size // 2
    for name in ("r1", "r2"):
        (cache / "train" / f"{name}.h5").unlink()
    run_out_of_room = (
        "import resource, sys; from preprocessing.__main__ import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(main())"
    )
    options = ("--time-steps", 2, "--workers", workers)
    child = script(run_out_of_room, "--input", data, "--output", cache, *options)
    _, log = child.communicate(timeout=60)
    assert child.returncode == 1
    errors = [line for line in log.split("\n") if line.startswith("error: ")]
    assert len(errors) == 1, log
    assert ".h5: cannot be written (File too large)" in errors[0]
    assert [path.name for path in (cache / "train").iterdir()] == ["r0.h5"]
    assert not read_manifest(cache).complete
    assert run(data, cache) == 0
    assert read_manifest(cache).complete


def test_an_unwritable_target_ends_in_one_sentence(tree, tmp_path, capsys):
    data = tree(train=1)
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "cache", Path("/proc/self/cache")):
        assert run(data, target) == 1
        assert f"error: {target}: cannot be written (" in capsys.readouterr().err


@pytest.fixture
def cache(tree, tmp_path):
    """A finished cache of three recordings; tmp_path / "data" is what it was made of."""
    data = tree(train=2, val=1)
    assert run(data, tmp_path / "cache", "--downsample", "4") == 0
    return tmp_path / "cache"


def test_verify_names_missing_truncated_foreign_and_unlisted_files(cache, capsys):
    assert verified(cache, capsys) == (0, "3 files: all good\n")
    (cache / "train" / "r0.h5").unlink()
    damaged = cache / "train" / "r1.h5"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    shutil.copy(cache / "val" / "r0.h5", cache / "val" / "other.h5")
    code, text = verified(cache, capsys)
    assert code == 1
    assert f"{cache}/train/r0.h5: missing: there is no such file" in text
    assert f"{damaged}: damaged: {damaged}: not readable HDF5" in text
    assert f"{cache}/val/other.h5: unexpected: the manifest does not list it" in text
    assert "4 files: 1 missing, 1 damaged, 1 unexpected" in text


def test_verify_finds_stale_files_and_one_command_makes_them_again(cache, tmp_path, capsys):
    good = contents(cache)
    os.utime(tmp_path / "data" / "train" / "r1_td.dat")
    code, text = verified(cache, capsys)
    assert code == 1
    assert f"{cache}/train/r1.h5: stale: {tmp_path}/data/train/r1_td.dat has changed" in text
    assert run(tmp_path / "data", cache, "--downsample", "4") == 0
    assert verified(cache, capsys)[0] == 0
    assert contents(cache).keys() == good.keys()


def test_recordings_that_moved_away_are_said_to_be_not_compared(cache, tmp_path, capsys):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    code, text = verified(cache, capsys)
    assert code == 0
    assert "3 not compared with their recordings, which are not there any more" in text
    assert run(tmp_path / "elsewhere", cache, "--downsample", "4") == 0
    assert "(3 already done)" in capsys.readouterr().out


def test_a_flipped_bit_in_a_sample_is_found_deep_and_repaired(cache, tmp_path, capsys):
    path = cache / "train" / "r0.h5"
    good = contents(cache)
    with h5py.File(path) as file:
        chunk = file["frames"].id.get_chunk_info(2)
    flipped = bytearray(path.read_bytes())
    flipped[chunk.byte_offset + chunk.size // 2] ^= 16
    path.write_bytes(flipped)
    assert verified(cache, capsys)[0] == 0  # only reading it can tell
    code, text = verified(cache, capsys, "--deep", "--delete")
    assert code == 1
    assert f"{path}: damaged: {path}: sample 2 is damaged (its checksum does not match)" in text
    assert run(tmp_path / "data", cache, "--downsample", "4") == 0
    assert contents(cache) == good


@pytest.mark.slow
def test_no_flipped_bit_anywhere_in_a_file_goes_unnoticed_and_changes_a_number(cache, capsys):
    path = cache / "train" / "r0.h5"
    good = path.read_bytes()
    with open_cache(path) as file:
        numbers = [file[name][:] for name in ("frames", "labels", "times_us")]
    positions = random.Random(1)
    found = 0
    for _ in range(150):
        flipped = bytearray(good)
        flipped[positions.randrange(len(good))] ^= 1 << positions.randrange(8)
        path.unlink()
        path.write_bytes(flipped)
        code, _ = verified(cache, capsys, "--deep")
        found += code
        if code == 0:  # a byte that HDF5 does not use
            with open_cache(path) as file:
                for name, expected in zip(("frames", "labels", "times_us"), numbers, strict=True):
                    np.testing.assert_array_equal(file[name][:], expected)
    assert found > 100


def test_verify_refuses_what_is_no_finished_cache(cache, tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 1
    assert "manifest.json: there is no such file" in capsys.readouterr().err
    manifest = cache / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    assert main(["verify", str(cache)]) == 1
    assert "preprocessing has not finished" in capsys.readouterr().err


def test_recordings_that_failed_are_known_to_readers_of_the_cache(tree, tmp_path, capsys):
    data, cache = tree(train=3), tmp_path / "cache"
    (data / "train" / "r1_bbox.npy").write_bytes(b"not an array")
    assert run(data, cache) == 1
    with pytest.warns(UserWarning, match="1 of 3 recordings of train could not be .*: r1"):
        dataset = HistogramDataset(cache, "train", Geometry())
    assert dataset.recordings == ("r0", "r2")
    assert list(dataset.failed) == ["r1"]
    assert "is not a readable .npy file" in dataset.failed["r1"]
    code, text = verified(cache, capsys)
    assert code == 0
    assert "1 recording left out, not usable:\n  train/r1: " in text
