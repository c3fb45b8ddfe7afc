"""What a user writes about the model and its loss, in YAML or on the command line."""

from dataclasses import asdict, dataclass, replace

from models import build_network, resolve
from models.detector import DetectorNetwork


@dataclass(frozen=True)
class ModelConfig:
    """The detector; a null setting takes the published value of the model and its variant.

    Args:
        name: spikeyolo-p, -n, -s, -m or -l: from pico (CPUs, demos) to large; ems-res10, -res18,
            -res34, -resnet10, -resnet10-cat, -resnet34-cat: EMS-YOLO.
        variant: Published layout, "gen1" or "coco"; also sets decay and input_scale
            (SpikeYOLO) or the anchors (EMS-YOLO).
        num_classes: Classes to tell apart (Gen1: car, pedestrian).
        in_channels: Channels of a time step: 2 for OFF and ON, 3 for the authors' frames.
        time_steps: T, time steps of one forward; must be the cache's. Published for Gen1: 4,
            EMS-YOLO 5.
        max_spikes: D, largest spike count of a neuron in one step; 1 is a binary LIF. Null is 4,
            for "lif-hard" 1.
        decay: Share of the membrane kept from step to step, in [0, 1].
        input_scale: Factor on a neuron's input.
        detach_reset: Let no gradient through the soft reset, as in SpikeYOLO; Spike2Former's NI-LIF
            lets it through.
        activation: "ilif", the integer neuron; "nilif", its counts divided by D; "relu", the ANN
            twin; only SpikeYOLO's: "lif-soft", binary, with every step shown D times, and "qann",
            the levels of "ilif" without time or state; only EMS-YOLO's: "lif-hard", its own binary
            neuron. Null is "ilif", for EMS-YOLO "lif-hard".
        backend: What computes the neuron: "auto", "cupy", "spikingjelly" or "torch".
        checkpoint_stages: Train in less memory and more time: blocks run again for their gradients.
    """

    name: str = "spikeyolo-s"
    variant: str = "gen1"
    num_classes: int = 2
    in_channels: int = 2
    time_steps: int | None = None
    max_spikes: int | None = None
    decay: float | None = None
    input_scale: float | None = None
    detach_reset: bool = True
    activation: str | None = None
    backend: str = "auto"
    checkpoint_stages: bool = False

    def build(self) -> DetectorNetwork:
        """The network with fresh weights; ValueError for an impossible setting."""
        return build_network(resolve(**asdict(self)))

    def with_todays_names(self, saved: dict) -> dict:
        """Settings of a run, the neuron by its name of today."""
        renamed = resolve(self.name).renamed
        return {**saved, "activation": renamed.get(saved["activation"], saved["activation"])}

    def resolved(self) -> "ModelConfig":
        """T, D and the neuron as they will be, none of them null."""
        config = resolve(**asdict(self))
        names = ("time_steps", "max_spikes", "activation")
        return replace(self, **{name: getattr(config, name) for name in names})


@dataclass(frozen=True)
class GainsConfig:
    """Weights of the parts of the loss; a null one takes the published value of the model.

    Args:
        box: Of the box overlap, 1 - CIoU. Published: 7.5, EMS-YOLO 0.05.
        obj: Of the objectness, only EMS-YOLO's: 1, times (longer side of the image / 640)^2.
        cls: Of the class scores. Published: 0.5, EMS-YOLO's times classes / 80.
        dfl: Of the distribution of box sides, only SpikeYOLO's: 1.5.
    """

    box: float | None = None
    obj: float | None = None
    cls: float | None = None
    dfl: float | None = None

    def given(self) -> dict[str, float]:
        """Those that are not null."""
        return {name: gain for name, gain in asdict(self).items() if gain is not None}
