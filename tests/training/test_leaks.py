"""No recording is learnt from and scored on."""

import shutil

import pytest

from preprocessing.__main__ import main as preprocess
from preprocessing.cache import read_manifest
from training.detection import event_hashes, refuse_leaks

DATED = "17-03-30_12-53-58_1037500000_1097500000"


def test_splits_of_their_own_pass():
    refuse_leaks({"train": {"a": "1", DATED: "2"}, "val": {"a": "3"}, "test": {"b": "4"}})


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_same_events_under_another_name_are_refused(split):
    with pytest.raises(ValueError, match=rf"{split}/b has the events of train/a: expected no"):
        refuse_leaks({"train": {"a": "1"}, split: {"b": "1"}})


def test_the_same_dated_name_is_refused_whatever_its_bytes():
    with pytest.raises(ValueError, match=rf"val/{DATED} is in train too"):
        refuse_leaks({"train": {DATED: "1"}, "val": {DATED: "2"}})


def test_a_copied_recording_is_found_in_a_real_cache(street_cache, tmp_path):
    recordings, cache = tmp_path / "recordings", tmp_path / "cache"
    shutil.copytree(street_cache.parent / "recordings", recordings)
    for kind in ("td.dat", "bbox.npy"):
        shutil.copy(recordings / "val" / f"r0_{kind}", recordings / "train" / f"copy_{kind}")
    assert preprocess(["--input", str(recordings), "--output", str(cache), "--time-steps=2"]) == 0
    with pytest.raises(ValueError, match="val/r0 has the events of train/copy"):
        refuse_leaks(event_hashes(cache, read_manifest(cache).recordings))
