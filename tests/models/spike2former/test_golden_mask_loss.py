"""The mask loss against the authors': costs, matches, items, gradients, scores."""

import numpy as np
import pytest
import torch

from models.spike2former.head import decode_masks
from models.spike2former.loss import MaskLoss, masks_of, match, matching_costs
from tests.models.spike2former.conftest import figures_of

CASES = sorted({key.split("|")[0] for key in figures_of("loss")} - {"info"})


@pytest.fixture(params=CASES)
def case(request, figures, s2f_rule):
    """Name, figures, maps with gradients and labels of one case."""
    stored, tag = figures("loss"), request.param
    L, B, Q, nc, h, w, _H, _W = stored[f"{tag}|shape"].tolist()
    classes = s2f_rule.inp(f"loss:{tag}:cls", (L, B, Q, nc + 1))
    masks = s2f_rule.inp(f"loss:{tag}:mask", (L, B, Q, h, w), 3.0)
    maps = [torch.tensor(m).requires_grad_() for m in (classes, masks)]
    return tag, stored, maps, torch.tensor(stored[f"{tag}|gt"].astype(np.int64))


def test_golden_matching(case):
    tag, stored, maps, labels = case
    classes, masks = (m.detach() for m in maps)
    L, B, Q, nc = stored[f"{tag}|shape"][:4]
    for b in range(B):
        wanted = masks_of(labels[b], masks.dtype, "background")
        assert wanted.classes.tolist() == stored[f"{tag}|gt_labels|{b}"].tolist()
        costs = matching_costs(classes[0, b], masks[0, b], wanted)
        for part, cost in (("class", "cls"), ("focal", "focal"), ("dice", "dice")):
            if f"{tag}|cost0|{b}|{part}" in stored:
                truth = torch.tensor(stored[f"{tag}|cost0|{b}|{part}"])
                torch.testing.assert_close(costs[cost], truth, rtol=0, atol=1e-9)
        for level in range(L):
            queries, which = match(classes[level, b], masks[level, b], wanted)
            found = torch.full((int(Q),), int(nc))
            found[queries] = wanted.classes[which]
            assert found.tolist() == stored[f"{tag}|labels|{level}|{b}"].tolist()


def test_golden_items_and_gradients(case):
    tag, stored, maps, labels = case
    loss = MaskLoss(int(stored[f"{tag}|shape"][3]), ignored="background")
    items = loss.levels(maps, labels)
    wanted = torch.tensor(stored[f"{tag}|items"]).view(-1, 3).roll(-1, 0)  # the last level first
    torch.testing.assert_close(items.detach(), wanted, rtol=0, atol=1e-9)
    parts = loss(maps, labels)
    assert [*parts] == ["cls", "mask", "dice"]
    total = sum(parts.values(), start=torch.zeros(()))
    assert total.item() == pytest.approx(float(stored[f"{tag}|total"]), abs=1e-9)
    total.backward()
    for leaf, name in zip(maps, ("cls", "mask"), strict=True):
        truth = torch.tensor(stored[f"{tag}|grad_{name}"])
        assert (leaf.grad - truth).norm() <= 1e-9 * truth.norm()


def test_golden_scores(case):
    tag, stored, maps, labels = case
    scores = decode_masks([m.detach() for m in maps], labels.shape[-2:])
    truth = torch.tensor(stored[f"{tag}|seg_logits"])
    torch.testing.assert_close(scores, truth, rtol=0, atol=1e-9)
    assert np.array_equal(scores.argmax(1).numpy(), stored[f"{tag}|segmentation"])
