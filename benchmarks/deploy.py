"""What does deploying give: how many kernels are saved, how much time, and what do slots cost?

`python benchmarks/deploy.py` measures the forward of sizes p, n and s at 256x320 px, T=4, D=4,
batch 1, frames in, raw maps out, weights drawn at random, float32 on a CPU and bf16 on a GPU: as
trained (evaluation mode), deployed, and spike-driven, where every time step is D binary slots. A
dense convolution runs over these as over anything else, so the twin shows what general hardware
pays for the slots, not what spiking hardware saves. Beside the times, per forward: calls of
convolutions and of batch norms, and the multiply-accumulates a dense pass does. Writes
deploy_<device>_<date>.json and .md under benchmarks/results/.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import Row, main, table
from networks import (
    PRECISION,
    SECONDS,
    Case,
    event_frames,
    figures,
    network,
    setting,
    with_speed_up,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.deploy import deploy
from models.spike_driven import spike_driven
from models.spikeyolo import SpikeYOLO

FORMS: dict[str, Callable[[SpikeYOLO], SpikeYOLO]] = {
    "trained": lambda model: model.eval(),
    "deployed": deploy,
    "spike-driven": lambda model: spike_driven(deploy(model)),
}


def calls(model: SpikeYOLO, x: Tensor) -> dict[str, int | float]:
    """Convolutions and batch norms of one forward, and its dense multiply-accumulates in G."""
    counted: Counter[str] = Counter()
    macs = 0

    def convolved(conv: nn.Conv2d, _inputs: object, output: Tensor) -> None:
        nonlocal macs
        counted["convolutions"] += 1
        macs += output.numel() * conv.weight[0].numel()

    def normalised(*_: object) -> None:
        counted["batch norms"] += 1

    hooks = {nn.Conv2d: convolved, _BatchNorm: normalised}
    handles = [
        module.register_forward_hook(hook)
        for module in model.modules()
        for kind, hook in hooks.items()
        if isinstance(module, kind)
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return {name: counted[name] for name in ("convolutions", "batch norms")} | {"GMAC": macs / 1e9}


@torch.no_grad()
def compared(case: Case, device: torch.device, seconds: float) -> list[Row]:
    """One row per form of the network, all of the same weights and input."""
    torch.backends.cudnn.benchmark = True  # the fastest convolution, for every form
    dtype = PRECISION[device.type]
    x = event_frames(case, 1, device).to(dtype)
    rows = []
    for name, form in FORMS.items():
        model = form(network(case)).to(device, dtype, memory_format=torch.channels_last)
        made = calls(model, x)
        row = figures(lambda model=model: partial(model, x), 1, device, seconds)
        rows.append({"network": setting(case), "form": name, **made, **row})
    return with_speed_up(rows)


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    shape = {"height": given.height, "width": given.width, "time_steps": 4, "max_spikes": 4}
    rows = []
    for size in given.sizes:
        rows += compared({"size": size, **shape}, given.device, given.seconds)
    result = {
        "question": "A network as trained, deployed and spike-driven: kernels and time, batch 1",
        "precision": str(PRECISION[given.device.type]),
        "rows": rows,
    }
    return result, table(rows)


if __name__ == "__main__":
    options = {
        "--sizes": {"default": ["p", "n", "s"], "nargs": "+", "choices": list("pnsml")},
        "--height": {"type": int, "default": 256, "help": "network input in px"},
        "--width": {"type": int, "default": 320, "help": "network input in px"},
        "--seconds": SECONDS,
    }
    main(__doc__, measure, options)
