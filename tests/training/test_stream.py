"""Clips: their order, the state between them, and a run that is interrupted in the middle."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional

import train_gen1
from evaluation.detect import detect
from evaluation.metrics import EvalConfig, energy_frames, run
from evaluation.streams import detect_streams
from gen1.dat import DatReader, write_dat
from gen1.labels import read_boxes, write_boxes
from models import build_network, resolve
from models.checkpoint import load_checkpoint, load_model, save_checkpoint
from models.decode import DetectConfig
from models.deploy import deploy
from models.energy import measure_energy
from models.memory.carried import begin_clips, put_back, state_of
from preprocessing.__main__ import main as preprocess
from preprocessing.dataset import HistogramDataset, Sample, collate
from preprocessing.geometry import Geometry
from streaming.detector import Detector
from streaming.files import run as detect_files
from streaming.settings import StreamConfig
from tests.conftest import flickering_boxes
from tests.models.conftest import randomise_batch_norms
from tests.training.test_ranks import losses, train
from training.config import ClipConfig, OptimConfig, TrainConfig
from training.detection import merged
from training.saving import Interrupted
from training.stream import Clips, Stream

HEIGHT, WIDTH = 240, 304
TINY = resolve("spikeyolo-p", variant="gen1", time_steps=2, memory="spiking")
TWIN = replace(TINY, activation="relu", memory="gru")
both = pytest.mark.parametrize("network", [TINY, TWIN], ids=["spiking", "gru"])
#: Windows of each recording.
TRAIN, VAL = (7, 6, 4), (5, 4)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Recordings whose windows of 250 ms follow each other from 0 on."""
    root, rng = tmp_path_factory.mktemp("clips") / "recordings", np.random.default_rng(1)
    for split, lengths in (("train", TRAIN), ("val", VAL)):
        (root / split).mkdir(parents=True)
        for number, windows in enumerate(lengths):
            events, boxes = flickering_boxes(rng, label_times=windows)
            events["t"] -= 250_000
            boxes["t"] -= 250_000
            events["t"][-1] = 250_000 * windows - 1
            write_dat(root / split / f"r{number}_td.dat", events, HEIGHT, WIDTH)
            write_boxes(root / split / f"r{number}_bbox.npy", boxes)
    return root


@pytest.fixture(scope="module")
def cache(recordings):
    found = recordings.parent / "cache"
    options = ["--time-steps", "2", "--downsample", "4", "--every-ms", "250"]
    assert preprocess(["--input", str(recordings), "--output", str(found), *options]) == 0
    return found


@pytest.fixture
def config(cache, tmp_path):
    return TrainConfig(
        cache=cache,
        output=tmp_path / "run",
        epochs=1,
        batch_size=3,
        workers=0,
        augment_on=True,
        pictures=0,
        protocol="all-boxes",
        model=TINY,
        optim=OptimConfig("adamw", 1e-3, warmup_epochs=1, ema_decay=0.9, ema_tau=2),
        stream=ClipConfig(clip=2, random_share=1 / 3),
    )


def open_set(cache, split="train"):
    return HistogramDataset(cache, split, Geometry(HEIGHT, WIDTH, 4))


def test_every_clip_of_a_row_goes_on_or_starts_from_rest(cache):
    dataset = open_set(cache)
    assert [len(dataset.times_us(name)) for name in dataset.recordings] == [*TRAIN]
    stream = Stream(dataset, ClipConfig(2, 1 / 3), 3)
    assert (stream.streams, stream.at_random, stream.batches) == (2, 1, 4)
    n, names = len(dataset), [name for name, _ in dataset.label_times]
    for epoch in range(5):
        order = stream.order(0, epoch)
        assert len(order) == 3 * 4
        rows = np.array(order).reshape(4, 3)
        seen = []
        for row in rows.T[:2]:
            assert row[0] >= n
            for before, clip in pairwise(row):
                assert clip >= n or clip == before % n + 2
            seen += (row % n).tolist()
        assert len(set(seen)) == len(seen)
        assert (rows.T[2] >= n).all()
        for clip in order:
            assert names[clip % n] == names[clip % n + 1]
    assert stream.order(0, 1) == stream.order(0, 1) != stream.order(0, 2)


def test_windows_of_a_batch_lie_one_after_another(cache):
    stream = Stream(open_set(cache), ClipConfig(2, 0), 2)
    n = stream.samples
    assert stream.indices([3, 8 + n]) == [3, 8, 4, 9]
    assert stream.from_rest([3, 8 + n]).tolist() == [False, True]


@both
def test_a_clip_is_its_windows_one_by_one(network):
    torch.manual_seed(0)
    model = build_network(network).double().eval()
    model.carry_state = True
    x = torch.poisson(torch.full((2, 2, 2, 2, 32, 32), 0.4, dtype=torch.double))  # window first
    whole = Clips(model, 2)(torch.cat([*x], dim=1))
    state = state_of(model)
    train = build_network(network).double().eval()
    train.load_state_dict(model.state_dict())
    train.carry_state = True
    for k, window in enumerate(x):
        for clip, single in zip(whole, train(window), strict=True):
            assert torch.equal(clip[2 * k : 2 * k + 2], single)
    assert all(torch.equal(value, state[name]) for name, value in state_of(train).items())


def test_rows_from_rest_forget_and_the_others_go_on_without_gradient():
    torch.manual_seed(0)
    model = build_network(TINY).double().eval()
    model.carry_state = True
    first, second = torch.poisson(torch.full((2, 2, 2, 2, 32, 32), 0.4, dtype=torch.double))
    model(first)
    begin_clips(model, torch.tensor([True, False]))
    state = state_of(model)
    assert all(not value.requires_grad for value in state.values())
    after = model(second)
    alone = build_network(TINY).double().eval()
    alone.load_state_dict(model.state_dict())
    rested = alone(second[:, :1])
    alone.carry_state = True
    put_back(alone, state, torch.device("cpu"))
    again = alone(second)
    for ours, same, rest in zip(after, again, rested, strict=True):
        assert torch.equal(ours, same)
        torch.testing.assert_close(ours[:1], rest, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="state is of 2 recordings, the batch of 3"):
        begin_clips(alone, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"carried state has 'head\.nobody\.v'"):
        put_back(alone, {"head.nobody.v": torch.zeros(1)}, torch.device("cpu"))
    with pytest.raises(ValueError, match="call reset"):
        alone(second[..., :0].new_zeros(2, 2, 2, 64, 64))


@both
def test_a_gradient_flows_back_through_a_clip_and_no_further(network):
    torch.manual_seed(0)
    model = build_network(network).double().train()
    model.carry_state = True
    inputs = [20 * torch.rand(2, 4, 2, 32, 64, dtype=torch.double) for _ in range(2)]
    for x in inputs:
        x[:, 2:, :, :, 32:] = 0  # the second window of a clip: there, a memory shows the first
        x.requires_grad_()
    clips = Clips(model, 2)
    clips(inputs[0])
    begin_clips(model, torch.tensor([False, False]))
    clips(inputs[1])[0][2:].sum().backward()
    assert inputs[0].grad is None
    assert inputs[1].grad[:, 2:].abs().sum() > 0
    assert inputs[1].grad[:, :2].abs().sum() > 0


@pytest.fixture
def short_windows(recordings, tmp_path):
    """50 ms each; labels lie 250 ms apart."""
    options = ["--time-steps", "2", "--downsample", "4", "--every-ms", "50", "--window-ms", "50"]
    assert (
        preprocess(["--input", str(recordings), "--output", str(tmp_path / "short"), *options]) == 0
    )
    return tmp_path / "short"


def test_short_windows_are_labelled_at_the_times_of_their_labels(short_windows):
    dataset = open_set(short_windows)
    labelled = dict(zip(dataset.label_times, dataset.labelled.tolist(), strict=True))
    assert len(labelled) == 5 * sum(TRAIN)
    for (name, t_us), is_labelled in labelled.items():
        nearest_us = np.abs(dataset.labels(name)["t"] - t_us).min()
        assert is_labelled == (nearest_us <= 25_000), (name, t_us)
    assert sum(labelled.values()) == sum(TRAIN)


def test_windows_between_the_labels_teach_nothing(config, short_windows):
    task = train_gen1.trainer_of(replace(config, cache=short_windows, stream=ClipConfig(5))).task
    batch = next(iter(task.data.batches(0, [task.stream.order(0, 0)[:3]])))
    labelled = batch.labelled
    assert labelled.shape == (5 * 3,)
    assert 0 < labelled.sum() < len(labelled)
    maps = [torch.randn(15, 66, 8 // s, 10 // s, requires_grad=True) for s in (1, 2, 4)]
    losses = task.criterion(maps, batch)
    sum(losses.values()).backward()
    rows = labelled.nonzero().flatten()
    alone = collate([batch_sample(batch, row) for row in rows.tolist()])
    expected = task.criterion.criterion([m[rows] for m in maps], alone)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])
    for m in maps:
        assert (m.grad.flatten(1).abs().sum(1) > 0).tolist() == labelled.tolist()


def test_single_windows_between_the_labels_teach_nothing_either(config, short_windows):
    rest = {"model": replace(TINY, memory="none"), "stream": ClipConfig(), "augment_on": False}
    single = replace(config, cache=short_windows, **rest)
    data = train_gen1.trainer_of(single).task.data
    assert len(data) == sum(TRAIN)
    (batch,) = data.batches(0, [[*range(sum(TRAIN))]])
    dataset = open_set(short_windows)
    known = [dataset.label_times[k] for k in dataset.labelled.nonzero()[0]]
    assert [*zip(batch.recordings, batch.times_us.tolist(), strict=True)] == known
    for k, (name, t_us) in enumerate(known):
        label_us = dataset.labels(name)["t"]
        nearest_us = label_us[np.abs(label_us - t_us).argmin()]
        assert (batch.targets[:, 0] == k).sum() == (label_us == nearest_us).sum()


def batch_sample(batch, row):
    targets = batch.targets[batch.targets[:, 0] == row, 1:]
    return Sample(batch.frames[:, row], targets, batch.recordings[row], int(batch.times_us[row]))


def test_a_batch_without_labels_costs_nothing(config, short_windows):
    task = train_gen1.trainer_of(replace(config, cache=short_windows)).task
    batch = next(iter(task.data.batches(0, [task.stream.order(0, 0)[:3]])))
    batch = replace(batch, labelled=torch.zeros_like(batch.labelled))
    maps = [torch.randn(6, 66, 8 // s, 10 // s, requires_grad=True) for s in (1, 2, 4)]
    losses = task.criterion(maps, batch)
    sum(losses.values()).backward()
    assert set(losses) == {"box", "cls", "dfl"}
    assert not any(losses.values())
    assert all(m.grad.abs().sum() == 0 for m in maps)


@pytest.mark.slow
def test_a_network_trains_on_short_windows(config, short_windows):
    train_gen1.run(replace(config, cache=short_windows, stream=ClipConfig(5)))
    val = load_checkpoint(config.output / "best.pt").meta["val"]
    assert 0 <= val["val_map_50"] <= 1


@pytest.mark.slow
def test_an_interrupted_run_ends_as_the_uninterrupted_one(config, tmp_path):
    train_gen1.run(config)
    second = replace(config, output=tmp_path / "second")
    trainer = train_gen1.trainer_of(second)
    step = trainer.step

    def stop_at_the_third_batch(batch):
        trainer.stop.asked = trainer.batch == 2
        return step(batch)

    trainer.step = stop_at_the_third_batch
    with pytest.raises(Interrupted):
        trainer.fit()
    trainer.files.finish()
    saved = load_checkpoint(second.output / "last.pt").training
    assert saved["batch"] == 3
    assert any(value.abs().sum() > 0 for value in saved["carried"][0].values())
    train_gen1.run(second)
    whole, parts = (load_checkpoint(run.output / "last.pt").training for run in (config, second))
    assert whole["carried"] == [{}]
    for name, value in whole["weights"].items():
        assert torch.equal(value, parts["weights"][name]), name


@pytest.fixture
def network():
    return TINY


@pytest.fixture
def checkpoint(cache, tmp_path, network):
    """A network with batch norms of what it sees, that finds a lot."""
    torch.manual_seed(1)
    model, dataset = build_network(network), open_set(cache, "val")
    with torch.no_grad():
        for bn in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            bn.momentum = 1.0
            bn.weight.uniform_(0.8, 1.5)
        for cls in model.head.cls:
            cls[2].conv.bias.fill_(-2)
        model.train()(torch.stack([dataset[k].frames for k in range(4)], 1).float())
    meta = {"histogram": vars(dataset.settings), "input": "histogram"}
    save_checkpoint(tmp_path / "a.pt", model.config, model.state_dict(), meta)
    return tmp_path / "a.pt"


@both
def test_evaluation_with_state_is_what_a_stream_finds(cache, recordings, checkpoint):
    model, _ = load_model(checkpoint)
    dataset = open_set(cache, "val")
    rule, cpu = DetectConfig(0.1), torch.device("cpu")
    ours = detect_streams(model, dataset, rule, 0, cpu)
    assert not model.carry_state
    detector = Detector.load(checkpoint, every_ms=250, carry_state=True, score_threshold=0.1)
    for name in dataset.recordings:
        detector.reset()
        events = DatReader(recordings / "val" / f"{name}_td.dat").read()
        found = [*detector.feed(events), *detector.flush()]
        theirs = np.concatenate([window.boxes for window in found])
        assert theirs.tobytes() == ours[name].tobytes()
        assert len(theirs) > 20
    rested = detect(model, dataset, rule, 1, 0, cpu)
    assert rested["r0"].tobytes() != ours["r0"].tobytes()
    shares = [detect_streams(model, dataset, rule, 0, cpu, (rank, 2)) for rank in (0, 1)]
    for name, boxes in merged(shares).items():
        assert boxes.tobytes() == ours[name].tobytes()


@pytest.mark.slow
def test_the_commands_agree_bit_for_bit(cache, recordings, checkpoint, tmp_path, capsys):
    given = {"checkpoint": checkpoint, "carry_state": True}
    asked = EvalConfig(
        cache=cache, split="val", protocol="all-boxes", pictures=1, output=tmp_path / "eval",
        energy_samples=2, detect=DetectConfig(0.1), **given,
    )  # fmt: skip
    metrics = run(asked)
    assert metrics["carry_state"] is True
    assert metrics["energy"]["samples"] == 2
    detect_files(StreamConfig(
        recordings / "val", output=tmp_path / "stream", score=0.1, every_ms=250, **given
    ))  # fmt: skip
    for number in range(len(VAL)):
        ours, theirs = (
            read_boxes(next((tmp_path / kind).rglob(f"r{number}_bbox.npy")))
            for kind in ("eval", "stream")
        )
        assert ours.tobytes() == theirs.tobytes()
    rested = run(replace(asked, output=tmp_path / "rested", carry_state=False))
    assert rested["config_hash"] != metrics["config_hash"]
    assert "a.pt: has a memory, of which nothing is used without" in capsys.readouterr().err
    from_label_times = tmp_path / "labels.pt"  # as most are trained: the windows asked for count
    _, (network, weights, meta, *_) = load_model(checkpoint)
    meta = {**meta, "histogram": {**meta["histogram"], "every_us": 0, "keep": "rvt"}}
    save_checkpoint(from_label_times, network, weights, meta)
    other = run(replace(asked, checkpoint=from_label_times, output=tmp_path / "labels"))
    assert other["protocols"] == metrics["protocols"]


@pytest.mark.slow
def test_two_processes_carry_as_one(cache, tmp_path):
    """Each has rows of its own; rank 1 dies in the middle, and both go on with their states."""
    options = ["--epochs=1", "--batch_size=4", "--stream.clip=2", "--protocol=all-boxes"]
    options += ["--model.memory=spiking", "--pictures=0"]
    for processes, death, more in ((1, "", []), (2, "1:1", ["--save_every_min=0"])):
        output = tmp_path / f"run{processes}"
        done = train(cache, output, processes, death, *options, *more)
        assert done.returncode == 0, done.stderr
    assert "continuing" in done.stdout
    alone, together = (losses(tmp_path / f"run{n}") for n in (1, 2))
    assert list(alone) == list(together) == [0, 1]
    for place, items in alone.items():
        assert together[place] == pytest.approx(items, rel=1e-6, abs=1e-6)


def test_a_clip_longer_than_a_recording_is_refused(config):
    with pytest.raises(ValueError, match=r"recording r2 has 4 windows, expected at least stream"):
        train_gen1.trainer_of(replace(config, stream=ClipConfig(5)))


@pytest.mark.filterwarnings("ignore:.*labels have no sample")
def test_windows_that_overlap_or_leave_gaps_are_refused(config, recordings, tmp_path):
    for name, options, sentence in (
        ("overlap", ["--every-ms", "100"], r"recording r0: the window that ends at 100000 us "
         r"overlaps that of 200000 us.*--every-ms 250"),
        ("gap", ["--every-ms", "500"], r"recording r0: a gap between the window that ends at "
         r"500000 us and that of 1000000 us"),
    ):  # fmt: skip
        size = ["--time-steps", "2", "--downsample", "4", *options]
        cache = tmp_path / name
        assert preprocess(["--input", str(recordings), "--output", str(cache), *size]) == 0
        with pytest.raises(ValueError, match=sentence):
            train_gen1.trainer_of(replace(config, cache=cache))


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"stream": ClipConfig(2), "batch_size": 99}, "8 clips of 2 windows for 74 streams"),
    ({"model": resolve("spikeyolo-p", variant="gen1", time_steps=2, activation="relu")},
     "stream.clip was asked of activation 'relu'"),
])  # fmt: skip
def test_what_cannot_be_carried_is_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_gen1.trainer_of(replace(config, **changes))


def test_a_state_of_other_processes_starts_at_rest(config):
    trainer = train_gen1.trainer_of(config)
    stream = trainer.task.stream
    states = [{"memory.0.neuron.v": torch.ones(3, 64, 8, 8)}]
    stream.put_back(trainer.model, states, 0, 2)
    assert state_of(trainer.model) == {}
    stream.put_back(trainer.model, states, 0, 1)
    assert list(state_of(trainer.model)) == ["memory.0.neuron.v"]


def test_a_frozen_detector_finds_as_before_and_its_memory_learns(config):
    trainer = train_gen1.trainer_of(replace(config, freeze="detector"))
    randomise_batch_norms(trainer.model)  # or nothing fires
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.network.train()
    for part in trainer.frozen:
        part.eval()
    for batch in trainer.rest_of_epoch():
        trainer.step(batch)
        trainer.batch += 1  # the first has learning rate 0
    changed = {n for n, v in trainer.model.state_dict().items() if not torch.equal(v, before[n])}
    learnt = {name for name, _ in trainer.model.named_parameters() if name.startswith("memory.")}
    assert changed == learnt
    bare = replace(TINY, memory="none")
    with pytest.raises(ValueError, match="freeze is 'detector', which leaves nothing to learn"):
        train_gen1.trainer_of(replace(config, model=bare, freeze="detector"))


def test_windows_at_label_times_carry_nothing(recordings, config, tmp_path):
    size = ["--time-steps", "2", "--downsample", "4", "--output", str(tmp_path / "labels")]
    assert preprocess(["--input", str(recordings), *size]) == 0
    with pytest.raises(ValueError, match=r"windows that end at label times .*--every-ms 250"):
        train_gen1.trainer_of(replace(config, cache=tmp_path / "labels"))


@torch.no_grad()
def test_energy_of_streams_is_of_whole_recordings(cache, checkpoint, tmp_path):
    model, _ = load_model(checkpoint)
    dataset = open_set(cache, "val")
    asked = EvalConfig(checkpoint=checkpoint, cache=cache, output=tmp_path, carry_state=True)
    model.carry_state = True
    frames = energy_frames(dataset, replace(asked, energy_samples=0), torch.device("cpu"))
    found = measure_energy(model, frames)
    assert found.samples == sum(VAL)
    spikes, deployed, first = [], deploy(model), 0
    deployed.carry_state = True
    for memory in deployed.memory:
        memory.neuron.register_forward_hook(lambda _n, _x, y: spikes.append(y.sum().item()))
    for windows in VAL:
        functional.reset_net(deployed)
        for row in range(first, first + windows):
            deployed(collate([dataset[row]]).network_input())
        first += windows
    counted = sum(
        layer.ac * found.samples / deployed.get_submodule(layer.name).out_channels
        for layer in found.layers
        if layer.name.endswith(".readout")
    )
    assert counted == pytest.approx(sum(spikes), rel=1e-9)
    one = [*energy_frames(dataset, replace(asked, energy_samples=1), torch.device("cpu"))]
    assert len(one) == 1


def test_impossible_settings_are_refused(config):
    with pytest.raises(ValueError, match="clip is 2 with distill twin, expected one of them"):
        replace(config, distill="twin")
    for memory, network in (("spiking", TINY), ("gru", TWIN)):
        expected = f"memory is '{memory}' with stream.clip 1, expected 2 or more"
        with pytest.raises(ValueError, match=expected):
            replace(config, model=network, stream=ClipConfig(1))
    one = replace(TINY, memory="none", bins_per_step=2)
    with pytest.raises(ValueError, match="clip is 1 for a network of one step, expected 2 or"):
        train_gen1.trainer_of(replace(config, model=one, stream=ClipConfig(1)))
    with pytest.raises(ValueError, match="clip is -1"):
        ClipConfig(-1)
    with pytest.raises(ValueError, match="random_share is 1, expected"):
        ClipConfig(2, 1)
    with pytest.raises(ValueError, match=r"clip is 2 with energy_weight 0\.1"):
        replace(config, energy_weight=0.1)
