"""`python -m images.eval`: COCO's figures beside energy, of any network of pictures."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from evaluation.report import results_table
from gen1 import command
from gen1.ending import fail
from images.evaluate import ImageEvalConfig, run

DESCRIPTION = """Score a network on pictures with pycocotools, and price one inference.

  python -m images.eval --checkpoint 69M.pt --images val2017 --annotations val.json --output OUT
        the authors' published file, as it is
  python -m images.eval --checkpoint RUN --images DIR --annotations JSON --output OUT --side 320
        a network of your own, on smaller pictures"""


def evaluate(**settings: Any) -> None:
    """Evaluate and print the results."""
    config = ImageEvalConfig(**settings)
    metrics = run(config)
    print(metrics["images"])
    print(results_table(metrics))
    print(f"report: {config.output / 'report' / 'report.html'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command.command_line("python -m images.eval", DESCRIPTION, ImageEvalConfig)
    return command.run(parser, evaluate, argv, failed=partial(fail, memory="lower batch_size"))


enter = command.door(main)
if __name__ == "__main__":
    enter()
