"""Cache and masks -> samples: the right mask, moved with its frames; batches; bad input."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gen1.labels import read_boxes
from preprocessing.augment import AugmentConfig
from preprocessing.dataset import Loader
from preprocessing.geometry import Geometry, Letterbox
from segmentation.dataset import MaskDataset, stack
from segmentation.spec import IGNORED, MaskSpec, write_mask_spec
from tests.segmentation.conftest import HEIGHT, SPEC, TIMES_US, WIDTH, drawn_mask, write_mask

HALF, WHOLE = Geometry(downsample=2), Geometry()
STILL = AugmentConfig(flip=0, zoom_min=1, zoom_max=1, shift=0)


def opened(streets, split="train", geometry=HALF, **options):
    return MaskDataset(streets / "cache", streets / "recordings", split, geometry, **options)


def test_a_sample_is_the_histogram_and_the_mask_of_its_time(streets):
    dataset = opened(streets)
    assert len(dataset) == 8
    assert dataset.spec == SPEC
    assert (dataset.n_unmasked, dataset.n_unsampled) == (0, 0)
    assert dataset.label_times == [(f"r{k}", t_us) for k in (0, 1) for t_us in TIMES_US]
    for index, (name, t_us) in enumerate(dataset.label_times):
        sample = dataset[index]
        boxes = read_boxes(streets / f"recordings/train/{name}_bbox.npy")
        mask = drawn_mask(boxes, t_us)
        assert np.array_equal(dataset.mask(index), mask)
        assert (sample.recording, sample.t_us) == (name, t_us)
        assert (sample.frames.dtype, sample.frames.shape) == (torch.uint8, (2, 2, 128, 160))
        assert (sample.mask.dtype, sample.mask.shape) == (torch.uint8, (128, 160))
        assert np.array_equal(sample.mask[:120, :152], mask[1::2, 1::2])
        assert (sample.mask[120:] == IGNORED).all()
        assert (sample.mask[:, 152:] == IGNORED).all()
        assert not sample.frames[..., 120:, :].any()


def test_objects_flicker_where_the_mask_says(streets):
    dataset = opened(streets, "val")
    for index in range(len(dataset)):
        sample = dataset[index]
        counts = sample.frames.sum(dim=(0, 1)).float()
        objects = (sample.mask > 0) & (sample.mask != IGNORED)
        assert counts[objects].mean() > 3 * counts[sample.mask == 0].mean()


def test_a_batch_has_the_interface_of_detection(streets):
    dataset = opened(streets)
    batch = stack([dataset[k] for k in (0, 5, 7)])
    x, targets = batch.network_input(), batch.targets
    assert (x.dtype, x.shape) == (torch.float32, (2, 3, 2, 128, 160))
    assert (targets.dtype, targets.shape) == (torch.int64, (3, 128, 160))
    assert torch.equal(x[:, 1], dataset[5].frames.float())
    assert torch.equal(targets[1], dataset[5].mask.long())
    assert batch.recordings == ("r0", "r1", "r1")
    assert batch.times_us.tolist() == [TIMES_US[0], TIMES_US[1], TIMES_US[3]]
    assert batch.to("cpu").masks.equal(batch.masks)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_samples_do_not_depend_on_workers_but_on_seed_and_epoch(streets, workers):
    def batches(seed=0, epoch=0):
        dataset = opened(streets, augment=AugmentConfig(event_drop=0.3), seed=seed)
        dataset.set_epoch(epoch)
        return list(Loader(dataset, [[0, 3], [6]], workers, stack))

    alone = opened(streets, augment=AugmentConfig(event_drop=0.3))
    first = batches()
    assert torch.equal(first[0].masks[1], alone[3].mask)
    assert torch.equal(first[0].frames[:, 1], alone[3].frames)
    assert torch.equal(first[1].masks, stack([alone[6]]).masks)
    assert not torch.equal(first[0].masks, batches(epoch=1)[0].masks)
    assert not torch.equal(first[0].masks, batches(seed=1)[0].masks)


def test_masks_move_as_frames_do(street):
    """Events fill the left half and so does class 1: after any motion they still agree."""
    recordings, cache = street()
    augment = AugmentConfig(flip=0.5, zoom_min=0.5, zoom_max=2.0, shift=0.3)
    dataset = MaskDataset(cache, recordings, "train", WHOLE, augment)
    sides = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            sample = dataset[index]
            there = sample.frames.sum(dim=(0, 1)) > 0
            assert not (there & (sample.mask != 1)).any()
            beyond = sample.mask == IGNORED
            assert set(sample.mask.unique().tolist()) <= {0, 1, IGNORED}
            sides.add((bool(beyond[:8].all()), bool(there[:, :100].any())))
    assert len(sides) > 2


def test_no_augmentation_is_the_sample_itself(streets):
    plain, still = opened(streets), opened(streets, augment=STILL)
    assert torch.equal(plain[2].mask, still[2].mask)
    assert torch.equal(plain[2].frames, still[2].frames)


def test_flipping_mirrors_mask_and_frames(streets):
    plain = opened(streets)[1]
    flipped = opened(streets, augment=AugmentConfig(flip=1, zoom_min=1, zoom_max=1, shift=0))[1]
    assert torch.equal(flipped.mask[:120, :152], plain.mask[:120, :152].flip(1))
    assert torch.equal(flipped.frames[..., :120, :152], plain.frames[..., :120, :152].flip(3))


def test_a_stride_takes_the_nearest_mask(street):
    recordings, cache = street(lambda _: None, "--every-ms", "50")
    with pytest.warns(UserWarning, match=r"\d+ of 25 samples have no mask and are left out \(r0"):
        dataset = MaskDataset(cache, recordings, "train", WHOLE)
    assert len(dataset) == len(TIMES_US)
    for (_, t_us), labelled_us in zip(dataset.label_times, TIMES_US, strict=True):
        assert abs(t_us - labelled_us) <= 25_000


def test_samples_without_masks_are_counted_and_named(street):
    recordings, cache = street()
    (recordings / "train" / "r0_masks" / f"{TIMES_US[2]}.png").unlink()
    told = rf"split train: 1 of 4 samples have no mask and are left out \(r0 at {TIMES_US[2]} us\)$"
    with pytest.warns(UserWarning, match=told):
        dataset = MaskDataset(cache, recordings, "train", WHOLE)
    assert (len(dataset), dataset.n_unmasked) == (3, 1)
    assert [t_us for _, t_us in dataset.label_times] == TIMES_US[:2] + TIMES_US[3:]


def test_masks_without_samples_are_counted(street):
    recordings, cache = street()
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    write_mask(recordings / "train" / "r0_masks", 600_000, mask)
    with pytest.warns(UserWarning, match=r"1 of 5 masks have no sample .*--keep masks"):
        dataset = MaskDataset(cache, recordings, "train", WHOLE)
    assert dataset.n_unsampled == 1


def test_a_detection_cache_without_masks_is_an_error(street_cache):
    recordings = street_cache.parent / "recordings"
    message = "none of 12 samples has a mask in .*recordings.train .0 folders of masks, 0 masks.*"
    with pytest.raises(ValueError, match=f"{message}--keep masks"):
        MaskDataset(street_cache, recordings, "train", HALF, spec=SPEC)
    with pytest.raises(ValueError, match="nothing says what the numbers of its masks mean"):
        MaskDataset(street_cache, recordings, "train", HALF)
    with pytest.raises(ValueError, match="no such folder, expected a folder of masks"):
        MaskDataset(street_cache, recordings / "nowhere", "train", HALF, spec=SPEC)


def test_masks_of_no_recording_are_an_error(street):
    recordings, cache = street()
    (recordings / "train" / "r9_masks").mkdir()
    with pytest.raises(ValueError, match=r"1 folder of masks without a recording \(r9_masks\)"):
        MaskDataset(cache, recordings, "train", WHOLE)


def test_times_that_64_bits_do_not_hold_are_refused(street):
    recordings, cache = street()
    folder = recordings / "train" / "r0_masks"
    next(folder.glob("*.png")).rename(folder / "99999999999999999999.png")
    with pytest.raises(ValueError, match=r"99999999999999999999.png: .* expected a time in us"):
        MaskDataset(cache, recordings, "train", WHOLE)


def test_masks_of_all_splits_may_lie_in_one_folder(streets, tmp_path):
    recordings = streets / "recordings"
    for split in ("train", "val"):
        for folder in (recordings / split).glob("*_masks"):
            shutil.copytree(folder, tmp_path / folder.name, dirs_exist_ok=True)
    write_mask_spec(tmp_path / "masks.yaml", SPEC)
    dataset = MaskDataset(streets / "cache", tmp_path, "val", HALF)
    assert len(dataset) == 4
    (tmp_path / "r9_masks").mkdir()
    with pytest.raises(ValueError, match=r"without a recording \(r9_masks\)"):
        MaskDataset(streets / "cache", tmp_path, "val", HALF)


def another(array):
    return lambda folder: Image.fromarray(array).save(folder / f"{TIMES_US[0]}.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another(np.zeros((200, WIDTH), np.uint8)), "is a mask of 200x304 px, expected 240x304"),
        (another(np.zeros((HEIGHT, WIDTH), np.uint16)), r"is of 16 bits \(I;16\), expected 8 bits"),
        (another(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), r"is of colours \(RGB\), expected 8 bit"),
        (another(np.zeros((HEIGHT, WIDTH), bool)), r"is of 1 bit \(1\), expected 8 bits"),
        (
            another(np.full((HEIGHT, WIDTH), 7, np.uint8)),
            "100.0% of its pixels are 7, expected the 3 classes 0-2 of streets or 255 for ignored$",
        ),
        (
            another(np.full((HEIGHT, WIDTH), 3, np.uint8)),
            "one number too many: do its masks count from 1, with 0 for ignored, as ADE20K's do",
        ),
        (
            lambda folder: (folder / f"{TIMES_US[0]}.png").write_bytes(b"mask"),
            "is no readable mask .*expected a PNG",
        ),
    ],
)
def test_masks_that_cannot_be_used_are_one_sentence(street, change, message):
    recordings, cache = street(change)
    with pytest.raises(ValueError, match=message) as error:
        MaskDataset(cache, recordings, "train", WHOLE)
    assert str(error.value).startswith(str(recordings / "train" / "r0_masks" / f"{TIMES_US[0]}"))
    assert "\n" not in str(error.value)


def test_a_later_mask_is_looked_at_when_it_is_read(street):
    def change(folder):
        write_mask(folder, TIMES_US[2], np.full((HEIGHT, WIDTH), 9, np.uint8))

    recordings, cache = street(change)
    dataset = MaskDataset(cache, recordings, "train", WHOLE)
    with pytest.raises(ValueError, match=f"{TIMES_US[2]}.png: 100.0% of its pixels are 9"):
        dataset[2]


def test_what_interpolates_is_refused(street):
    recordings, cache = street()
    with pytest.raises(ValueError, match="Letterbox was given, expected a Geometry"):
        MaskDataset(cache, recordings, "train", Letterbox())


def test_classes_of_a_split_and_a_spec_in_hand_come_first(street):
    recordings, cache = street()
    spec = MaskSpec("other", ("left", "right"), numbers=(1, 0))
    dataset = MaskDataset(cache, recordings, "train", WHOLE, spec=spec)
    assert (dataset.mask(0)[:, :10] == 0).all()
    (recordings / "masks.yaml").rename(recordings / "train" / "masks.yaml")
    assert MaskDataset(cache, recordings, "train", WHOLE).spec == SPEC
