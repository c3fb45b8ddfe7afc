"""Pictures of a recording: the right events and boxes at the right pixels."""

import numpy as np
import pytest
from PIL import ImageColor

from evaluation.pictures import (
    CLASS_COLOURS,
    LABEL_COLOUR,
    FramePainter,
    class_colour,
    event_colours,
    event_picture,
    near,
    palette,
    place_names,
)
from gen1.spec import BOX, EVENT, GEN1

CAR, PEDESTRIAN = (ImageColor.getrgb(colour) for colour in CLASS_COLOURS[:2])
LABEL = ImageColor.getrgb(LABEL_COLOUR)
TIMES_S = np.array([0.05, 0.1, 0.15])


def boxes_of(*rows):
    boxes = np.zeros(len(rows), BOX)
    for box, (x, y, w, h, class_id, score) in zip(boxes, rows, strict=True):
        box["x"], box["y"], box["w"], box["h"] = x, y, w, h
        box["class_id"], box["class_confidence"] = class_id, score
    return boxes


def paint(painter, detections=(), labels=(), t_us=100_000, events=()):
    return painter.paint(
        t_us, np.array(list(events), EVENT), boxes_of(*detections), boxes_of(*labels)
    )


@pytest.fixture(scope="module")
def painter():
    rates = np.array([1e5, 2e5, 1.5e5])
    return FramePainter(
        "street", GEN1.classes, (120, 152), TIMES_S, rates, rates * 1e-6, picture_height=480
    )


def picture(painter, frame):
    """The enlarged sensor within a frame."""
    height, width = (side * painter.scale for side in painter.sensor_hw)
    return frame[painter.top : painter.top + height, :width]


def is_colour(image, rgb):
    return (image == rgb).all(-1)


def test_pixels_take_the_colour_of_their_events():
    events = [(0, 1, 2, 0), (0, 3, 4, 1), (1, 3, 4, 1), (2, 5, 5, 0), (2, 5, 5, 1), (3, 9, 0, 1)]
    image = event_picture(np.array(events, EVENT), (6, 8))  # the last lies out of frame
    colours = event_colours()
    expected = np.full((6, 8, 3), 255)
    expected[2, 1], expected[4, 3], expected[5, 5] = colours[0, 1], colours[2, 2], colours[1, 2]
    np.testing.assert_array_equal(image, expected)
    assert colours[0, 3, 2] > colours[0, 3, 0]  # OFF is blue
    assert colours[2, 3, 0] > colours[2, 3, 2]  # ON is red


def test_frames_are_enlarged_and_even(painter):
    frame = paint(painter, events=[(0, 10, 20, 1)])
    assert painter.scale == 4
    assert frame.shape == (*painter.size[::-1], 3)
    assert frame.dtype == np.uint8
    assert not np.any(np.array(frame.shape[:2]) % 2)
    drawn = is_colour(picture(painter, frame), event_colours()[2, 1])
    rows, columns = np.nonzero(drawn)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (80, 83, 40, 43)


@pytest.mark.parametrize(
    ("sensor_hw", "height", "scale"),
    [((240, 304), 720, 3), ((240, 304), 480, 2), ((720, 1280), 480, 1), ((41, 77), 480, 11)],
)
def test_any_sensor_gives_even_frames(sensor_hw, height, scale):
    painter = FramePainter("x", GEN1.classes, sensor_hw, TIMES_S, TIMES_S, None, height)
    assert painter.scale == scale
    assert paint(painter).shape == (*painter.size[::-1], 3)
    assert not any(side % 2 for side in painter.size)


def test_detections_are_outlined_where_they_are(painter):
    frame = picture(painter, paint(painter, [(50, 40, 30, 20, 0, 0.9)]))
    drawn = is_colour(frame, CAR)
    assert drawn[160:240, 200].all()  # left, from y = 40 to 60 px of the sensor, enlarged by 4
    assert drawn[160:240, 319].all()
    assert drawn[160, 200:320].all()
    assert drawn[239, 200:320].all()
    assert not drawn[165:235, 205:315].any()


def test_boxes_beyond_the_frame_are_cut_and_empty_ones_drawn(painter):
    rows = [(-20, -20, 40, 40, 1, 0.5), (140, 100, 500, 500, 0, 0.4), (60, 60, 0, 0, 0, 0.3)]
    frame = picture(painter, paint(painter, rows))
    assert is_colour(frame, PEDESTRIAN)[30:79, 79].all()
    assert is_colour(frame, CAR)[400:470, 560].all()
    assert is_colour(frame, CAR)[240, 240]


def test_labels_are_dashed_and_dark(painter):
    frame = picture(painter, paint(painter, labels=[(50, 40, 30, 20, 0, 1.0)]))
    top = is_colour(frame, LABEL)[160, 200:320]
    assert 0.4 < top.mean() < 0.8  # neither nothing nor a closed line
    assert top[0]
    assert not is_colour(frame, CAR).any()


def test_names_stand_beside_their_boxes_and_not_on_each_other():
    boxes = [(200, 160, 319, 239), (204, 160, 323, 239), (200, 164, 319, 243), (0, 0, 9, 9)]
    sides = [(90, 19), (120, 19), (90, 19), (90, 19)]
    places = place_names(boxes, sides, (608, 480))
    for number, ((x1, y1, x2, y2), (width, height)) in enumerate(zip(places, sides, strict=True)):
        assert (x2 - x1 + 1, y2 - y1 + 1) == (width, height)
        assert min(x1, y1) >= 0
        covers = [a <= x2 and x1 <= c and b <= y2 and y1 <= d for a, b, c, d in places[:number]]
        assert not any(covers)
    assert places[0] == (200, 141, 289, 159)  # above
    assert places[1] == (204, 240, 323, 258)  # below
    crowd = place_names([boxes[0]] * 20, [sides[0]] * 20, (608, 480))
    assert crowd[-1] == crowd[0]  # no place is left


def test_names_are_written_on_their_colour(painter):
    frame = picture(painter, paint(painter, [(50, 40, 30, 20, 1, 0.9)]))
    name = frame[141:159, 200:260]  # above the box
    assert is_colour(name, PEDESTRIAN).mean() > 0.4
    assert (name > 230).all(-1).any()


def test_the_cursor_moves_with_time(painter):
    def cursor(t_us):
        strip = paint(painter, t_us=t_us)[painter.top + 480 : -30]
        columns = np.flatnonzero(is_colour(strip, LABEL).all(0))
        return columns.mean()

    first, middle, last = cursor(50_000), cursor(100_000), cursor(150_000)
    assert middle == pytest.approx((first + last) / 2, abs=1)
    assert last - first > 0.5 * painter.size[0]


def test_labels_show_near_their_time_only():
    boxes = np.zeros(3, BOX)
    boxes["t"], boxes["x"] = [249_999, 249_999, 499_999], [1, 2, 3]
    assert near(boxes, 250_000, 125_000)["x"].tolist() == [1, 2]
    assert near(boxes, 380_000, 125_000)["x"].tolist() == [3]
    assert len(near(boxes, 50_000, 125_000)) == 0
    assert len(near(boxes[:0], 50_000, 125_000)) == 0


def test_unknown_firing_rates_and_single_windows_are_drawn():
    for rates in (None, np.array([np.nan])):
        painter = FramePainter(
            "x" * 200, GEN1.classes, (24, 32), TIMES_S[:1], TIMES_S[:1], rates, 240
        )
        assert paint(painter, t_us=50_000).shape[2] == 3


def test_every_class_has_a_colour_of_its_own():
    colours = [ImageColor.getrgb(class_colour(k)) for k in range(60)]
    assert len({*colours}) == 60


def test_the_palette_holds_what_is_drawn(painter):
    frame = paint(
        painter, [(50, 40, 30, 20, 0, 0.9)], [(10, 10, 9, 9, 1, 1)], events=[(0, 1, 1, 1)]
    )
    known = np.array(palette().getpalette()).reshape(-1, 3)
    for colour in (CAR, LABEL, event_colours()[2, 1]):
        assert is_colour(frame, colour).any()
        assert (known == colour).all(-1).any()
