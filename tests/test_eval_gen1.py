"""The evaluation script: from a checkpoint to metrics.json, detections and a report."""

import html
import json
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from eval_gen1 import EvalConfig, main, run
from evaluation.provenance import config_hash
from evaluation.report import (
    f1_score,
    firing_health,
    html_page,
    page_of,
    results_table,
    sources,
)
from gen1.labels import read_boxes
from gen1.protocol import PROTOCOLS
from gen1.spec import BOX, GEN1
from models import build_model
from models.checkpoint import load_checkpoint, save_checkpoint
from models.deploy.__main__ import deploy_file
from preprocessing.cache import read_manifest
from preprocessing.geometry import Geometry, as_boxes


@pytest.fixture(scope="module")
def checkpoint(street_cache, tmp_path_factory):
    torch.manual_seed(0)
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2)
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    histogram = asdict(read_manifest(street_cache).settings)
    meta = {
        "name": "spikeyolo-p",
        "histogram": histogram,
        "input": "histogram",
        "epoch": 0,
        "seed": 0,
        "commit": "test",
    }
    save_checkpoint(path, model.config, model.state_dict(), meta)
    return path


@pytest.fixture(scope="module")
def evaluated(street_cache, checkpoint, tmp_path_factory):
    config = EvalConfig(
        checkpoint, street_cache, tmp_path_factory.mktemp("result"), energy_samples=3, pictures=2
    )
    return config, run(config)


def test_metrics_carry_their_rule(evaluated):
    config, metrics = evaluated
    assert json.loads((config.output / "metrics.json").read_text()) == json.loads(
        json.dumps(metrics)
    )
    assert set(metrics["protocols"]) == {"prophesee", "all-boxes", "rvt"}
    assert metrics["protocols"]["all-boxes"]["labels"] == 8
    assert metrics["split"] == "test"
    assert metrics["energy"]["samples"] == 3
    assert metrics["energy"]["snn_mj"] > 0
    assert len(metrics["energy"]["layers"]) == 89
    assert metrics["energy"]["assumptions"]
    assert metrics["config_hash"] == config_hash(metrics)
    assert metrics["trained"]["settings"] is None  # the checkpoint was never trained


@pytest.fixture(scope="module")
def evaluated_deployed(street_cache, checkpoint, tmp_path_factory):
    """The same network from its deployed file, its first layer priced without zeros."""
    path = tmp_path_factory.mktemp("deployed")
    deploy_file(checkpoint, path / "deployed.pt")
    config = EvalConfig(
        path / "deployed.pt", street_cache, path, energy_samples=3, pictures=1, sparse_input=True
    )
    return config, run(config)


@pytest.mark.slow
def test_a_deployed_checkpoint_scores_and_costs_what_the_trained_one_does(
    evaluated, evaluated_deployed
):
    (_, trained), (_, deployed) = evaluated, evaluated_deployed
    assert (trained["kind"], deployed["kind"]) == ("trained", "deployed")
    for name, figures in trained["protocols"].items():
        ours = deployed["protocols"][name]
        assert ours["stats"] == pytest.approx(figures["stats"], abs=1e-3)
        assert ours["detections"] == pytest.approx(figures["detections"], rel=1e-2)
    for layer, theirs in zip(
        deployed["energy"]["layers"][1:], trained["energy"]["layers"][1:], strict=True
    ):
        assert layer["name"] == theirs["name"]
        assert layer["ac"] == pytest.approx(theirs["ac"], rel=1e-2)
        assert layer["mac"] == theirs["mac"] == 0


def test_zeros_of_the_input_are_skipped_and_not_compared_with_zeros_that_are_not(
    evaluated, evaluated_deployed, capsys
):
    (dense_config, dense), (sparse_config, sparse) = evaluated, evaluated_deployed
    assert (dense["energy"]["sparse_input"], sparse["energy"]["sparse_input"]) == (False, True)
    assert 0 < sparse["energy"]["mac"] < 0.5 * dense["energy"]["mac"]
    assert "\nper inference, zeros of the input skipped\n" in results_table(sparse)
    assert "\nper inference\n" in results_table(dense)
    assert main(["--compare", str(dense_config.output), str(sparse_config.output)]) == 1
    assert "energy.sparse_input is True, that of" in capsys.readouterr().err
    assert main(["--compare", str(sparse_config.output)]) == 0
    assert "over 3 samples, zeros of the input skipped, ms on" in capsys.readouterr().out


def test_detections_are_written_for_other_evaluators(evaluated):
    config, metrics = evaluated
    files = sorted((config.output / "detections").glob("*_bbox.npy"))
    boxes = [read_boxes(file) for file in files]
    assert [file.name for file in files] == ["r0_bbox.npy", "r1_bbox.npy"]
    assert sum(map(len, boxes)) >= metrics["protocols"]["all-boxes"]["detections"] > 0
    assert all(np.all(np.diff(part["t"]) >= 0) for part in boxes)


def test_the_report_is_one_self_contained_page(evaluated):
    config, _ = evaluated
    page = (config.output / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "http" not in page.replace("https://www.w3.org", "")
    assert unbalanced_tags(page) == []
    assert len(list((config.output / "report").glob("*.png"))) == 6


def test_the_report_says_where_its_numbers_come_from(evaluated):
    config, metrics = evaluated
    page = html.unescape((config.output / "report" / "report.html").read_text())
    for protocol in PROTOCOLS.values():
        assert f"<th>protocol {protocol.name}</th><td>{protocol.in_words()}</td>" in page
        for name in ("car", "pedestrian"):
            ap, ap50 = metrics["protocols"][protocol.name]["per_class"][name]
            assert f"<td>{ap:.3f}</td><td>{ap50:.3f}</td>" in page
    rule = (
        "split test, protocol prophesee, score >= 0.001, NMS at IoU 0.7, at most 300 boxes a "
        f"frame, commit {metrics['commit']}, config {metrics['config_hash']}"
    )
    assert page.count(f"<figcaption>{rule}</figcaption>") == 6
    for text in ("window_us 250000", "max_spikes 4", "seed 0", "3 samples of the split"):
        assert text in page
    assert all(f"<li>{text}</li>" in page for text in metrics["energy"]["assumptions"])


def test_what_stands_in_a_report_is_text_not_html(evaluated):
    _, metrics = evaluated
    strange = {**metrics, "model": "<script>", "checkpoint": "a & b"}
    page = html_page(strange, {"<i>": "cG5n"}, page_of(strange, sources(strange)))
    assert "<script>" not in page
    assert "<i>" not in page
    assert "<h1>&lt;script&gt; on test</h1>" in page
    assert "<td>a &amp; b, " in page
    assert '<img alt="&lt;i&gt;" src="data:image/png;base64,cG5n">' in page
    assert html.escape(results_table(metrics)).split("\n", 1)[1] in page
    assert unbalanced_tags(page) == []


def unbalanced_tags(page):
    """Tags that are closed without having been opened last, or never closed."""
    opened, wrong = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, _attrs):
            if tag not in ("meta", "img"):
                opened.append(tag)

        def handle_endtag(self, tag):
            if not opened or opened.pop() != tag:
                wrong.append(tag)

    Reader().feed(page)
    return wrong + opened


def test_evaluations_of_the_same_recordings_are_compared(evaluated, tmp_path, capsys):
    config, metrics = evaluated
    out = tmp_path / "compared"
    runs = [str(config.output), str(config.output)]
    assert main(["--compare", *runs, "--protocol", "all-boxes", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "protocol all-boxes" in printed
    assert "protocol prophesee" in printed
    assert f"| {metrics['energy']['snn_mj']:.3f} |" in printed
    assert (out / "compare.md").read_text() == printed
    assert (out / "compare.png").stat().st_size > 0


def test_evaluations_of_other_recordings_are_not_compared(evaluated, tmp_path, capsys):
    config, metrics = evaluated
    for key, value in (("split", "val"), ("recordings_crc32", 1)):
        other = tmp_path / key
        other.mkdir()
        (other / "metrics.json").write_text(json.dumps({**metrics, key: value}))
        assert main(["--compare", str(config.output), str(other)]) == 1
        assert f"{other}: {key} is {value!r}, that of" in capsys.readouterr().err
    assert main(["--compare", str(tmp_path)]) == 1
    assert "holds no metrics.json" in capsys.readouterr().err


def test_silent_and_saturated_layers_are_named():
    layers = [
        {"name": name, "firing_rate": rate}
        for name, rate in (("a", 0.0), ("b", 0.5), ("c", 0.95), ("stem", None))
    ]
    silent, saturated = firing_health({"layers": layers})
    assert silent == "1 of 3 layers read spikes at a rate below 0.1%: a"
    assert saturated == "1 of 3 layers read spikes at a rate above 90%: c"
    layers += [{"name": name, "firing_rate": 0.0} for name in "de"]
    assert firing_health({"layers": layers}, shown=2)[0].endswith("below 0.1%: a, d and 1 more")
    assert firing_health({"layers": layers}, shown=3)[0].endswith("below 0.1%: a, d, e")


def test_f1_counts_each_label_once():
    labels, found = np.zeros(2, BOX), np.zeros(3, BOX)
    for boxes in (labels, found):
        boxes["w"] = boxes["h"] = 10
    labels["x"], found["x"] = [0, 100], [0, 1, 100]
    found["class_id"] = [0, 0, 1]  # one hit, the same label again, a wrong class
    assert f1_score(labels, found) == pytest.approx(2 / 5)
    assert f1_score(labels, found[:0]) == 0
    assert np.isnan(f1_score(labels[:0], found[:0]))


def test_boxes_return_to_sensor_pixels():
    rows = np.array([[10, 20, 30, 60, 0.5, 1]], np.float32)
    (box,) = as_boxes(rows, 123, Geometry(downsample=2))
    assert (box["t"], box["x"], box["y"], box["w"], box["h"]) == (123, 20, 40, 40, 80)
    assert (box["class_id"], box["class_confidence"]) == (1, 0.5)


def test_the_table_is_printed(checkpoint, street_cache, tmp_path, capsys):
    options = ["--energy-samples", "1", "--pictures", "1", "--output", str(tmp_path / "out")]
    assert main(["--checkpoint", str(checkpoint), "--cache", str(street_cache), *options]) == 0
    printed = capsys.readouterr().out
    for text in (
        "mAP@50:95",
        "AP@50 pedestrian",
        "prophesee",
        "ANN-equivalent",
        "split test",
        "rvt",
    ):
        assert text in printed
    assert "detections: score >= 0.001, NMS at IoU 0.7, at most 300 boxes a frame" in printed
    config = json.loads((tmp_path / "out" / "metrics.json").read_text())["config_hash"]
    assert f"config {config}\n" in printed


def test_config_hashes_ignore_the_seed_and_nothing_else(evaluated):
    _, metrics = evaluated

    def hash_of(settings, **changes):
        trained = {**metrics["trained"], "settings": settings}
        return config_hash({**metrics, "trained": trained, **changes})

    first = hash_of({"seed": 0, "epochs": 5})
    assert len(first) == 8
    assert hash_of({"seed": 1, "epochs": 5}) == first
    detect = {**metrics["detect"], "iou_threshold": 0.6}
    histogram = {**metrics["histogram"], "window_us": 1}
    network = {**metrics["network"], "decay": 0.1}
    others = [{"detect": detect}, {"histogram": histogram}, {"network": network}]
    hashes = [hash_of({"seed": 0, "epochs": 5}, **change) for change in others]
    assert len({first, hash_of({"seed": 0, "epochs": 6}), *hashes}) == 5
    assert hash_of({"seed": 0, "epochs": 5}, commit="other") == first


def refusal(capsys, checkpoint, cache, tmp_path, *options):
    capsys.readouterr()
    output = ["--output", str(tmp_path / "out")]
    code = main(["--checkpoint", str(checkpoint), "--cache", str(cache), *output, *options])
    error = capsys.readouterr().err
    assert code == 1
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    return error


def test_absent_and_foreign_checkpoints_are_refused(street_cache, tmp_path, capsys):
    assert "no such checkpoint" in refusal(capsys, tmp_path / "x.pt", street_cache, tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    error = refusal(capsys, tmp_path / "foreign.pt", street_cache, tmp_path)
    assert "expected 'spikeyolo-gen1 checkpoint" in error


def test_weights_of_another_model_are_refused(street_cache, checkpoint, tmp_path, capsys):
    saved = load_checkpoint(checkpoint)
    wider = replace(saved.config, width=0.25)
    save_checkpoint(tmp_path / "mixed.pt", wider, saved.weights, saved.meta)
    error = refusal(capsys, tmp_path / "mixed.pt", street_cache, tmp_path)
    assert "weights of another model: down1.conv.weight: (16, 2, 7, 7), not (32, 2, 7, 7)" in error


def test_a_cache_of_other_settings_is_refused(street_cache, checkpoint, tmp_path, capsys):
    saved = load_checkpoint(checkpoint)
    histogram = {**saved.meta["histogram"], "window_us": 100_000}
    save_checkpoint(
        tmp_path / "w.pt", saved.config, saved.weights, {**saved.meta, "histogram": histogram}
    )
    error = refusal(capsys, tmp_path / "w.pt", street_cache, tmp_path)
    assert "window_us" in error


def checkpoint_for(cache, checkpoint, path):
    """The network as if trained on a cache made as this one."""
    saved = load_checkpoint(checkpoint)
    meta = {**saved.meta, "histogram": asdict(read_manifest(cache).settings)}
    save_checkpoint(path, saved.config, saved.weights, meta)
    return path


@pytest.mark.filterwarnings("ignore:.*2 of 8 labels have no sample")
@pytest.mark.slow
def test_a_protocol_whose_samples_were_not_kept_is_left_out(
    relabelled, checkpoint, tmp_path, capsys
):
    cache = relabelled({}, "--keep", "prophesee")
    kept = checkpoint_for(cache, checkpoint, tmp_path / "kept.pt")
    why = "2 of 8 label times that count have no sample (samples at label times, keep: prophesee)"
    error = refusal(capsys, kept, cache, tmp_path, "--protocol", "all-boxes")
    assert f"split test: protocol all-boxes cannot be scored, {why}: expected protocol" in error
    assert not (tmp_path / "out").exists()
    options = ["--energy-samples", "1", "--pictures", "1", "--output", str(tmp_path / "out")]
    assert main(["--checkpoint", str(kept), "--cache", str(cache), *options]) == 0
    printed = capsys.readouterr().out
    assert "prophesee           rvt\n" in printed
    assert f"\n  without all-boxes: {why}\n" in printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (list(metrics["protocols"]), metrics["left_out"]) == (
        ["prophesee", "rvt"],
        {"all-boxes": why},
    )
    page = html.unescape((tmp_path / "out" / "report" / "report.html").read_text())
    assert f"<th>without all-boxes</th><td>{why}</td>" in page


def make_small(boxes):
    boxes["w"] = boxes["h"] = 12
    boxes["class_confidence"] = np.nan  # which nobody looks at


@pytest.mark.slow
def test_labels_that_do_not_count_leave_the_other_protocols_alone(
    relabelled, checkpoint, tmp_path, capsys
):
    cache = relabelled({"test": make_small})
    small = checkpoint_for(cache, checkpoint, tmp_path / "small.pt")
    error = refusal(capsys, small, cache, tmp_path)
    assert (
        "protocol prophesee cannot be scored, none of 8 labels counts: expected protocol all-b"
        in error
    )
    options = {"output": tmp_path / "out", "energy_samples": 1, "pictures": 1}
    metrics = run(EvalConfig(small, cache, protocol="all-boxes", **options))
    assert list(metrics["protocols"]) == ["all-boxes"]
    assert metrics["protocols"]["all-boxes"]["labels"] == 8


@pytest.mark.parametrize("taken", ["", "out", "out/detections", "out/report"])
def test_the_output_is_looked_at_before_the_work(
    street_cache, checkpoint, tmp_path, capsys, monkeypatch, taken
):
    monkeypatch.setattr("evaluation.metrics.detect", None)
    if taken:
        (tmp_path / taken).parent.mkdir(exist_ok=True)
        (tmp_path / taken).touch()
    else:
        (tmp_path / "out" / "metrics.json").mkdir(parents=True)
    error = refusal(capsys, checkpoint, street_cache, tmp_path)
    assert "cannot be made (" in error or "metrics.json: is a directory" in error


def test_other_classes_are_refused_before_the_work(
    relabelled, checkpoint, tmp_path, capsys, monkeypatch
):
    def add_bus(boxes):
        boxes["class_id"][2] = 2

    monkeypatch.setattr("evaluation.metrics.detect", None)
    mine = tmp_path / "mine.yaml"
    settings = GEN1.as_dict() | {"classes": [*GEN1.classes, "bus"], "label_ids": []}
    mine.write_text(json.dumps(settings))
    cache = relabelled({"test": add_bus}, "--dataset", str(mine))
    other = checkpoint_for(cache, checkpoint, tmp_path / "other.pt")
    error = refusal(capsys, other, cache, tmp_path)
    assert f"{cache}: cache of classes car, pedestrian, bus, expected car, pedestrian" in error


@pytest.mark.parametrize(
    ("option", "given", "known"),
    [("--split", "holiday", "'test', 'val', 'train'"), ("--protocol", "mine", "'prophesee', 'all")],
)
def test_an_unknown_split_or_protocol_is_refused(
    street_cache, checkpoint, tmp_path, capsys, option, given, known
):
    command = ["--checkpoint", str(checkpoint), "--cache", str(street_cache), option, given]
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert given in error
    assert known in error
