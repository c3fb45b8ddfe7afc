"""The confusion matrix of a set: IoU, both rules of mIoU, accuracies."""

import numpy as np
import pytest
import torch

from segmentation.score import Confusion
from segmentation.spec import IGNORED

NAMES = ("a", "b", "c")


def test_figures_by_hand():
    confusion = Confusion(NAMES)
    labels = np.array([[0, 0, 0, 1], [1, 1, IGNORED, IGNORED]])
    predicted = np.array([[0, 0, 1, 1], [1, 0, 2, 0]])
    confusion.add(predicted, labels)
    assert confusion.matrix.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    scores = confusion.scores()
    assert scores.iou[:2].tolist() == [0.5, 0.5]
    assert np.isnan(scores.iou[2])
    assert scores.miou == {"present": 0.5, "all": pytest.approx(1 / 3)}
    assert scores.accuracy[:2].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert scores.pixel_accuracy == scores.mean_accuracy == pytest.approx(2 / 3)
    assert scores.pixels.tolist() == [3, 3, 0]


def test_arrays_that_cannot_be_written_to_are_read():
    labels = np.array([0, 1])
    labels.flags.writeable = False
    confusion = Confusion(NAMES)
    confusion.add(labels, torch.tensor([0, 2]))
    assert confusion.matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_class_that_is_only_predicted_has_an_iou_of_zero_under_both_rules():
    confusion = Confusion(NAMES)
    confusion.add(np.array([0, 2]), np.array([0, 0]))
    scores = confusion.scores()
    assert scores.iou[2] == 0
    assert scores.miou == {"present": 0.25, "all": pytest.approx(1 / 6)}
    assert np.isnan(scores.accuracy[1:]).all()
    assert scores.mean_accuracy == 0.5


def test_the_set_counts_not_the_mean_over_pictures():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, IGNORED], (5, 8, 9)).astype(np.uint8)
    predicted = rng.integers(0, 3, (5, 8, 9))
    whole, parts, half = Confusion(NAMES), Confusion(NAMES), Confusion(NAMES)
    whole.add(predicted, labels)
    for k in range(5):
        (parts if k < 3 else half).add(torch.from_numpy(predicted[k]), torch.from_numpy(labels[k]))
    parts.merge(half)
    assert np.array_equal(whole.matrix, parts.matrix)
    for k in range(3):
        union = ((predicted == k) | (labels == k)) & (labels != IGNORED)
        both = (predicted == k) & (labels == k)
        assert whole.scores().iou[k] == both.sum() / union.sum()


def test_figures_as_plain_data_and_in_words():
    confusion = Confusion(NAMES)
    confusion.add(np.array([0, 1]), np.array([0, 0]))
    plain = confusion.scores().as_dict()
    assert plain["iou"] == {"a": 0.5, "b": 0.0, "c": None}
    assert plain["accuracy"]["b"] is None
    assert (plain["miou_present"], plain["pixels"]["a"]) == (0.25, 2)
    text = str(confusion.scores())
    assert text.splitlines()[0] == "a  IoU 50.00  accuracy 50.00  2 px"
    assert "c  IoU     -" in text
    assert "mIoU (present) 25.00, mIoU (all) 16.67, pixels 50.00" in text


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([0, 1], [0], r"predictions \[2\] for labels \[1\], expected one shape"),
        ([0, 3], [0, 1], "prediction 3, expected a class from 0 to 2"),
        ([0, -1], [0, 1], "prediction -1, expected a class from 0 to 2"),
        ([0, 1], [0, 3], "label 3, expected a class from 0 to 2"),
    ],
)
def test_what_cannot_be_counted(predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        Confusion(NAMES).add(np.array(predicted), np.array(labels))


def test_what_has_no_figures():
    confusion = Confusion(NAMES)
    confusion.add(np.array([0]), np.array([IGNORED]))
    with pytest.raises(ValueError, match="no labelled pixel was counted"):
        confusion.scores()
    with pytest.raises(ValueError, match="other classes"):
        confusion.merge(Confusion(("a", "b")))
