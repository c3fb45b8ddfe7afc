"""No recording may be learnt from and scored on."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocessing.cache import open_cache, read_header

#: Gen1 names a recording by its date and time: one name is one recording.
DATED = re.compile(r"\d\d-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_\d+")


def refuse_leaks(splits: Mapping[str, Mapping[str, str]]) -> None:
    """ValueError for a recording of train that is in another split too.

    splits: {split: {recording: hash of its events}}. The same events are the same recording
    whatever their names, and so is the same dated name whatever its bytes.
    """
    train = splits["train"]
    by_hash = {content: name for name, content in train.items()}
    for split in splits.keys() - {"train"}:
        for name, content in splits[split].items():
            if content in by_hash:
                raise ValueError(
                    f"{split}/{name} has the events of train/{by_hash[content]}: "
                    f"expected no recording in two splits"
                )
            if name in train and DATED.search(name):
                raise ValueError(f"{split}/{name} is in train too, expected it in one split only")


def event_hashes(cache: Path, recordings: dict[str, Any]) -> dict[str, dict[str, str]]:
    """{split: {recording: hash of its events}} of a whole cache, from its files' headers."""
    hashes: dict[str, dict[str, str]] = {}
    for split, names in recordings.items():
        hashes[split] = {}
        for name in names:
            with open_cache(cache / split / f"{name}.h5") as file:
                hashes[split][name] = read_header(file).sources[0].content_sha256
    return hashes
