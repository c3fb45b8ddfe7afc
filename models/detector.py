"""What every detector shares: its settings, its time, its neurons' state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from spikingjelly.activation_based import base, functional
from torch import Tensor, nn

from models.blocks import per_step
from models.neuron import NEURONS
from models.recompute import recomputed

MAX_STRIDE = 32
VARIANTS = ("coco", "gen1")


@dataclass(frozen=True)
class DetectorConfig:
    """What shapes a detector of any family. Raises ValueError for an impossible setting.

    Args:
        num_classes: Classes the head tells apart.
        in_channels: Channels of one time step (2: OFF and ON counts).
        time_steps: T, the steps of one forward; the ANN twin stacks them as channels.
        max_spikes: D, the largest spike count of one neuron in one step.
        decay: Share of the membrane kept from one step to the next.
        input_scale: Factor on a neuron's input.
        detach_reset: Stop the gradient through the soft reset, of NI-LIF too.
        activation: The neuron: one of the class's `activations`.
        backend: Which code runs the neuron: "auto", "cupy", "spikingjelly" or "torch".
        checkpoint_stages: Train in less memory and more time: blocks run again for their gradients.
        variant: "coco" or "gen1", the published layout.
    """

    num_classes: int = 80
    in_channels: int = 3
    time_steps: int = 1
    max_spikes: int = 4
    decay: float = 0.25
    input_scale: float = 1.0
    detach_reset: bool = True
    activation: str = "ilif"
    backend: str = "auto"
    checkpoint_stages: bool = False
    variant: str = "coco"

    activations: ClassVar[tuple[str, ...]] = ("ilif", "relu")
    family: ClassVar[str]  # its key in `models.FAMILIES`
    renamed: ClassVar[Mapping[str, str]] = {}  # neurons, by their names in older files

    def __post_init__(self) -> None:
        activation = self.renamed.get(self.activation, self.activation)
        object.__setattr__(self, "activation", activation)
        for name in ("num_classes", "in_channels", "time_steps", "max_spikes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name, known in (("activation", self.activations), ("variant", VARIANTS)):
            if getattr(self, name) not in known:
                found = f"{name} is {getattr(self, name)!r}"
                raise ValueError(f"{found}, expected one of {', '.join(known)}")
        for name, fixed in NEURONS[activation].fixed.items():
            if getattr(self, name) != fixed:
                found = f"{name} is {getattr(self, name)}"
                raise ValueError(f"{found}, expected {fixed} for the neuron {activation!r}")

    @property
    def is_spiking(self) -> bool:
        """Does it run in time, on spikes?"""
        return NEURONS[self.activation].is_spiking


@runtime_checkable
class Criterion(Protocol):
    """The losses of raw maps against targets [M, 6], by name, weighed, per image."""

    @property
    def gains(self) -> Any: ...

    def __call__(
        self, maps: list[Float[Tensor, "B _ _ _"]], targets: Float[Tensor, "M 6"]
    ) -> dict[str, Float[Tensor, ""]]: ...


Config = TypeVar("Config", bound=DetectorConfig)


def with_overrides(
    base: Config, variants: Mapping[str, Mapping[str, Any]], overrides: Mapping[str, Any]
) -> Config:
    """`base`, then what its variant changes, then the overrides that are not None."""
    given = {key: value for key, value in overrides.items() if value is not None}
    known = [field.name for field in fields(base)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        found = f"unknown model setting {unknown[0]!r}"
        raise ValueError(f"{found}, expected one of {', '.join(known)}")
    published = variants.get(given.get("variant", base.variant), {})
    return replace(base, **{**published, **given})


class DetectorNetwork(nn.Module):
    """x [T, B, C, H, W], H and W multiples of 32 -> raw maps [B, ..., H/s, W/s], a list by stride.

    The same in training and evaluation. Neurons start from rest at every call, unless
    `carry_state` is set, for streams. The ANN twins ("relu", "qann") see their T steps once, as
    T * C channels. Raises ValueError for an input of another shape.
    """

    config: DetectorConfig

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self._carry_state = False

    def decode(
        self, maps: list[Float[Tensor, "B C _ _"]]
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A nc"]]:
        """Raw maps -> boxes_xyxy [B, A, 4] in network px and scores [B, A, nc] in [0, 1]."""
        raise NotImplementedError

    def criterion(
        self,
        gains: Mapping[str, float],
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
        for module in self.modules():
            if isinstance(module, base.MemoryModule):
                module.keep_state = carry

    @property
    def input_channels(self) -> int:
        """Channels of the first convolution."""
        return self.config.in_channels * (1 if self.config.is_spiking else self.config.time_steps)

    def _start(self, x: Tensor) -> Float[Tensor, "T B C H W"]:
        """The checked input as the first layer reads it; neurons at rest."""
        x = self._checked(x)
        if not self.carry_state:
            functional.reset_net(self)
        return x

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
        if config.is_spiking:
            return x
        if config.time_steps != T:
            raise ValueError(f"input has T={T}, the ANN twin was built for T={config.time_steps}")
        return x.transpose(0, 1).flatten(1, 2).unsqueeze(0)


class Family(NamedTuple):
    """Networks of one kind; `resolve_config(size, **overrides)` names all their settings."""

    config: type[DetectorConfig]
    network: type[DetectorNetwork]
    sizes: Mapping[str, DetectorConfig]
    resolve_config: Callable[..., DetectorConfig]


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
    return replace(gains, **given)
