"""What every detector shares: its settings, its time, its neurons' state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from spikingjelly.activation_based import base, functional
from torch import Tensor, nn

from models.blocks import per_step
from models.choices import refuse_below, refuse_unknown_choices
from models.neuron import NEURONS, Backend, neurons
from models.recompute import recomputed

MAX_STRIDE = 32


@dataclass(frozen=True)
class DetectorConfig:
    """What shapes a detector of any family. Raises ValueError for an impossible setting.

    Args:
        name: The published network: family and size.
        variant: Published layout, "gen1" or "coco"; sets what the paper set for that data set.
        num_classes: Classes to tell apart (Gen1: car, pedestrian).
        in_channels: Channels of a time step: 2 for OFF and ON, 3 for the authors' frames.
        time_steps: T, time bins of one input; must be the cache's.
        bins_per_step: Bins that enter as channels of one step of a spiking network; divides T.
            1: every bin is a step; T: one step sees all, as the ANN twin always does.
        shown: Steps for which a spiking network is shown the same bins; the first layer, which
            multiplies, runs once for them.
        max_spikes: D, largest spike count of a neuron in one step.
        decay: Share of the membrane kept from step to step, in [0, 1].
        input_scale: Factor on a neuron's input.
        detach_reset: Let no gradient through the soft reset, as in SpikeYOLO; Spike2Former's NI-LIF
            lets it through.
        activation: The neuron.
        backend: What computes the neuron: "auto", "cupy", "spikingjelly" or "torch".
        checkpoint_stages: Train in less memory and more time: blocks run again for their gradients.
    """

    name: str = ""
    variant: Literal["coco", "gen1"] = "coco"
    num_classes: int = 80
    in_channels: int = 3
    time_steps: int = 1
    bins_per_step: int = 1
    shown: int = 1
    max_spikes: int = 4
    decay: float = 0.25
    input_scale: float = 1.0
    detach_reset: bool = True
    activation: str = "ilif"
    backend: Backend = "auto"
    checkpoint_stages: bool = False

    family: ClassVar[str]  # its key in `models.FAMILIES`
    task: ClassVar[str] = "detection"  # or "segmentation": what its maps mean
    by_name: ClassVar[tuple[str, ...]] = ()  # fields that nobody writes: the name says them
    renamed: ClassVar[Mapping[str, str]] = {}  # neurons, by their names in older files

    def __post_init__(self) -> None:
        activation = self.renamed.get(self.activation, self.activation)
        object.__setattr__(self, "activation", activation)
        refuse_below(1, self, "num_classes", "in_channels")
        refuse_below(1, self, "time_steps", "bins_per_step", "shown", "max_spikes")
        if not 0 < self.input_scale < inf:
            raise ValueError(f"input_scale is {self.input_scale}, expected more than 0")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay is {self.decay}, expected a share of the membrane in [0, 1]")
        if self.time_steps % self.bins_per_step:
            found = f"bins_per_step is {self.bins_per_step}"
            raise ValueError(f"{found}, expected a divisor of time_steps, {self.time_steps}")
        refuse_unknown_choices(self)
        for name, fixed in NEURONS[activation].fixed.items():
            if getattr(self, name) != fixed:
                found = f"{name} is {getattr(self, name)}"
                raise ValueError(f"{found}, expected {fixed} for the neuron {activation!r}")

    @property
    def is_spiking(self) -> bool:
        """Does it run in time, on spikes?"""
        return NEURONS[self.activation].is_spiking

    @property
    def has_state(self) -> bool:
        """Is there anything to carry from one window to the next?"""
        return self.is_spiking

    @property
    def steps(self) -> int:
        """Passes through the network in one forward; 1 for an ANN twin."""
        return self.time_steps // self.bins_together * (self.shown if self.is_spiking else 1)

    @property
    def bins_together(self) -> int:
        """Time bins that the first layer sees at once."""
        return self.bins_per_step if self.is_spiking else self.time_steps


def refuse_other_task(config: DetectorConfig, task: str, source: Any) -> None:
    """ValueError, naming the source, for a network of another task."""
    if config.task != task:
        raise ValueError(f"{source}: is a network of {config.task}, expected one of {task}")


@runtime_checkable
class Criterion(Protocol):
    """The losses of raw maps against targets [M, 6], by name, weighed, per image."""

    @property
    def gains(self) -> Any: ...

    def __call__(
        self, maps: list[Float[Tensor, "B _ _ _"]], targets: Float[Tensor, "M 6"]
    ) -> dict[str, Float[Tensor, ""]]: ...


class DetectorNetwork(nn.Module):
    """x [T, B, C, H, W], H and W multiples of 32 -> raw maps [B, ..., H/s, W/s], a list by stride.

    The same in training and evaluation. Neurons start from rest at every call, unless
    `carry_state` is set, for streams. The ANN twins ("relu", "qann") see their T steps once, as
    T * C channels. Raises ValueError for an input of another shape.
    """

    config: DetectorConfig
    backbone: ClassVar[tuple[str, ...]]  # its parts before neck and head

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self._carry_state = False
        #: In evaluation, compute only those maps that `decode` reads.
        self.decoded_only = False

    def decode(
        self, maps: list[Float[Tensor, "B _ _ _"]]
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A nc"]]:
        """Raw maps -> boxes_xyxy [B, A, 4] in network px and scores [B, A, nc] in [0, 1]."""
        raise NotImplementedError

    def criterion(
        self,
        gains: Mapping[str, float] = {},
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    ) -> Criterion:
        """The loss of its maps; `gains` replace published ones by name.

        Raises ValueError for a part this loss does not have.
        """
        raise NotImplementedError

    @property
    def carry_state(self) -> bool:
        """Do neurons keep their membranes from one call to the next, as streams want it?"""
        return self._carry_state

    @carry_state.setter
    def carry_state(self, carry: bool) -> None:
        self._carry_state = carry
        carriers = set(self.carriers)
        for module in self.modules():
            if isinstance(module, base.MemoryModule):
                module.keep_state = carry and module in carriers

    @property
    def carriers(self) -> list[nn.Module]:
        """Whose state is carried; that of the others is dropped after every call."""
        return [module for module in self.modules() if isinstance(module, base.MemoryModule)]

    @property
    def input_channels(self) -> int:
        """Channels of the first convolution."""
        return self.config.in_channels * self.config.bins_together

    def _start(self, x: Tensor) -> Float[Tensor, "T B C H W"]:
        """The checked input as the first layer reads it; neurons at rest."""
        x = self._checked(x)
        if not self.carry_state:
            functional.reset_net(self)
        return x

    def _shown(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T_shown B C H W"]:
        """What the first layer made of every step, for as many steps as the neurons see it."""
        config = self.config
        slots = max((neuron.repeats for neuron in neurons(self).values()), default=1)
        times = slots * (config.shown if config.is_spiking else 1)
        return x.repeat_interleave(times, dim=0) if times > 1 else x

    def _run(self, stage: nn.Module, x: Float[Tensor, "T B _ _ _"]) -> Float[Tensor, "T B _ _ _"]:
        """stage(x); with `checkpoint_stages` block by block, keeping only what lies between."""
        if not self.config.checkpoint_stages or self.carry_state:
            return stage(x)
        for block in [*stage] if isinstance(stage, nn.Sequential) else [stage]:
            x = recomputed(block, x)
        return x

    def _checked(self, x: Tensor) -> Float[Tensor, "T B C H W"]:
        config = self.config
        if x.dim() != 5 or x.shape[2] != config.in_channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}, expected [T, B, {config.in_channels}, H, W]"
            )
        T, _B, _C, H, W = x.shape
        if H % MAX_STRIDE or W % MAX_STRIDE:
            raise ValueError(f"input is {H}x{W} px, expected multiples of {MAX_STRIDE}")
        if T % config.bins_together or not (config.is_spiking or config.time_steps == T):
            raise ValueError(f"input has T={T}, the network was built for T={config.time_steps}")
        bins = x.unflatten(0, (-1, config.bins_together))
        return bins.transpose(1, 2).flatten(2, 3) if config.bins_together > 1 else x


class Family(NamedTuple):
    """Networks of one kind: sizes by name, and what each variant publishes otherwise.

    `gains`: weights of the parts of its loss, a dataclass whose defaults are the published ones.
    """

    network: type[DetectorNetwork]
    sizes: Mapping[str, DetectorConfig]
    variants: Mapping[str, Mapping[str, Any]]
    gains: type

    @property
    def config(self) -> type[DetectorConfig]:
        return type(next(iter(self.sizes.values())))

    def published(self, size: str, overrides: Mapping[str, Any]) -> DetectorConfig:
        """Size, then variant, then neuron, then the overrides that are not None.

        Raises ValueError for an unknown or impossible setting.
        """
        base = self.sizes[size]
        given = {name: value for name, value in overrides.items() if value is not None}
        known = [field.name for field in fields(base)]
        if unknown := sorted(set(given) - set(known)):
            found = f"unknown model setting {unknown[0]!r}"
            raise ValueError(f"{found}, expected one of {', '.join(known)}")
        variant = self.variants.get(given.get("variant", base.variant), {})
        activation = given.get("activation", base.activation)
        neuron = NEURONS.get(base.renamed.get(activation, activation))
        spikes = {"max_spikes": DetectorConfig.max_spikes, **(neuron.fixed if neuron else {})}
        return replace(base, **{**spikes, **variant, **given})


class Upsample(nn.Module):
    """Every px becomes 2x2, in every step of x [T, B, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C 2*H 2*W"]:
        return per_step(x, self.nearest)


def published_but(gains: Any, given: Mapping[str, float]) -> Any:
    """A dataclass of gains with the given ones replaced; ValueError for an unknown name."""
    names = [field.name for field in fields(gains)]
    for name in given:
        if name not in names:
            found = f"gains.{name} is not part of this model's loss"
            raise ValueError(f"{found}, expected {', '.join(names)}")
    gains = replace(gains, **given)
    refuse_below(0, gains, *names, prefix="gains.")
    return gains
