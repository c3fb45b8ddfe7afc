"""Two checkpoints, written in the background: one of them can always be read."""

import threading

import pytest
import torch

from training.saving import BackgroundWriter, on_host, read_last, write_last


def load(path):
    if path.read_text() == "damaged":
        raise ValueError(f"{path}: damaged")
    return path.read_text()


def write(text):
    return lambda path: path.write_text(text)


def test_the_last_two_are_kept(tmp_path):
    for text in ("one", "two", "three"):
        write_last(tmp_path, write(text))
    assert read_last(tmp_path, load) == (tmp_path / "last.pt", "three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    assert (tmp_path / "previous.pt").read_text() == "two"


def test_nothing_to_read_is_none(tmp_path):
    assert read_last(tmp_path, load) is None


def test_a_damaged_newest_falls_back_and_never_replaces_the_good_one(tmp_path):
    write_last(tmp_path, write("good"))
    write_last(tmp_path, write("damaged"))
    with pytest.warns(UserWarning, match=r"last.pt: damaged: continuing from .*previous.pt"):
        assert read_last(tmp_path, load) == (tmp_path / "previous.pt", "good")
    write_last(tmp_path, write("next"))
    assert (tmp_path / "last.pt").read_text() == "next"
    assert (tmp_path / "previous.pt").read_text() == "good"


def test_killed_between_the_two_renames(tmp_path):
    write_last(tmp_path, write("one"))
    (tmp_path / "last.pt").rename(tmp_path / "previous.pt")
    assert read_last(tmp_path, load) == (tmp_path / "previous.pt", "one")


def test_two_damaged_ones_are_an_error(tmp_path):
    write_last(tmp_path, write("damaged"))
    write_last(tmp_path, write("damaged"))
    with pytest.raises(ValueError, match=r"previous.pt: damaged"):
        read_last(tmp_path, load)
    assert (tmp_path / "last.pt").exists()


def test_the_caller_does_not_wait_and_the_order_is_kept():
    writer, gate, written = BackgroundWriter(), threading.Event(), []
    writer.submit(lambda: (gate.wait(10), written.append(1))[1])
    writer.submit(lambda: written.append(2))
    assert written == []
    gate.set()
    writer.finish()
    assert written == [1, 2]


def test_an_error_of_a_write_reaches_the_caller():
    def fail():
        raise OSError("disk full")

    writer = BackgroundWriter()
    writer.submit(fail)
    with pytest.raises(OSError, match="disk full"):
        writer.finish()


def test_a_host_copy_no_longer_follows():
    state = {"a": torch.zeros(2), "b": [torch.ones(1), (3, "x")]}
    copy = on_host(state)
    state["a"] += 1
    assert copy["a"].tolist() == [0, 0]
    assert copy["b"][1] == (3, "x")
