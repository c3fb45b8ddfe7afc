"""Deformable sampling: each px reads nine places of its group's map, at offsets of its own.

Source: Wang et al., DCNv3 (InternImage), CVPR 2023; Spike2Former leaves the softmax out.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

POINTS = 9  # of the 3x3 grid that each group samples around a px


def sample(
    values: Float[Tensor, "N C H W"],
    offset: Float[Tensor, "N _ H W"],
    weight: Float[Tensor, "N _ H W"],
) -> Float[Tensor, "N C H W"]:
    """Each px a weighted sum of 9 values of its group, read bilinearly, zeros outside.

    Point k of group g stands at the px's own place, plus that of the grid (-1..1, x outer, y
    inner), plus its offset: channels (g, k, (x, y)) of `offset` in px, (g, k) of `weight`.
    """
    N, C, H, W = values.shape
    G = weight.shape[1] // POINTS
    reach = torch.arange(-1, 2, device=values.device, dtype=values.dtype)
    grid = torch.cartesian_prod(reach, reach)[None, None, :, :, None, None]
    y, x = (torch.arange(n, device=values.device, dtype=values.dtype) for n in (H, W))
    own = torch.stack((x.expand(H, W), y[:, None].expand(H, W)))
    place = own + grid + offset.view(N, G, POINTS, 2, H, W)  # px
    size = values.new_tensor([W, H]).view(2, 1, 1)
    place = (2 * place + 1) / size - 1  # as grid_sample has it: -1 and 1 are the map's borders
    read = F.grid_sample(
        values.view(N * G, C // G, H, W),
        place.permute(0, 1, 2, 4, 5, 3).reshape(N * G, POINTS * H, W, 2),
        align_corners=False,
    )
    read = read.view(N, G, C // G, POINTS, H, W) * weight.view(N, G, 1, POINTS, H, W)
    return read.sum(3).reshape(N, C, H, W)
