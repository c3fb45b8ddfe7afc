"""`python -m segmentation.eval`: mIoU beside energy, of any network that names pixels."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from gen1 import command
from gen1.ending import end_workers, fail
from segmentation.evaluate import MaskEvalConfig, run
from segmentation.report import results_table

DESCRIPTION = """Score a network on masks that it never saw, and price one inference.

  python -m segmentation.eval --checkpoint RUN --cache CACHE --masks RECORDINGS --output RUN/test
        mIoU, IoU per class and energy on the test split, and a report with pictures
  python eval_gen1.py --compare RUN/test OTHER/test --output OUT
        one table and one picture of several evaluations"""


def evaluate(**settings: Any) -> None:
    """Evaluate and print the results; no worker is left."""
    try:
        config = MaskEvalConfig(**settings)
        metrics, scores = run(config)
    finally:
        end_workers()
    print(results_table(metrics, scores))
    print(f"report: {config.output / 'report' / 'report.html'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command.command_line("python -m segmentation.eval", DESCRIPTION, MaskEvalConfig)
    failed = partial(fail, memory="lower batch_size or workers")
    return command.run(parser, evaluate, argv, failed=failed)


enter = command.door(main)
if __name__ == "__main__":
    enter()
