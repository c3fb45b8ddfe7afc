"""Two halves of a batch, with sums over both, are the whole batch."""

import torch

from models.loss import DetectionLoss


def maps_of(images, generator):
    """Confident maps of 64x96 px inputs, so that the scores' sum is well above its floor of 1."""
    sizes = ((8, 12), (4, 6), (2, 3))
    maps = []
    for hw in sizes:
        sides = torch.randn(images, 64, *hw, generator=generator, dtype=torch.double)
        scores = 3 + torch.randn(images, 2, *hw, generator=generator, dtype=torch.double)
        maps.append(torch.cat((sides, scores), dim=1))
    return maps


def test_shares_of_unequal_size_add_up_to_the_whole_loss():
    generator = torch.Generator().manual_seed(0)
    maps = maps_of(5, generator)
    image = torch.arange(5.0)
    corners = torch.tensor([[8.0, 8, 40, 40]]).expand(5, 4) + 4 * image[:, None]
    targets = torch.cat((image[:, None], (image % 2)[:, None], corners), dim=1)
    whole = DetectionLoss(2)(maps, targets)

    def share(start, stop, sum_over_ranks):
        mine = targets[start:stop] - torch.tensor([start, 0, 0, 0, 0, 0])
        return DetectionLoss(2, sum_over_ranks=sum_over_ranks)([m[start:stop] for m in maps], mine)

    sums = []
    for start, stop in ((0, 3), (3, 5)):
        share(start, stop, lambda total: sums.append(total) or total)
    total = sum(sums)
    assert total > 1
    shares = [share(start, stop, lambda _: total) for start, stop in ((0, 3), (3, 5))]
    summed = {name: sum(losses[name] for losses in shares) for name in whole}
    torch.testing.assert_close(summed, whole)
