"""Checkpoint + cache -> mAP under a named protocol, energy per inference, report with pictures."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.compare import compare
from evaluation.metrics import EvalConfig, run
from evaluation.report import results_table
from gen1 import command
from gen1.ending import end_workers, fail

DESCRIPTION = """Score a checkpoint on recordings it never saw, and price one inference.

  eval_gen1.py --checkpoint RUN --cache CACHE --output RUN/test
        mAP and energy on the test split, and a report with pictures
  eval_gen1.py --compare RUN/test OTHER/test --output OUT
        one table and one picture of several evaluations: eval_gen1.py --compare --help"""


def evaluate(**settings: Any) -> None:
    """Evaluate and print the results; no worker is left."""
    try:
        config = EvalConfig(**settings)
        metrics = run(config)
    finally:
        end_workers()
    print(results_table(metrics))
    print(f"report: {config.output / 'report' / 'report.html'}")


def compare_line() -> command.CommandLine:
    parser = command.command_line(
        "eval_gen1.py --compare",
        "One table and one picture of several evaluations of the same recordings, or of pictures "
        "taken beside them; runs that differ only in the seed are one row.",
    )
    parser.add_argument("paths", nargs="+", type=Path, help="evaluated runs")
    parser.add_argument(
        "--protocol", default="", help="rule of the mAP in the picture (the first that all have)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="directory for compare.md and compare.png; without it the tables are only printed",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if "--compare" in words:
        rest = [word for word in words if word != "--compare"]
        return command.run(compare_line(), lambda **given: print(compare(**given)), rest)
    failed = partial(fail, memory="lower batch_size or workers")
    parser = command.command_line("eval_gen1.py", DESCRIPTION, EvalConfig)
    return command.run(parser, evaluate, words, failed=failed)


enter = command.door(main)
if __name__ == "__main__":
    enter()
