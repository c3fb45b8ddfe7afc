import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen1.labels import clip_boxes, read_boxes, write_boxes
from gen1.spec import BOX


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
        (np.array([(0, np.nan, 0, 1, 1, 0, 1, 0)], BOX), "non-finite"),
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
