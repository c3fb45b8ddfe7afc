"""Losses of segmentation: of masks that queries answer for, and of px.

Source: Spike2Former, AAAI 2025, as Cheng et al., MaskFormer, NeurIPS 2021, has them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from models.spike2former.blocks import enlarged

IGNORED = 255  # label of px that nobody judged
EPS = 2.0**-23
ALPHA, GAMMA = 0.25, 2  # of the focal loss
NO_OBJECT = 0.1  # weight of a query that answers for nothing
COSTS = {"cls": 1.0, "focal": 20.0, "dice": 1.0}  # of matching a query with a mask

#: What becomes of px labelled 255: nothing, or they are outside of every mask, as published.
Ignored = Literal["left-out", "background"]
Ranks = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SegmentationGains:
    """Weights of the parts of the loss.

    Args:
        cls: Mask head: of the queries' classes, cross entropy.
        mask: Mask head: of the px of matched masks, focal loss.
        dice: Of the overlap of masks, either head.
        ce: FPN head: of the px' classes, cross entropy.
    """

    cls: float = 1.0
    mask: float = 20.0
    dice: float = 1.0
    ce: float = 1.0


class Masks(NamedTuple):
    """What is to be found in one image: n classes and where they are, of the px that count."""

    classes: Int[Tensor, " n"]
    masks: Float[Tensor, "n H W"]
    valid: Float[Tensor, "H W"]


def masks_of(labels: Int[Tensor, "H W"], dtype: torch.dtype, ignored: Ignored) -> Masks:
    """One mask per class that is there, in the order of the classes."""
    classes = labels.unique()
    classes = classes[classes != IGNORED]
    masks = (labels == classes[:, None, None]).to(dtype)
    valid = labels != IGNORED if ignored == "left-out" else torch.ones_like(labels)
    return Masks(classes, masks, valid.to(dtype))


def check_labels(labels: Tensor, B: int, num_classes: int) -> None:
    """ValueError for labels of another shape than [B, H, W], or an unknown class."""
    if labels.dim() != 3 or len(labels) != B or labels.is_floating_point():
        found = f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}"
        raise ValueError(f"{found}, expected integers [{B}, H, W]")
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        found = f"labels name class {int(labels[wrong][0])}"
        raise ValueError(f"{found}, expected 0..{num_classes - 1} or {IGNORED} for ignored px")


def matching_costs(
    class_logits: Float[Tensor, "Q C"], mask_logits: Float[Tensor, "Q h w"], wanted: Masks
) -> dict[str, Float[Tensor, "Q n"]]:
    """What it costs a query to answer for a mask, by part, at the resolution of the masks."""
    size = mask_logits.shape[-2:]
    coarse = F.interpolate(torch.cat((wanted.masks, wanted.valid[None]))[None], size)[0].flatten(1)
    t, valid = coarse[:-1], coarse[-1]
    p = mask_logits.sigmoid().flatten(1) * valid
    inside = -(p + 1e-12).log() * ALPHA * (1 - p) ** GAMMA
    outside = -(1 - p + 1e-12).log() * (1 - ALPHA) * p**GAMMA
    focal = (inside @ t.T + outside @ (valid - t).T) / valid.sum().clamp(min=1)
    dice = 1 - (2 * p @ t.T + 1) / (p.sum(1)[:, None] + t.sum(1) + 1)
    costs = {"cls": -class_logits.softmax(-1)[:, wanted.classes], "focal": focal, "dice": dice}
    return {name: COSTS[name] * cost for name, cost in costs.items()}


@torch.no_grad()
def match(
    class_logits: Float[Tensor, "Q C"], mask_logits: Float[Tensor, "Q h w"], wanted: Masks
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """The queries, and the masks they answer for, of least cost in all: m = min(Q, n) of each."""
    costs = sum(matching_costs(class_logits, mask_logits, wanted).values(), start=torch.zeros(()))
    finite = torch.nan_to_num(costs).double().cpu()  # what is not will make the loss nan
    queries, masks = map(torch.as_tensor, linear_sum_assignment(finite.numpy()))
    return queries.to(costs.device), masks.to(costs.device)


class MaskLoss(nn.Module):
    """Loss of the mask head's maps against labels [B, H, W], 255 for ignored px.

    Returns "cls", "mask" and "dice", each summed over the L levels, gains applied; their sum is
    the published figure to call backward on. `ignored` px count for nothing, nor do images
    without others; "background", as published: they are outside of every mask. With
    `sum_over_ranks` normalised over all processes, and this one's share of the sum.
    Raises ValueError for labels of another shape or an unknown class.
    """

    def __init__(
        self,
        num_classes: int,
        gains: SegmentationGains = SegmentationGains(),
        ignored: Ignored = "left-out",
        sum_over_ranks: Ranks = lambda totals: totals,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.gains = gains
        self.ignored: Ignored = ignored
        self.sum_over_ranks = sum_over_ranks

    def forward(self, maps: list[Tensor], labels: Tensor) -> dict[str, Float[Tensor, ""]]:
        parts = self.levels(maps, labels).sum(0)
        return dict(zip(("cls", "mask", "dice"), parts, strict=True))

    def levels(self, maps: list[Tensor], labels: Tensor) -> Float[Tensor, "L 3"]:
        """The three parts of every level, gains applied."""
        class_logits, mask_logits = maps
        check_labels(labels, class_logits.shape[1], self.num_classes)
        wanted = [masks_of(image, mask_logits.dtype, self.ignored) for image in labels]
        pairs = zip(class_logits, mask_logits, strict=True)
        terms = [self._level(classes, masks, wanted) for classes, masks in pairs]
        sums, counts = (torch.stack(part) for part in zip(*terms, strict=True))
        gains = sums.new_tensor([self.gains.cls, self.gains.mask, self.gains.dice])
        return sums / (self.sum_over_ranks(counts) + EPS) * gains

    def _level(
        self,
        class_logits: Float[Tensor, "B Q C"],
        mask_logits: Float[Tensor, "B Q h w"],
        wanted: list[Masks],
    ) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
        """Sums of class, mask and dice losses, and what each is to be divided by."""
        sums, counts = class_logits.new_zeros(3), class_logits.new_zeros(3)
        weight = class_logits.new_ones(self.num_classes + 1)
        weight[-1] = NO_OBJECT
        for classes, masks, image in zip(class_logits, mask_logits, wanted, strict=True):
            queries, which = match(classes, masks, image)
            target = torch.full((len(classes),), self.num_classes, device=classes.device)
            target[queries] = image.classes[which]
            judged = image.valid.any().to(classes)
            cls = F.cross_entropy(classes, target, weight, reduction="sum") * judged
            larger = enlarged(masks[queries][:, None, None], image.valid.shape).flatten(1)
            truth, valid = image.masks[which].flatten(1), image.valid.flatten()
            mask, dice = mask_terms(larger, truth, valid)
            sums = sums + torch.stack((cls, mask, dice))
            matched = judged * max(len(queries), 1)
            counts += torch.stack((weight[target].sum() * judged, matched * valid.sum(), matched))
        return sums, counts


def mask_terms(
    logits: Float[Tensor, "m P"], truth: Float[Tensor, "m P"], valid: Float[Tensor, " P"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Of m matched masks: the sums of the focal loss over valid px and of the dice loss."""
    p = logits.sigmoid()
    wrong = (1 - p) * truth + p * (1 - truth)
    balance = ALPHA * truth + (1 - ALPHA) * (1 - truth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    focal = (entropy * balance * wrong**GAMMA * valid).sum()
    return focal, dice_of(p * valid, truth * valid).sum()


def dice_of(p: Float[Tensor, "m P"], truth: Float[Tensor, "m P"]) -> Float[Tensor, " m"]:
    return 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)


class PixelLoss(nn.Module):
    """Loss of the FPN head's logits against labels [B, H, W], 255 for ignored px.

    Returns "ce", the mean cross entropy of the px, and "dice", the mean over images and the
    classes that are in them, gains applied. Ranks and errors: see `MaskLoss`.
    """

    def __init__(
        self,
        num_classes: int,
        gains: SegmentationGains = SegmentationGains(),
        sum_over_ranks: Ranks = lambda totals: totals,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.gains = gains
        self.sum_over_ranks = sum_over_ranks

    def forward(self, maps: list[Tensor], labels: Tensor) -> dict[str, Float[Tensor, ""]]:
        (logits,) = maps
        check_labels(labels, len(logits), self.num_classes)
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        ce = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        overlaps = [
            dice_of((p[image.classes] * image.valid).flatten(1), image.masks.flatten(1))
            for p, image in zip(
                logits.softmax(1), (masks_of(i, logits.dtype, "left-out") for i in labels),
                strict=True,
            )
        ]  # fmt: skip
        dice = torch.cat(overlaps)
        counts = logits.new_tensor([int((labels != IGNORED).sum()), len(dice)])
        gains = logits.new_tensor([self.gains.ce, self.gains.dice])
        parts = torch.stack((ce, dice.sum())) / self.sum_over_ranks(counts).clamp(min=1) * gains
        return dict(zip(("ce", "dice"), parts, strict=True))
