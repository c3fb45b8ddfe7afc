"""The command `python -m models.deploy`: a trained checkpoint as a deployed one, proven equal."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from gen1 import command
from gen1.atomic import make_way
from models.checkpoint import checkpoint_file, load_model, refuse_run_state, save_checkpoint
from models.deploy import batch_norms, deploy
from models.detector import DetectorNetwork

#: Largest difference of the raw maps in float64, as a share of their largest value (at least 1).
TOLERANCE = 1e-9
SIDE_PX = 64


def random_events(model: DetectorNetwork) -> Tensor:
    """Event counts x [T, 1, C, 64, 64], the same for the same network, a quarter of them not 0."""
    config = model.config
    shape = (config.time_steps, 1, config.in_channels, SIDE_PX, SIDE_PX)
    return torch.poisson(torch.full(shape, 0.3), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def largest_difference(ours: DetectorNetwork, theirs: DetectorNetwork) -> tuple[float, float]:
    """Between the raw maps of two networks on random events, and the largest value of a map."""
    x = random_events(ours).to(next(ours.parameters()).dtype)
    pairs = list(zip(ours(x), theirs(x), strict=True))
    difference = torch.stack([(a - b).abs().max() for a, b in pairs]).max()
    return float(difference), float(torch.stack([b.abs().max() for _, b in pairs]).max())


def prove_equal(model: DetectorNetwork, source: Path) -> float:
    """Largest difference between `model` and its deployed form in float64; ValueError if large."""
    exact = copy.deepcopy(model).double()
    difference, largest = largest_difference(deploy(exact), exact)
    if not difference <= TOLERANCE * max(1.0, largest):  # not a number fails, too
        found = f"the deployed network's outputs differ by {difference:.2g}"
        raise ValueError(f"{source}: {found}, expected at most {TOLERANCE} of {largest:.2g}")
    return difference


def layers_in_words(model: nn.Module) -> str:
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{convolutions} convolutions, {len(batch_norms(model))} batch norms, "
        f"{parameters:,} parameters"
    )


def deploy_file(checkpoint: str | Path, output: str | Path | None = None) -> str:
    """Write the deployed form of a trained checkpoint; returns what was done, line by line.

    Args:
        checkpoint: Checkpoint, or run directory (its best.pt).
        output: File to write, deployed.pt beside the checkpoint if not given.

    Raises ValueError, writing nothing, for a checkpoint that is deployed already, for a target that
    would replace it and if the outputs do not agree.
    """
    source = checkpoint_file(checkpoint)
    target = Path(output) if output else source.with_name("deployed.pt")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the trained checkpoint itself, expected another --output")
    refuse_run_state(target)
    make_way(target)
    model, trained = load_model(source)
    if trained.kind != "trained":
        raise ValueError(f"{source}: is deployed already, expected a trained checkpoint")
    proven = prove_equal(model, source)
    deployed = deploy(model)
    meta = {**trained.meta, "deployed_from": source.name}
    save_checkpoint(target, trained.config, deployed.state_dict(), meta, kind="deployed")
    read, _ = load_model(target)
    stored, largest = largest_difference(read, model)
    sizes = (f"{path.stat().st_size / 1e6:.1f} MB" for path in (source, target))
    return (
        f"before: {layers_in_words(model)}\n"
        f"after:  {layers_in_words(read)}\n"
        f"file:   {' -> '.join(sizes)}, {target}\n"
        f"largest difference of outputs up to {largest:.2g} on random events: {proven:.2g} in "
        f"float64, {stored:.2g} as stored, in float32, whose rounding may move a spike"
    )


main = command.entry(
    "python -m models.deploy",
    "Fold batch norms and re-parameterised convolutions of a trained checkpoint: one\n"
    "convolution with bias per synapse layer. eval_gen1.py and load_model read the result\n"
    "like any checkpoint; it cannot be trained on.",
    deploy_file,
)
enter = command.door(main)
if __name__ == "__main__":
    enter()
