"""Evaluations side by side: what is one row, what is a column, what is refused."""

import copy
import json

import numpy as np
import pytest

from eval_gen1 import main
from evaluation.compare import (
    accuracy_over_energy,
    comparison_table,
    runs_in_words,
    spread,
    stationary_table,
)
from evaluation.provenance import config_hash
from evaluation.rows import group_by_seed, names_of, refuse_unequal, varied_settings


def evaluation(seed=0, activation="ilif", ap=0.2, mj=1.0, settings=None, **changes):
    """What eval_gen1.py writes, as far as a comparison reads it; changes: section__key=value."""
    metrics = {
        "model": "spikeyolo-p",
        "split": "test",
        "recordings_crc32": 1,
        "detect": {"score_threshold": 0.001, "iou_threshold": 0.7, "max_detections": 300},
        "network": {"time_steps": 2, "max_spikes": 4, "activation": activation, "width": 0.125},
        "histogram": {"window_us": 250_000, "time_steps": 2, "downsample": 2, "keep": ""},
        "input": "histogram",
        "protocols": {
            "prophesee": {"stats": [ap, 2 * ap]},
            "all-boxes": {"stats": [ap / 2, ap]},
        },
        "energy": {
            "time_steps": 2,
            "max_spikes": 4,
            "samples": 128,
            "mac": 1e8,
            "ac": 5e8 * mj,
            "firing_rate": float("nan") if activation == "relu" else 0.1 * mj,
            "snn_mj": mj,
            "ratio": 4 / mj,
            "snn_mj_with_memory": 20 * mj,
        },
        "parameters": 1_750_000,
        "latency_ms": 30.0,
        "device": "cpu",
        "commit": "abc",
        "trained": {"seed": seed, "commit": "def", "settings": settings},
    }
    for place, value in changes.items():
        section, _, key = place.partition("__")
        metrics[section] = {**metrics[section], key: value} if key else value
    return {**metrics, "config_hash": config_hash(metrics)}


def body_of(table):
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_runs_that_differ_only_in_the_seed_are_one_row():
    runs = {f"a{seed}": evaluation(seed, ap=0.2 + 0.1 * seed, mj=1 + seed) for seed in range(3)}
    runs |= {f"r{seed}": evaluation(seed, "relu", ap=0.5) for seed in range(2)}
    rows = group_by_seed(runs)
    assert [list(row.runs) for row in rows] == [["a0", "a1", "a2"], ["r0", "r1"]]
    ilif, relu = body_of(comparison_table(rows, "prophesee"))
    assert (ilif["model"], ilif["seeds"], ilif["T"], ilif["D"]) == (
        "spikeyolo-p ilif", "0, 1, 2", "2", "4",
    )  # fmt: skip
    assert ilif["mAP@50:95"] == "0.300 ± 0.100"
    assert ilif["mAP@50"] == "0.600 ± 0.200"
    assert ilif["mJ"] == "2.000 ± 1.000"
    assert ilif["GAC"] == "1.000 ± 0.500"
    assert ilif["firing"] == "0.200 ± 0.100"
    assert ilif["ANN / this"] == f"{4 * (1 + 1 / 2 + 1 / 3) / 3:.2f} ± 1.39"
    assert (ilif["parameters"], ilif["GMAC"]) == ("1.75 M", "0.100")
    assert (relu["firing"], relu["mJ"]) == ("-", "1.000 ± 0.000")
    assert ilif["config"] == runs["a2"]["config_hash"] != relu["config"]
    (other, _) = body_of(comparison_table(rows, "all-boxes"))
    assert other["mAP@50:95"] == "0.150 ± 0.050"
    assert "a0 (seed 0), a1 (seed 1), a2 (seed 2)" in runs_in_words(rows)


def test_what_stands_still_has_a_table_of_its_own(tmp_path, capsys):
    def run(seed, activation, moving, still):
        subsets = {"moving": moving, "still > 2 s": still}
        split = {name: {"prophesee": {"map_50_95": ap}} for name, ap in subsets.items()}
        changes = {"histogram__every_us": 250_000, "stationary": split}
        return evaluation(seed, activation, mj=1 + seed, **changes)

    runs = {
        "a": run(0, "ilif", 0.5, 0.1),
        "b": run(1, "ilif", 0.6, 0.2),
        "c": run(0, "relu", 0.7, -1),
    }
    ours, twin = body_of(stationary_table(group_by_seed(runs), "prophesee"))
    assert ours == {
        "mAP@50:95 of labels": "spikeyolo-p ilif",
        "moving": "0.550 ± 0.071",
        "still > 2 s": "0.150 ± 0.071",
        "mJ / s": "6.000 ± 2.828",
    }
    assert (twin["moving"], twin["still > 2 s"], twin["mJ / s"]) == ("0.700", "-", "4.000")
    assert stationary_table(group_by_seed({**runs, "d": evaluation(5)}), "prophesee") == ""
    for name, metrics in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    assert main(["--compare", *(str(tmp_path / name) for name in runs)]) == 0
    assert "| spikeyolo-p ilif | 0.550 ± 0.071 | 0.150 ± 0.071 | 6.000" in capsys.readouterr().out


def test_runs_begun_with_a_network_of_their_own_seed_are_one_row():
    def run(seed, twin="pair/twin"):
        settings = {"seed": seed, "init": f"pair/start/{seed}", "distill": f"{twin}/{seed}"}
        return evaluation(seed, settings=settings)

    runs = {"a": run(0), "b": run(1), "c": run(2, twin="other")}
    assert [[*row.runs] for row in group_by_seed(runs)] == [["a", "b"], ["c"]]


def test_a_run_from_before_a_setting_was_trained_with_its_first_value():
    now = {"freeze": "nothing", "energy_weight": 0.0, "init": None, "distill": None}
    now |= {"distill_weight": 1.0, "optim": {"lr": 0.1, "backbone_lr": 1.0}}
    runs = {
        "old": evaluation(settings={"optim": {"lr": 0.2}}),
        "new": evaluation(settings=now, network__bins_per_step=1, network__backbone="meta"),
    }
    assert varied_settings(group_by_seed(runs)) == {"training.optim.lr": ["0.2", "0.1"]}


def test_parts_that_only_one_family_of_models_has_are_no_columns():
    ours, theirs = {"gains": {"box": 7.5, "dfl": 1.5}}, {"gains": {"box": 0.05, "obj": 1}}
    runs = {
        "a": evaluation(settings=ours),
        "b": evaluation(settings=theirs, model="ems-res10", network__layout="ee"),
    }
    assert varied_settings(group_by_seed(runs)) == {"training.gains.box": ["7.5", "0.05"]}


def test_a_single_run_has_no_spread():
    (row,) = body_of(comparison_table(group_by_seed({"a": evaluation()}), "prophesee"))
    assert (row["mAP@50:95"], row["mJ"], row["seeds"]) == ("0.200", "1.000", "0")
    assert spread(np.array([-1.0, -1.0]), 3, missing_below=0) == "-"


@pytest.mark.parametrize(
    "change",
    [
        {"histogram__window_us": 50_000},
        {"network__max_spikes": 2},
        {"model": "spikeyolo-n"},
        {"input": "ternary"},
        {"settings": {"seed": 1, "epochs": 9}},
        {"seed": 0},  # the same seed twice: something else must differ
        {"seed": None},
    ],
)
def test_runs_that_differ_in_more_than_the_seed_stay_apart(change):
    settings = {"seed": 0, "epochs": 5}
    other = evaluation(**{"seed": 1, "settings": {"seed": 1, "epochs": 5}, **change})
    rows = group_by_seed({"a": evaluation(0, settings=settings), "b": other})
    assert [list(row.runs) for row in rows] == [["a"], ["b"]]


def test_unknown_training_joins_the_only_kind_there_is():
    kinds = [{"seed": 0, "epochs": 5}, {"seed": 1, "epochs": 5}, None]
    runs = {str(seed): evaluation(seed, settings=kind) for seed, kind in enumerate(kinds)}
    (row,) = group_by_seed(runs)
    assert row.hashes.count(",") == 1
    runs["3"] = evaluation(3, settings={"seed": 3, "epochs": 9})
    assert [list(row.runs) for row in group_by_seed(runs)] == [["0", "1"], ["2"], ["3"]]


def test_settings_that_differ_are_columns():
    settings = {"seed": 0, "optim": {"lr": 0.1}, "model": {"activation": "ilif"}}
    slow = {"seed": 0, "optim": {"lr": 0.2}, "model": {"activation": "ilif"}}
    rows = group_by_seed(
        {
            "a": evaluation(settings=settings),
            "b": evaluation(settings=settings, histogram__window_us=50_000),
            "c": evaluation(settings=slow, histogram__downsample=1),
        }
    )
    body = body_of(comparison_table(rows, "prophesee"))
    assert [row["histogram.window_us"] for row in body] == ["250000", "50000", "250000"]
    assert [row["histogram.downsample"] for row in body] == ["2", "2", "1"]
    assert [row["training.optim.lr"] for row in body] == ["0.1", "0.1", "0.2"]
    assert set(varied_settings(rows)) == {
        "histogram.window_us", "histogram.downsample", "training.optim.lr",
    }  # fmt: skip
    assert {row["model"] for row in body} == {"spikeyolo-p ilif"}
    assert len(set(names_of(rows))) == 3


def test_names_say_as_much_as_is_needed():
    runs = {"x/a": evaluation(), "x/b": evaluation(activation="relu")}
    assert names_of(group_by_seed(runs)) == ["spikeyolo-p ilif", "spikeyolo-p relu"]
    runs["x/c"] = evaluation(energy__time_steps=4, network__time_steps=4)
    assert names_of(group_by_seed(runs)) == [
        "spikeyolo-p ilif 2x4", "spikeyolo-p relu", "spikeyolo-p ilif 4x4",
    ]  # fmt: skip
    twice = {"x/a": evaluation(), "x/b": evaluation()}
    assert names_of(group_by_seed(twice)) == ["spikeyolo-p ilif (x/a)", "spikeyolo-p ilif (x/b)"]
    body = body_of(comparison_table(group_by_seed(twice), "prophesee"))
    assert [row["model"] for row in body] == names_of(group_by_seed(twice))


def test_a_name_has_the_fewest_settings_that_tell_it():
    def run(weight, epochs, init):
        return evaluation(settings={"energy_weight": weight, "epochs": epochs, "init": init})

    runs = {
        "a": run(0.0, 7, "s"),
        "b": run(1.0, 7, "s"),
        "c": run(3.0, 7, "s"),
        "d": run(0.0, 5, None),
    }
    assert [name.partition("2x4 ")[2] for name in names_of(group_by_seed(runs))] == [
        "energy_weight 0.0, init s", "energy_weight 1.0", "energy_weight 3.0", "init None",
    ]  # fmt: skip


def test_a_comparison_says_its_rule():
    runs = {"a": evaluation(0), "b": evaluation(1, commit="xyz")}
    first, second = comparison_table(group_by_seed(runs), "all-boxes").splitlines()[:2]
    assert first == (
        "split test, protocol all-boxes, score >= 0.001, NMS at IoU 0.7, at most 300 boxes a "
        "frame, evaluated at commit abc, xyz, trained at commit def"
    )
    assert second == (
        "mean ± sample standard deviation over seeds; "
        "energy per inference over 128 samples, ms on cpu"
    )
    title = accuracy_over_energy(group_by_seed(runs), "all-boxes").axes[0].get_title()
    assert title.replace("\n", " ") == f"{first} {second}"


def test_the_picture_shows_means_errors_and_single_runs():
    runs = {f"a{seed}": evaluation(seed, ap=0.2 + 0.1 * seed, mj=1 + seed) for seed in range(3)}
    runs["r"] = evaluation(activation="relu", ap=0.5, mj=3)
    (axes,) = accuracy_over_energy(group_by_seed(runs), "prophesee").axes
    (faint,) = [c for c in axes.collections if c.get_alpha()]
    np.testing.assert_allclose(faint.get_offsets(), [[1, 0.2], [2, 0.3], [3, 0.4]])
    points, lone = axes.containers
    assert np.ravel(points[0].get_xydata()).tolist() == pytest.approx([2, 0.3])
    spans = [bar.get_segments()[0] for bar in points[2]]
    np.testing.assert_allclose(spans[0], [[1, 0.3], [3, 0.3]])
    np.testing.assert_allclose(spans[1], [[2, 0.2], [2, 0.4]])
    assert lone[2] == ()
    assert [text.get_text() for text in axes.texts] == ["spikeyolo-p ilif", "spikeyolo-p relu"]


def test_labels_of_the_picture_do_not_cover_each_other():
    runs = {
        f"{activation}{i}": evaluation(activation=activation, model=f"spikeyolo-{size}", mj=2.0)
        for i, size in enumerate("pn")
        for activation in ("ilif", "lif", "qann", "relu")
    }
    figure = accuracy_over_energy(group_by_seed(runs), "prophesee")
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 8
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # itself
    assert all(box.x0 >= axes.bbox.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split": "val"}, "b: split is 'val', that of a is 'test'"),
        ({"recordings_crc32": 2}, "b: recordings_crc32 is 2, that of a is 1"),
        ({"detect__iou_threshold": 0.5}, "b: detect is"),
        ({"histogram__keep": "rvt"}, "b: histogram.keep is 'rvt', that of a is 'everything'"),
        ({"histogram__every_us": 9}, "b: histogram.every_us is 9, that of a is 0"),
        (
            {"protocols": {"all-boxes": {}}},
            "b: scored under all-boxes, not under prophesee, evaluate it again",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        refuse_unequal({"a": evaluation(0), "b": evaluation(1, **change)}, "prophesee")


def test_other_bins_of_the_same_recordings_are_compared():
    other = evaluation(histogram__window_us=50_000, histogram__time_steps=1)
    refuse_unequal({"a": evaluation(), "b": other}, "prophesee")


def test_evaluations_of_an_older_version_still_compare(tmp_path, capsys):
    """One without the settings of its training, one not scored under rvt."""
    old = evaluation(0)
    del old["config_hash"], old["trained"]["settings"]
    new = copy.deepcopy(evaluation(1, settings={"seed": 1}))
    new["protocols"]["rvt"] = {"stats": [0.1, 0.2]}
    for name, metrics in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    paths = [str(tmp_path / "old"), str(tmp_path / "new")]
    assert main(["--compare", *paths]) == 0
    printed = capsys.readouterr().out
    assert "protocol prophesee" in printed
    assert "protocol rvt" not in printed
    assert f"{config_hash(old)}, {new['config_hash']} |" in printed
    assert main(["--compare", *paths, "--protocol", "rvt"]) == 1
    assert "old: scored under prophesee, all-boxes, not under rvt" in capsys.readouterr().err
