"""What a user writes about a run, in YAML or on the command line."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch

from gen1.spec import ProtocolName
from models import family, family_of, resolve
from models.choices import refuse_below, refuse_unknown_choices
from models.decode import DetectConfig
from models.detector import DetectorConfig, published_but
from models.memory.carried import has_memory
from preprocessing.augment import AugmentConfig
from preprocessing.inputs import Input

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": None}
#: Settings that may change between two parts of a run: they do not alter what is learnt.
FREE = {"cache", "output", "device", "workers", "threads", "in_memory", "save_every_min"}
FREE |= {"pictures", "masks", "examples", "wandb", "continue_changed"}


@dataclass(frozen=True)
class OptimConfig:
    """The authors' Gen1 recipe by default (SpikeYOLO, ECCV 2024).

    Args:
        name: "sgd" (Nesterov) or "adamw".
        lr: Learning rate after warm-up.
        final_lr: Learning rate of the last epoch, as a share of lr.
        schedule: "linear" or "cosine", from lr to lr * final_lr, one value per epoch.
        momentum: SGD's momentum, or AdamW's beta1.
        weight_decay: Decay of convolution weights alone; SGD's is scaled by batch / 64.
        warmup_epochs: Epochs over which the rate rises from 0.
        warmup_bias_lr: Where biases start instead, falling to lr.
        warmup_momentum: Where momentum starts.
        clip: Largest gradient norm; 0 leaves gradients alone.
        backbone_lr: Learning rate of the backbone, as a share of that of neck and head.
        accumulate: Batches whose gradients are added before a step.
        ema_decay: Decay of the averaged weights that are evaluated and kept.
        ema_tau: Steps over which that decay rises from 0.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.02
    final_lr: float = 0.004
    schedule: Literal["linear", "cosine"] = "linear"
    momentum: float = 0.937
    weight_decay: float = 5e-4
    warmup_epochs: float = 10.0
    warmup_bias_lr: float = 0.1
    warmup_momentum: float = 0.8
    clip: float = 10.0
    backbone_lr: float = 1.0
    accumulate: int = 1
    ema_decay: float = 0.9999
    ema_tau: float = 2000.0

    def __post_init__(self) -> None:
        refuse_unknown_choices(self)
        refuse_below(1, self, "accumulate", prefix="optim.")
        for name in ("lr", "ema_tau"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, expected more than 0")
        rates = ("final_lr", "warmup_bias_lr", "backbone_lr")
        refuse_below(0, self, *rates, "weight_decay", "warmup_epochs", "clip", prefix="optim.")
        for name in ("momentum", "warmup_momentum", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How anything is trained.

    Args:
        output: Run directory; the same command on it again continues the run.
        epochs: Passes over the train split.
        batch_size: Samples per step of all processes together; each takes its share.
        workers: Processes that read the data, per training process; 0 reads in that one.
        eval_every: Epochs between two evaluations on val.
        save_every_min: Minutes between two checkpoints inside an epoch.
        device: "auto", "cpu" or "cuda".
        amp: Mixed precision: "off", "bf16" or "fp16"; "fp64" computes in double precision.
        sync_bn: Batch norm over the batches of all processes, not of each.
        channels_last: Store feature maps channels last: faster convolutions on most machines.
        threads: CPU threads of torch; 0 leaves its own choice.
        seed: Seed of weights, order and augmentation.
        continue_changed: Go on with more epochs or another number of processes than the run in
            `output` began with; recorded, and not exactly the run that began so.
        wandb: Project on Weights & Biases to log to as well; empty for none.
        init: Checkpoint to begin with: of a twin, another D, T, neuron or number of classes; what
            was taken over is printed and kept in run.json.
        freeze: "backbone" leaves its weights and batch norms as they are; "detector" all but those
            of a memory.
        model: The network.
        optim: Optimizer, learning rate, clipping and weight averaging.
        gains: Weights of the parts of the loss, by name; those left out are the published ones.
    """

    output: Path
    epochs: int = 100
    batch_size: int = 80
    workers: int = 4
    eval_every: int = 1
    save_every_min: float = 5.0
    device: str = "auto"
    amp: Literal["off", "bf16", "fp16", "fp64"] = "off"
    sync_bn: bool = True
    channels_last: bool = True
    threads: int = 0
    seed: int = 0
    continue_changed: bool = False
    wandb: str = ""
    init: Path | None = None
    freeze: Literal["nothing", "backbone", "detector"] = "nothing"
    model: DetectorConfig = field(default_factory=partial(resolve, "spikeyolo-s", variant="gen1"))
    optim: OptimConfig = field(default_factory=OptimConfig)
    gains: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_unknown_choices(self)
        refuse_below(1, self, "epochs", "batch_size", "eval_every")
        refuse_below(0, self, "workers", "threads")
        gains = published_but(family(self.model.family).gains(), self.gains)
        object.__setattr__(self, "gains", asdict(gains))

    def written(self) -> dict[str, Any]:
        """As config.yaml holds it: plain data that the command line reads again."""
        settings = plain(self) | {"continue_changed": False}
        for name in self.model.by_name:
            del settings["model"][name]
        return settings


@dataclass(frozen=True, kw_only=True)
class DetectorRunConfig(RunConfig):
    """How a detector is trained, whatever its data.

    Args:
        distill: Checkpoint of a larger network or twin whose maps the network is to imitate.
        distill_weight: Weight of that imitation beside the loss of the labels.
        energy_weight: Weight, in the loss, of the energy of accumulates as a share of the energy
            of the ANN-equivalent; 0 asks for accuracy alone.
    """

    distill: Path | None = None
    distill_weight: float = 1.0
    energy_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(0, self, "distill_weight", "energy_weight")


@dataclass(frozen=True)
class ClipConfig:
    """Training with the state carried through recordings.

    Args:
        clip: Windows of a recording in a row that a gradient flows through; 0 trains on single
            windows from rest. A batch then holds batch_size clips. See docs/memory.md.
        random_share: Share of every batch that is clips from anywhere, from rest.
    """

    clip: int = 0
    random_share: float = 0.25

    def __post_init__(self) -> None:
        if self.clip < 0:
            raise ValueError(f"stream.clip is {self.clip}, expected 0 or more")
        if not 0 <= self.random_share < 1:
            found = f"stream.random_share is {self.random_share}"
            raise ValueError(f"{found}, expected 0 or more and less than 1")


#: Settings that older runs do not have -> what they were.
SINCE = {"stream": asdict(ClipConfig())}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DetectorRunConfig):
    """Train a detector on the train split of a cache, choose it on the val split.

    Args:
        cache: Directory that `python -m preprocessing` wrote.
        input: "histogram" counts, "ternary" 127/0/255 frames in 3 channels, or "authors": ternary,
            letterboxed to 320x320, newest step first (both need a last-polarity cache).
        in_memory: Decompress both splits into memory once; for small sets.
        augment_on: Whether training samples are augmented; the authors' recipe does not.
        protocol: Rule of the val mAP; "" for that of the data set.
        pictures: Label times of val drawn into TensorBoard, whose firing rates are logged; 0 draws
            none and logs those of 4.
        augment: What augmentation may do.
        detect: Thresholds of the detections on val.
        stream: Clips with carried state instead of single windows.
    """

    cache: Path
    input: Input = "histogram"
    in_memory: bool = False
    augment_on: bool = False
    protocol: ProtocolName | Literal[""] = ""
    pictures: int = 4
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    stream: ClipConfig = field(default_factory=ClipConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream.clip and self.energy_weight:
            found = f"stream.clip is {self.stream.clip} with energy_weight {self.energy_weight}"
            raise ValueError(f"{found}, expected one of them to be 0")
        if self.stream.clip and self.distill:
            found = f"stream.clip is {self.stream.clip} with distill {self.distill}"
            raise ValueError(f"{found}, expected one of them: a teacher remembers nothing")
        if has_memory(self.model) and self.stream.clip < 2:
            memory = getattr(self.model, "memory", "")
            found = f"model.memory is {memory!r} with stream.clip {self.stream.clip}"
            raise ValueError(f"{found}, expected 2 or more: it learns from window to window")
        if has_memory(self.model) and self.input != "histogram":
            found = f"a model.memory with input {self.input!r}"
            raise ValueError(f"{found}, expected histogram: it hears counts of events")


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass or mapping as JSON would hold it."""
    data = dict(settings) if isinstance(settings, Mapping) else asdict(settings)
    return json.loads(json.dumps(data, default=str))


def as_of_today(settings: Any) -> Any:
    """Settings of a file of any age: null is not given, and neurons have their names of today."""
    if not isinstance(settings, dict):
        return settings
    given = {name: as_of_today(value) for name, value in settings.items() if value is not None}
    if isinstance(model := given.get("model"), dict) and "name" in model and "activation" in model:
        renamed = family_of(model["name"]).config.renamed
        model["activation"] = renamed.get(model["activation"], model["activation"])
    return given


def refuse_amp(amp: str, device: torch.device) -> None:
    """ValueError for bf16 on a GPU that only emulates it."""
    if amp != "bf16" or device.type != "cuda":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"amp is 'bf16', which {name} does not compute: expected off or fp16")
