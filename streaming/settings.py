"""What detect_gen1.py can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SAMPLE_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "spikeyolo-p-synthetic.pt"


@dataclass(frozen=True)
class StreamConfig:
    """Detect on one recording or a directory of them.

    Args:
        recording: NAME_td.dat, a RAW file (EVT 2, 2.1, 3), another format of docs/data.md, or a
            directory of them.
        checkpoint: Checkpoint file, or a run directory (its best.pt is used).
        output: Directory for NAME_bbox.npy, boxes as Prophesee stores them.
        video: File to draw, .mp4 or .gif; for a directory of recordings a directory of .mp4.
        jsonl: File to write with a line of JSON per window.
        every_ms: A window ends every so many ms. Windows are as long as those of the training.
        from_s: Where to begin, in s of the recording's clock.
        to_s: Where to end, in s of the recording's clock; its end if not given.
        speed: Pace of the video and of `--live`; 1 is real time, 0.25 four times slower.
        score: Least score of a box, in [0, 1].
        show_ms: A picture shows the events of so many ms before it.
        energy_windows: Windows whose energy is counted, spread evenly; 0 counts none.
        device: "auto", "cpu" or "cuda".
        engine: What runs the network: "torch", or onnxruntime on a CPU: "onnx", or with rounded
            weights, the fastest, "onnx-int8". These count no spikes, no energy. Extra `[onnx]`.
        height: Sensor height in px where a .dat names none, else the training's; of a RAW file, in
            place of the header's, else 720.
        width: Sensor width in px where the recording names none; else as for height, 1280 of a RAW
            file.
        carry_state: Keep membranes from window to window; `--every-ms` must be the window's length.
            Their energy is not counted.
        live: Replay the recording at its own pace; windows that come too late are dropped.
    """

    recording: Path
    checkpoint: Path = SAMPLE_CHECKPOINT
    output: Path = Path("detections")
    video: Path | None = None
    jsonl: Path | None = None
    every_ms: float = 50.0
    from_s: float = 0.0
    to_s: float | None = None
    speed: float = 1.0
    score: float = 0.3
    show_ms: float = 50.0
    energy_windows: int = 4
    device: str = "auto"
    engine: Literal["torch", "onnx", "onnx-int8"] = "torch"
    height: int | None = None
    width: int | None = None
    carry_state: bool = False
    live: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint == SAMPLE_CHECKPOINT and not self.checkpoint.exists():
            expected = "expected `--checkpoint` with a run directory or a checkpoint"
            raise ValueError(f"{self.checkpoint}: the sample checkpoint is not there, {expected}")
        for name, least in (("every_ms", 0.001), ("show_ms", 0.001), ("speed", 1e-6)):
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name):g}, expected more than 0")
        if not 0 <= self.score <= 1:
            raise ValueError(f"score is {self.score:g}, expected 0 to 1")
        if self.to_s is not None and not self.from_s < self.to_s:
            raise ValueError(f"to_s is {self.to_s:g}, expected more than from_s, {self.from_s:g}")
        if self.live and (self.video or self.from_s or self.to_s is not None):
            found = "live was given with video, from_s or to_s"
            raise ValueError(f"{found}, expected live alone: it replays all and draws nothing")
        for name, fewest in (("energy_windows", 0), ("height", 1), ("width", 1)):
            value = getattr(self, name)
            if value is not None and value < fewest:
                raise ValueError(f"{name} is {value}, expected {fewest} or more")

    @property
    def every_us(self) -> int:
        return round(1000 * self.every_ms)
