"""What a user writes about a run, in YAML or on the command line."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from gen1.protocol import PROTOCOLS
from models.config import GainsConfig, ModelConfig
from models.decode import DetectConfig
from preprocessing.augment import AugmentConfig
from preprocessing.inputs import INPUTS
from training.optim import OptimConfig

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": None}
#: Settings that may change between two parts of a run: they do not alter what is learnt.
FREE = {"cache", "output", "device", "workers", "threads", "in_memory", "save_every_min"}
FREE |= {"pictures", "wandb", "continue_changed"}


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector on the train split of a cache, choose it on the val split.

    Args:
        cache: Directory that `python -m preprocessing` wrote.
        output: Run directory; the same command on it again continues the run.
        epochs: Passes over the train split.
        batch_size: Samples per step of all processes together; each takes its share.
        workers: Processes that read the cache, per training process; 0 reads in that one.
        input: "histogram" counts, "ternary" 127/0/255 frames in 3 channels, or "authors": ternary,
            letterboxed to 320x320, newest step first (both need a last-polarity cache).
        in_memory: Decompress both splits into memory once; for small sets.
        augment_on: Whether training samples are augmented; the authors' recipe does not.
        protocol: Rule of the val mAP: "prophesee", "all-boxes" or "rvt".
        eval_every: Epochs between two evaluations on val.
        save_every_min: Minutes between two checkpoints inside an epoch.
        device: "auto", "cpu" or "cuda".
        amp: Mixed precision: "off", "bf16" or "fp16"; "fp64" computes in double precision.
        sync_bn: Batch norm over the batches of all processes, not of each.
        channels_last: Store feature maps channels last: faster convolutions on most machines.
        threads: CPU threads of torch; 0 leaves its own choice.
        seed: Seed of weights, order and augmentation.
        pictures: Label times of val drawn into TensorBoard; firing rates are theirs (0: of 4).
        continue_changed: Go on with more epochs or another number of processes than the run in
            `output` began with; recorded, and not exactly the run that began so.
        wandb: Project on Weights & Biases to log to as well; empty for none.
        model: The detector.
        optim: Optimizer, learning rate, clipping and weight averaging.
        gains: Weights of the parts of the loss.
        augment: What augmentation may do.
        detect: Thresholds of the detections on val.
    """

    cache: Path
    output: Path
    epochs: int = 100
    batch_size: int = 80
    workers: int = 4
    input: str = "histogram"
    in_memory: bool = False
    augment_on: bool = False
    protocol: str = "prophesee"
    eval_every: int = 1
    save_every_min: float = 5.0
    device: str = "auto"
    amp: str = "off"
    sync_bn: bool = True
    channels_last: bool = True
    threads: int = 0
    seed: int = 0
    pictures: int = 4
    continue_changed: bool = False
    wandb: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    gains: GainsConfig = field(default_factory=GainsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("protocol", self.protocol, PROTOCOLS),
            ("amp", self.amp, AMP_DTYPES),
            ("input", self.input, INPUTS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
        for name in ("epochs", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")


def refuse_amp(amp: str, device: torch.device) -> None:
    """ValueError for bf16 on a GPU that only emulates it."""
    if amp != "bf16" or device.type != "cuda":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"amp is 'bf16', which {name} does not compute: expected off or fp16")
