"""What a user writes about the model, in YAML or on the command line."""

from dataclasses import asdict, dataclass

from models import build_model
from models.spikeyolo import SpikeYOLO


@dataclass(frozen=True)
class ModelConfig:
    """The detector; a null setting takes the published value of the variant.

    Args:
        name: spikeyolo-p, -n, -s, -m or -l: from pico (CPUs, demos) to large.
        variant: Published layout, "gen1" or "coco"; also sets decay and input_scale.
        num_classes: Classes to tell apart (Gen1: car, pedestrian).
        in_channels: Channels of a time step: 2 for OFF and ON, 3 for the authors' frames.
        time_steps: T, time steps of one forward; must be the cache's.
        max_spikes: D, largest spike count of a neuron in one step; 1 is a binary LIF.
        decay: Share of the membrane kept from step to step, in [0, 1].
        input_scale: Factor on a neuron's input.
        detach_reset: Let no gradient through the soft reset, as published.
        activation: "ilif", the integer neuron; "nilif", its counts divided by D; "lif", binary,
            with every step shown D times; "qann", the levels of "ilif" without time or state;
            "relu", the ANN twin.
        backend: What computes the neuron: "auto", "cupy", "spikingjelly" or "torch".
        checkpoint_stages: Train in less memory and more time: blocks run again for their gradients.
    """

    name: str = "spikeyolo-s"
    variant: str = "gen1"
    num_classes: int = 2
    in_channels: int = 2
    time_steps: int = 4
    max_spikes: int = 4
    decay: float | None = None
    input_scale: float | None = None
    detach_reset: bool = True
    activation: str = "ilif"
    backend: str = "auto"
    checkpoint_stages: bool = False

    def build(self) -> SpikeYOLO:
        """The network with fresh weights; ValueError for an impossible setting."""
        return build_model(**asdict(self))
