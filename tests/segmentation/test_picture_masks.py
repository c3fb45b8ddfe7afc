"""Sets of pictures with masks in the layouts of others -> samples and batches."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from models import build_model
from preprocessing.dataset import Loader
from segmentation.batches import PicturesToLearn, PicturesToScore, stack_pictures
from segmentation.framing import (
    BESIDE,
    MEAN,
    SPREAD,
    FramingConfig,
    drawn,
    largest_share,
    resized,
    short_side,
    window,
)
from segmentation.pictures import open_pictures
from segmentation.predict import confusion_of, cut
from segmentation.spec import IGNORED, MASKS, MaskSpec, write_mask_spec
from simulator.__main__ import main as simulate

SMALL = FramingConfig(side=64, crop_height=64, crop_width=96)
#: Of a class, its colour and its number in the file.
SPEC = MaskSpec("two", ("dark", "bright"))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def painted(height, width, seed, dark=0, bright=1):
    """A picture whose bright rectangle is of the number `bright`, the rest of `dark`."""
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    picture = np.full((height, width, 3), 20, np.uint8)
    mask = np.full((height, width), dark, np.uint8)
    picture[top : top + height // 2, left : left + width // 2] = 220
    mask[top : top + height // 2, left : left + width // 2] = bright
    return picture, mask


@pytest.fixture
def plain(tmp_path):
    """images/train, masks/train: four pictures of two sizes; masks.yaml."""
    for k, hw in enumerate([(80, 100), (120, 90), (80, 100), (70, 200)]):
        picture, mask = painted(*hw, k)
        save(tmp_path / "images" / "train" / f"p{k}.png", picture)
        save(tmp_path / "masks" / "train" / f"p{k}.png", mask)
    write_mask_spec(tmp_path / "masks.yaml", SPEC)
    return tmp_path


def ade20k(root):
    picture, mask = painted(40, 60, 0, dark=1, bright=150)
    mask[0] = 0
    save(root / "images" / "validation" / "ADE_val_00000001.jpg", picture)
    save(root / "annotations" / "validation" / "ADE_val_00000001.png", mask)
    return (IGNORED, 0, 149)


def cityscapes(root):
    picture, mask = painted(40, 60, 0, dark=7, bright=33)
    mask[0] = 1
    save(root / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png", picture)
    save(root / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png", mask)
    save(root / "gtFine/val/ulm/ulm_000000_000019_gtFine_instanceIds.png", mask)
    return (IGNORED, 0, 18)


def voc(root):
    picture, mask = painted(40, 60, 0, dark=0, bright=20)
    mask[0] = 255
    save(root / "JPEGImages" / "2007_000033.jpg", picture)
    save(root / "JPEGImages" / "2007_000039.jpg", picture)  # not in the list
    indexed = Image.fromarray(mask)
    indexed.putpalette(MASKS["voc"].palette().reshape(-1).tolist())
    (root / "SegmentationClass").mkdir()
    indexed.save(root / "SegmentationClass" / "2007_000033.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000033\n")
    return (IGNORED, 0, 20)


@pytest.mark.parametrize("write", [ade20k, cityscapes, voc])
def test_layouts_of_others(tmp_path, write):
    ignored, dark, bright = write(tmp_path)
    pictures = open_pictures(tmp_path, write.__name__, "val")
    assert len(pictures.pairs) == 1
    assert pictures.spec == MASKS[write.__name__]
    picture, mask = pictures.read(0)
    assert (picture.shape, mask.shape) == ((40, 60, 3), (40, 60))
    assert (mask[0] == ignored).all()
    assert (mask[1:][picture[1:, :, 0] > 160] == bright).all()
    assert (mask[1:][picture[1:, :, 0] < 80] == dark).all()


def test_frames_of_the_simulator_have_masks(tmp_path):
    words = [str(tmp_path), "--train", "1", "--val", "0", "--test", "0", "--seconds", "0.5"]
    assert simulate([*words, "--workers", "1", "--frames", "--masks"]) == 0
    pictures = open_pictures(tmp_path, "simulator", "train")
    assert len(pictures.pairs) == 2
    assert pictures.spec.classes == MASKS["simulator"].classes
    picture, mask = pictures.read(1)
    assert picture.shape[:2] == mask.shape == (240, 304)


def test_a_batch_has_the_interface_of_events(plain):
    dataset = PicturesToLearn(open_pictures(plain, "folder", "train"), SMALL)
    batch = stack_pictures([dataset[0], dataset[3]], time_steps=4)
    x, targets = batch.network_input(), batch.targets
    assert (x.dtype, x.shape) == (torch.float32, (4, 2, 3, 64, 96))
    assert x.stride(0) == 0  # stored once
    assert (targets.dtype, targets.shape) == (torch.int64, (2, 64, 96))
    assert (float(x.min()), float(x.max())) == (pytest.approx(20 / 255), pytest.approx(220 / 255))
    centred = stack_pictures([dataset[0]], centred=True).network_input()
    expected = (torch.from_numpy(dataset[0].picture) - torch.tensor(MEAN)) / torch.tensor(SPREAD)
    assert torch.allclose(centred[0, 0].permute(1, 2, 0), expected)
    assert batch.names == ("p0", "p3")
    assert batch.to("cpu").masks.equal(batch.masks)


def test_whole_pictures_share_the_smallest_canvas_that_holds_them(plain):
    pictures = open_pictures(plain, "folder", "train")
    whole = PicturesToScore(pictures, side=40)
    batch = stack_pictures([whole[0], whole[3]])
    assert batch.sizes == ((40, 50), (40, 114))
    assert batch.pictures.shape == (2, 3, 64, 128)
    assert (batch.masks[0, 40:] == IGNORED).all()
    assert (batch.masks[0, :, 50:] == IGNORED).all()
    assert batch.pictures[0, :, 63, 127].tolist() == list(BESIDE)
    assert np.array_equal(batch.masks[0, :40, :50], whole[0].mask)
    assert np.array_equal(whole.mask(3), pictures.read(3)[1])
    same = PicturesToScore(pictures)[1]
    assert np.array_equal(same.picture, pictures.read(1)[0])


def test_masks_move_with_their_pictures(plain):
    dataset = PicturesToLearn(open_pictures(plain, "folder", "train"), SMALL)
    seen = set()
    for epoch in range(6):
        dataset.set_epoch(epoch)
        for k in range(len(dataset)):
            sample = dataset[k]
            level = sample.picture[..., 0]
            assert sample.mask.shape == (64, 96)
            assert (sample.mask[level > 180] == 1).all()
            assert (sample.mask[level < 60] == 0).all()
            beside = (sample.picture == BESIDE).all(axis=-1)
            assert beside[sample.mask == IGNORED].all()
            seen |= set(np.unique(sample.mask).tolist())
    assert seen == {0, 1, IGNORED}


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_depend_on_seed_and_epoch_alone(plain, workers):
    def batch(seed=0, epoch=0):
        dataset = PicturesToLearn(open_pictures(plain, "folder", "train"), SMALL, seed)
        dataset.set_epoch(epoch)
        (found,) = Loader(dataset, [[1, 2]], workers, partial(stack_pictures, time_steps=2))
        return found

    first = batch()
    assert first.time_steps == 2
    assert torch.equal(first.pictures, batch().pictures)
    assert not torch.equal(first.pictures, batch(epoch=1).pictures)
    assert not torch.equal(first.pictures, batch(seed=1).pictures)


def test_crops_of_one_class_are_drawn_again():
    """A crop of half the picture that starts at random: seldom half bright and half dark."""
    picture = np.zeros((64, 640, 3), np.uint8)
    mask = np.zeros((64, 640), np.uint8)
    mask[:, 300:340] = 1
    config = FramingConfig(64, 1, 1, 64, 64, most_of_one=0.9, flip=0)
    anything = FramingConfig(64, 1, 1, 64, 64, most_of_one=1.0, flip=0)
    shares = [
        np.mean(
            [
                largest_share(drawn(picture, mask, c, np.random.default_rng(k))[1]) <= 0.9
                for k in range(100)
            ]
        )
        for c in (config, anything)
    ]
    assert shares[0] > 2.5 * shares[1] > 0


def test_sizes_and_windows():
    assert short_side((80, 100), 40) == (40, 50)
    assert short_side((1024, 2048), 512) == (512, 1024)
    mask = np.zeros((10, 20), np.uint8)
    assert window(mask, (4, 8), (0.0, 0.0)) == (slice(0, 4), slice(0, 8))
    assert window(mask, (4, 8), (0.999, 0.999)) == (slice(6, 10), slice(12, 20))
    assert window(mask, (12, 8), (0.5, 0.0))[0] == slice(0, 12)
    assert largest_share(np.array([[0, 1, 1, IGNORED]], np.uint8)) == 2 / 3
    assert largest_share(np.full((2, 2), IGNORED, np.uint8)) == 0
    _, small = resized(np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.uint8) * 7, (2, 2))
    assert set(np.unique(small).tolist()) <= {0, 7}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "masks/train/p1.png").unlink(), r"p1.png: no such file \(1 mask of 4 are"),
        (lambda r: (r / "images/train/p1.png").unlink(), r"p1.jpg: no such file \(1 picture of 4"),
        (lambda r: (r / "masks.yaml").unlink(), "holds no masks.yaml, expected one that names"),
        (
            lambda r: [p.unlink() for p in (*r.glob("*/train/*"),)],
            "holds no pictures of train as of folder, expected some",
        ),
    ],
)
def test_sets_that_are_incomplete(plain, change, message):
    change(plain)
    with pytest.raises(ValueError, match=message):
        open_pictures(plain, "folder", "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: save(r / "masks/train/p0.png", np.zeros((8, 9), np.uint8)),
            "p0.png: is a mask of 8x9 px, expected 80x100",
        ),
        (
            lambda r: save(r / "masks/train/p0.png", np.full((80, 100), 2, np.uint8)),
            "one number too many: do its masks count from 1",
        ),
        (
            lambda r: save(r / "masks/train/p0.png", np.zeros((80, 100, 3), np.uint8)),
            "is of colours",
        ),
        (lambda r: (r / "images/train/p0.png").write_bytes(b"x"), "p0.png: is no readable picture"),
    ],
)
def test_pictures_and_masks_that_cannot_be_used(plain, change, message):
    change(plain)
    with pytest.raises(ValueError, match=message):
        PicturesToScore(open_pictures(plain, "folder", "train"))[0]


def test_masks_are_looked_at_before_long_work(plain):
    for number in (0, 3):
        save(plain / f"masks/train/p{number}.png", np.full((80, 100), 9, np.uint8))
        with pytest.raises(ValueError, match=rf"p{number}.png: (100.0%|is a mask of 80x100)"):
            open_pictures(plain, "folder", "train")
        save(plain / f"masks/train/p{number}.png", np.zeros((80, 100), np.uint8))


def test_masks_of_ade20k_that_count_from_0_are_told_of(tmp_path):
    ade20k(tmp_path)
    mask = np.full((40, 60), 149, np.uint8)
    mask[0] = 255
    save(tmp_path / "annotations/validation/ADE_val_00000001.png", mask)
    with pytest.raises(ValueError, match="do its masks count from 0, with 255 for ignored"):
        open_pictures(tmp_path, "ade20k", "val")


def test_two_pictures_of_a_stem_are_refused(plain):
    save(plain / "images/train/p1.jpg", np.zeros((80, 100, 3), np.uint8))
    with pytest.raises(ValueError, match=r"has the stem of p1\.(png|jpg), expected one"):
        open_pictures(plain, "folder", "train")


def test_masks_without_pictures_are_refused_in_every_layout(tmp_path):
    cityscapes(tmp_path)
    (tmp_path / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(ValueError, match=r"leftImg8bit.png: no such file \(1 picture of 1"):
        open_pictures(tmp_path, "cityscapes", "val")
    save(tmp_path / "val" / "street_masks" / "500.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"street_500.png: no such file \(1 picture of 1"):
        open_pictures(tmp_path, "simulator", "val")


@torch.no_grad()
def test_a_picture_scores_the_same_whatever_is_beside_it(plain):
    torch.manual_seed(0)
    whole = PicturesToScore(open_pictures(plain, "folder", "train"), side=40)
    model = build_model("spike2former-tiny", num_classes=2, time_steps=1).eval()
    alone, together = (confusion_of(model, whole, size, 0).matrix for size in (1, 4))
    assert np.abs(alone - together).sum() <= 1e-3 * alone.sum()  # float32 rounds otherwise
    rows = cut(whole, range(len(whole)), 4)
    assert sorted(index for row in rows for index in row) == [*range(len(whole))]
    assert len(rows) == len({whole.canvas(index) for index in range(len(whole))}) > 1
    for index in range(len(whole)):
        assert stack_pictures([whole[index]]).masks.shape[1:] == whole.canvas(index)


def test_folders_and_layouts_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="no: no such folder, expected pictures as of voc"):
        open_pictures(tmp_path / "no", "voc", "val")
    with pytest.raises(ValueError, match=r"val.txt: no such file, expected the names"):
        open_pictures(tmp_path, "voc", "val")
    with pytest.raises(ValueError, match="layout is 'coco', expected one of ade20k"):
        open_pictures(tmp_path, "coco", "val")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 0}, "side is 0 was given, expected 1 px or more"),
        ({"scale_min": 3}, "scale_min 3 and scale_max 2.0 was given"),
        ({"crop_height": 500}, "a crop of 500x512 px was given, expected multiples of 32"),
        ({"most_of_one": 0}, "most_of_one is 0"),
        ({"flip": 2}, "flip is 2"),
    ],
)
def test_settings_that_are_impossible(settings, message):
    with pytest.raises(ValueError, match=message):
        FramingConfig(**settings)
    with pytest.raises(ValueError, match="side is -1 px"):
        PicturesToScore(None, -1)
