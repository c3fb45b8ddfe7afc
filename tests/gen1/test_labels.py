import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen1.labels import (
    LAYOUTS,
    as_boxes,
    clip_boxes,
    read_boxes,
    refuse_foreign_times,
    refuse_unknown_classes,
    write_boxes,
)
from gen1.spec import BOX, GEN1


@pytest.fixture
def boxes():
    rows = [(249999, -5.5, 1, 20, 30, 0, 1, 7), (499999, 290, 230, 40, 50, 1, 0.25, 8)]
    return np.array(rows, BOX)


@pytest.mark.parametrize(("layout", "bytes_per_box"), [("gen1", 33), ("1mpx", 40)])
def test_both_layouts_read_back(tmp_path, boxes, layout, bytes_per_box):
    path = tmp_path / "a_bbox.npy"
    write_boxes(path, boxes, layout)
    stored = np.load(path, allow_pickle=False)
    assert stored.dtype.itemsize == bytes_per_box
    assert ("ts" in stored.dtype.names) == (layout == "gen1")
    assert read_boxes(path).dtype == BOX
    np.testing.assert_array_equal(read_boxes(path), boxes)
    assert [file.name for file in tmp_path.iterdir()] == ["a_bbox.npy"]


@pytest.mark.parametrize("key", ["main|gt0", "main|dt0"])
def test_files_of_the_public_tools_map_by_name(golden, tmp_path, key):
    stored = golden("gen1/fx_eval.npz")[key]
    np.save(tmp_path / "a_bbox.npy", stored)
    boxes = read_boxes(tmp_path / "a_bbox.npy")
    old = "ts" in stored.dtype.names
    np.testing.assert_array_equal(boxes["t"], stored["ts" if old else "t"])
    confidence = stored["confidence" if old else "class_confidence"]
    np.testing.assert_array_equal(boxes["class_confidence"], confidence)
    for name in ("x", "y", "w", "h", "class_id", "track_id"):
        np.testing.assert_array_equal(boxes[name], stored[name])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not a readable .npy"),
        (b"not numpy at all", "not a readable .npy"),
        (np.zeros((3, 5)), "without a column of t"),
        (np.zeros(3, [("ts", "u8"), ("x", "f4")]), "without a column of y"),
        (np.zeros((2, 2), BOX), "without a column of t"),
        (np.array([{}]), "not a readable .npy"),
        (np.array([(0, np.nan, 0, 1, 1, 0, 1, 0)], BOX), "row 0: x is nan, expected pixels"),
    ],
)
def test_foreign_content_is_refused_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "a_bbox.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"a_bbox\.npy: .*expected") as error:
        read_boxes(path)
    assert sentence in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.npy: no such file"):
        read_boxes(tmp_path / "gone.npy")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=5))
def test_damaged_file_gives_a_value_error_or_boxes(tmp_path_factory, position, patch):
    path = tmp_path_factory.mktemp("fuzz") / "a_bbox.npy"
    write_boxes(path, np.ones(2, BOX))
    content = path.read_bytes()
    path.write_bytes(content[:position] + patch + content[position + len(patch) :])
    try:
        boxes = read_boxes(path)
    except ValueError as error:
        assert "a_bbox.npy" in str(error)
        return
    assert boxes.dtype == BOX


@pytest.mark.parametrize(
    ("field", "value", "layout", "sentence"),
    [
        ("class_id", 256, "gen1", "a class_id does not fit uint8"),
        ("t", -1, "gen1", "label at -1 us"),
        ("t", 0, "new", "layout 'new', expected one of gen1, 1mpx"),
    ],
)
def test_what_a_layout_cannot_hold_is_not_written(tmp_path, boxes, field, value, layout, sentence):
    boxes[field][0] = value
    with pytest.raises(ValueError, match=sentence):
        write_boxes(tmp_path / "a_bbox.npy", boxes, layout)
    assert not list(tmp_path.iterdir())


def stored_with(name, kind, value, layout="gen1"):
    """Three boxes of a layout, one field of another kind, its value in row 2."""
    base = LAYOUTS[layout]
    fields = [(n, kind if n == name else base[n]) for n in base.names]
    stored = np.zeros(3, fields)
    stored[name][2] = value
    return stored


@pytest.mark.parametrize(
    ("name", "kind", "value", "layout"),
    [
        ("class_id", "<f4", np.nan, "gen1"),
        ("class_id", "<f4", 0.99999, "gen1"),
        ("class_id", "<f8", -np.inf, "1mpx"),
        ("class_id", "<i4", -1, "gen1"),
        ("class_id", ">i8", 2**32, "1mpx"),
        ("class_id", "<u8", 2**64 - 1, "1mpx"),
        ("t", "<f8", np.nan, "1mpx"),
        ("t", "<f8", 0.499999, "1mpx"),
        ("t", "<f8", 2.0**63, "1mpx"),
        ("t", "<f4", np.inf, "1mpx"),
        ("ts", "<f8", -0.5, "gen1"),
        ("ts", "<u8", 2**63 + 5, "gen1"),
        ("x", "<f8", 1e39, "gen1"),  # infinite as a float32
        ("y", "<f4", -np.inf, "1mpx"),
        ("w", "<f2", np.nan, "gen1"),
        ("h", "<f8", np.nan, "1mpx"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_value_that_the_cast_would_change_is_named(tmp_path, name, kind, value, layout):
    stored = stored_with(name, kind, value, layout)
    np.save(tmp_path / "a_bbox.npy", stored)
    with pytest.raises(ValueError, match=rf"a_bbox\.npy: row 2: {name} is .*, expected ") as error:
        read_boxes(tmp_path / "a_bbox.npy")
    assert f"is {stored[name][2]}, " in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("class_id", "<f8", 1.0),
        ("t", "<f8", 249_999.0),
        ("t", ">i4", -1),
        ("x", "<f8", -20.1),
        ("w", "<i2", -3),
        ("class_confidence", "<f8", np.nan),
        ("class_confidence", "U5", "high"),
        ("track_id", "<f4", np.nan),
        ("track_id", "<i8", -1),
    ],
)
@pytest.mark.filterwarnings("error")
def test_other_kinds_of_number_are_read_and_what_nothing_needs_is_not_looked_at(name, kind, value):
    boxes = as_boxes(stored_with(name, kind, value, "1mpx"))
    if name not in ("class_confidence", "track_id"):
        assert boxes[name][2] == np.float32(value)
    needed = np.zeros(3, [(n, "<f4") for n in ("t", *"xywh", "class_id")])
    assert as_boxes(needed)["t"].tolist() == [0, 0, 0]


def test_a_class_without_a_name_is_told_by_row():
    boxes = np.zeros(4, BOX)
    refuse_unknown_classes(boxes, "a.npy", GEN1.classes)
    boxes["class_id"][2:] = 7, 9
    with pytest.raises(ValueError, match=r"a.npy: row 2: class_id is 7, expected 0 \(car\) or"):
        refuse_unknown_classes(boxes, "a.npy", GEN1.classes)


MINUTE_US = 250_000 * np.arange(1, 241) - 1


@pytest.mark.parametrize(
    ("times_us", "first_us", "suspicion"),
    [
        (MINUTE_US // 1000, 0, "; the times look like milliseconds"),
        (MINUTE_US[3:5] // 1000, 0, "; the times look like milliseconds"),
        (MINUTE_US // 1_000_000, 0, "; the times look like seconds"),
        (MINUTE_US * 1000, 0, "; the times look like nanoseconds"),
        ((MINUTE_US + 5 * 10**9) // 1000, 5 * 10**9, "; the times look like milliseconds"),
        (MINUTE_US, 5 * 10**9, "; the times seem to count from its start"),
        (MINUTE_US + 10**9, 0, ""),
        (-MINUTE_US, 0, ""),
        ([60_250_001, 60_500_000], 0, ""),
    ],
)
def test_times_that_cannot_be_those_of_the_recording_are_refused(times_us, first_us, suspicion):
    boxes = np.zeros(len(times_us), BOX)
    boxes["t"] = times_us
    with pytest.raises(ValueError, match=r"^a\.npy: all labels") as error:
        refuse_foreign_times(boxes, "a.npy", first_us, first_us + 60_000_000, 250_000)
    assert str(error.value) == (
        f"a.npy: all labels lie between {min(times_us)} and {max(times_us)} us, expected labels "
        f"of a recording from {first_us} to {first_us + 60_000_000} us{suspicion}"
    )


@pytest.mark.parametrize(
    ("times_us", "first_us"),
    [
        (MINUTE_US, 0),
        ([], 0),
        ([0], 0),
        ([249_999], 0),
        ([17_000], 0),  # earlier than a whole window
        ([60_249_999], 0),  # after the last event, which is still in its window
        ([-5, 30_000_000, 90_000_000], 0),  # only some lie outside
        (MINUTE_US + 2**33, 2**33),
    ],
)
def test_times_that_can_be_those_of_the_recording_are_not(times_us, first_us):
    boxes = np.zeros(len(times_us), BOX)
    boxes["t"] = times_us
    refuse_foreign_times(boxes, "a.npy", first_us, first_us + 60_000_000, 250_000)


def test_clipping_moves_corners(boxes):
    before = boxes.copy()
    clipped = clip_boxes(boxes, 240, 304)
    assert clipped[["x", "y", "w", "h"]].tolist() == [(0, 1, 14.5, 30), (290, 230, 14, 10)]
    np.testing.assert_array_equal(boxes, before)


def test_clipping_equals_the_public_tool(golden):
    """RVT clips to the last pixel instead of the frame's edge, then drops empty boxes."""
    figures = golden("gen1/fx_boxfilter.npz")
    wanted = figures["rvt_crop_to_fov"]
    clipped = clip_boxes(figures["boxes"], 239, 303)
    clipped = clipped[(clipped["w"] > 0) & (clipped["h"] > 0)]
    np.testing.assert_array_equal(clipped["track_id"], wanted["track_id"])
    for name in "xywh":
        np.testing.assert_allclose(clipped[name], wanted[name], atol=1e-4)
