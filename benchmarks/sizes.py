"""How large is each network? Prints the table of sizes in the README."""

import torch
from common import table

from models import build_model
from models.energy import measure_energy
from models.spikeyolo import SIZES


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    rows = []
    for name in (f"spikeyolo-{size}" for size in SIZES):
        gen1, coco = build_model(name, variant="gen1"), build_model(name)
        report = measure_energy(coco, [torch.zeros(1, 1, 3, 320, 320)])
        mac = 4 * sum(layer.macs_per_step for layer in report.layers)  # 640x640 is 4 times 320x320
        row = {"model": f"`{name}`", "parameters, Gen1 (2 classes, 2 channels)": parameters(gen1)}
        row |= {"parameters, COCO": parameters(coco), "MAC of one step": f"{mac / 1e9:.1f} G"}
        rows.append(row)
    print(table(rows))


if __name__ == "__main__":
    main()
