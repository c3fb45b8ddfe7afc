"""What does deploying give: how many kernels are saved, how much time, and what do slots cost?

`python benchmarks/deploy.py` measures the forward of sizes p, n and s at 256x320 px, T=4, D=4,
batch 1, frames in, raw maps out, weights drawn at random, float32 on a CPU and bf16 on a GPU: as
trained (evaluation mode), deployed, and spike-driven, where every time step is D binary slots. A
dense convolution runs over these as over anything else, so the twin shows what general hardware
pays for the slots, not what spiking hardware saves. Beside the times, per forward: calls of
convolutions and of batch norms, and the multiply-accumulates a dense pass does. Writes
deploy_<device>_<date>.json and .md under benchmarks/results/.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, table, write
from networks import (
    PRECISION,
    Case,
    event_frames,
    figures,
    network,
    report_failures,
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

    def convolved(conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        counted["convolutions"] += 1
        macs += output.numel() * conv.weight[0].numel()

    def normalised(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
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
def measure(case: Case, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """One row per form of the network, all of the same weights and input."""
    dtype = PRECISION[device.type]
    x = event_frames(case, 1, device).to(dtype)
    rows = []
    for name, form in FORMS.items():
        model = form(network(case)).to(device, dtype, memory_format=torch.channels_last)
        made = calls(model, x)
        row = figures(lambda model=model: partial(model, x), 1, device, seconds)
        rows.append({"network": setting(case), "form": name, **made, **row})
    return with_speed_up(rows)


def main() -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", default=["p", "n", "s"], nargs="+", choices=("p", "n", "s", "m", "l"))
    add("--height", type=int, default=256, help="network input in px, default: 256")
    add("--width", type=int, default=320, help="network input in px, default: 320")
    add("--device", type=torch.device, default=torch.device(default), help="cpu or cuda")
    add("--seconds", type=float, default=3.0, help="of calls per figure, default: 3")
    add("--output", type=Path, default=RESULTS, help="directory, default: benchmarks/results")
    given = parser.parse_args()
    torch.backends.cudnn.benchmark = True  # the fastest convolution, for every form
    shape = {"height": given.height, "width": given.width, "time_steps": 4, "max_spikes": 4}
    rows = []
    for size in given.sizes:
        rows += measure({"size": size, **shape}, given.device, given.seconds)
    result = {
        "question": "A network as trained, deployed and spike-driven: kernels and time, batch 1",
        "precision": str(PRECISION[given.device.type]),
        "rows": rows,
    }
    path = write("deploy", result, table(rows), given.device, given.output)
    print(path.read_text())
    report_failures(rows)


if __name__ == "__main__":
    main()
