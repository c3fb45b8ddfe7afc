"""Directories are made before work begins, or refused in a sentence."""

import os

import pytest

from gen1.atomic import make_writable


def test_directories_are_made_or_refused(tmp_path, monkeypatch):
    make_writable(tmp_path / "a" / "b")
    make_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"cannot be made \(.*\), expected a directory"):
            make_writable(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="cannot be written to"):
        make_writable(tmp_path / "a")
