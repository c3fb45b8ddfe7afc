"""What is odd about a recording is told in sentences."""

import numpy as np

from gen1.dat import DatReader, write_dat
from gen1.spec import EVENT
from preprocessing.histogram import HistogramSettings
from streaming.recorded import oddities

SETTINGS = HistogramSettings()


def test_a_plain_recording_has_no_oddities(tmp_path):
    events = np.array([(10, 1, 2, 0), (300_000, 3, 4, 1)], EVENT)
    write_dat(tmp_path / "a_td.dat", events, 240, 304)
    assert list(oddities(DatReader(tmp_path / "a_td.dat"), SETTINGS, SETTINGS)) == []


def test_wraps_and_events_out_of_frame_are_told(tmp_path):
    path = tmp_path / "a_td.dat"
    events = np.array([(2**32 - 300_000, 1, 2, 0), (5, 150, 4, 1), (10, 3, 4, 1)], EVENT)
    write_dat(path, events, 240, 304)
    path.write_bytes(path.read_bytes().replace(b"% Width 304", b"% Width 100"))
    told = list(oddities(DatReader(path), HistogramSettings(width=100), SETTINGS))
    assert told[:2] == [
        "its clock wrapped around 1 times, time goes on",
        "1 events beyond its sensor are not looked at",
    ]
    assert told[2].startswith("its sensor has 240x100 px, that of the training 240x304")
    assert len(told) == 3
