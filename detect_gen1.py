"""Recording -> boxes at every moment: *_bbox.npy, JSON lines, a video to look at."""

from collections.abc import Sequence
from functools import partial

from gen1 import command
from gen1.ending import fail
from streaming.files import run
from streaming.settings import StreamConfig

DESCRIPTION = """Find objects in a recording, and look at them.

  detect_gen1.py drive_td.dat --video drive.mp4
        boxes on the events, found by the network that comes along
  detect_gen1.py drive_td.dat --video drive.gif --from-s 10 --to-s 14 --speed 0.5
        four seconds at half their pace for a web page
  detect_gen1.py drive.raw --checkpoint runs/mine --every-ms 100 --score 0.5
        your own network, ten times a second, only boxes it is surer of
  detect_gen1.py recordings/test --video clips --jsonl boxes.jsonl
        all recordings of a directory
  detect_gen1.py drive_td.dat --live
        as a camera would send it: how far do boxes lag behind?

Boxes always go to OUTPUT/NAME_bbox.npy, which gen1.labels.read_boxes reads."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command.command_line("detect_gen1.py", DESCRIPTION, StreamConfig, as_positional=True)
    failed = partial(fail, memory="give a shorter time, --from-s and --to-s")
    return command.run(parser, lambda **given: run(StreamConfig(**given)), argv, failed=failed)


enter = command.door(main)
if __name__ == "__main__":
    enter()
