"""Randomness, settings, signals and progress of a run."""

import os
import random
import signal

import numpy as np
import pytest
import torch

from evaluation.provenance import content_hash
from training import log
from training.log import Logbook, Progress
from training.saving import StopRequest, random_state, restore_random_state, seed_everything


def draw():
    return random.random(), np.random.normal(), torch.rand(3).tolist()  # noqa: NPY002


def test_every_generator_continues_from_a_file(tmp_path):
    seed_everything(3)
    draw()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draw()
    seed_everything(4)
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


def test_seeds_differ_and_repeat():
    drawn = []
    for seed in (1, 1, 2):
        seed_everything(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[1] != drawn[2]


def test_hashes_ignore_the_order_of_keys_and_nothing_else():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_firing_is_news_only_when_it_changes(tmp_path):
    book = Logbook(tmp_path, 0)
    told = [book.add_firing_health(f, i) for i, f in enumerate(([], ["a"], ["a"], ["b"], [], []))]
    sound = "every layer reads spikes at a sound rate again"
    assert told == [[], ["warning: a"], [], ["warning: b"], [sound], []]


@pytest.fixture
def stop():
    """A StopRequest that listens until the test ends."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    request = StopRequest()
    request.listen()
    yield request
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_first_signal_only_asks(stop, number):
    os.kill(os.getpid(), number)
    assert stop.asked


@pytest.mark.usefixtures("stop")
def test_a_second_interrupt_leaves_at_once():
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("visible", [True, False])
def test_a_log_file_gets_plain_lines_from_the_first_process_alone(capsys, monkeypatch, visible):
    now = iter(range(0, 1000, 40))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(now))
    shown = Progress(range(5), "epoch 1/2", total=8, first=3, visible=visible)
    for _ in shown:
        shown.show("box 1.00")
    out, err = capsys.readouterr()
    lines = ["epoch 1/2: batch 5/8, box 1.00", "epoch 1/2: batch 7/8, box 1.00"]
    assert (out.splitlines(), err) == (lines if visible else [], "")
