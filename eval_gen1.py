"""Checkpoint + cache -> mAP under a named protocol, energy per inference, report with pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser

from evaluation.compare import compare
from evaluation.metrics import EvalConfig, run
from evaluation.report import results_table
from preprocessing.ending import end_workers, fail, leave


def command_line() -> ArgumentParser:
    parser = ArgumentParser(
        prog="eval_gen1.py",
        description="Score a checkpoint on recordings it never saw, and price one inference.",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with these settings")
    parser.add_class_arguments(EvalConfig)
    return parser


def compare_line() -> ArgumentParser:
    parser = ArgumentParser(
        prog="eval_gen1.py --compare",
        description="One table and one picture of several evaluations of the same recordings; "
        "runs that differ only in the seed are one row.",
    )
    parser.add_argument(
        "--compare", dest="paths", nargs="+", type=Path, required=True, help="evaluated runs"
    )
    parser.add_argument("--protocol", default="prophesee", help="rule of the mAP in the picture")
    parser.add_argument("--output", type=Path, help="directory for compare.md and compare.png")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "--compare" in argv:
        try:
            print(compare(**vars(compare_line().parse_args(argv))))
        except Exception as error:
            return fail(error)
        return 0
    parser = command_line()
    arguments = parser.parse_args(argv)
    arguments.pop("config", None)
    try:
        config = EvalConfig(**vars(parser.instantiate(arguments)))
        metrics = run(config)
    except Exception as error:
        return fail(error, memory="lower batch_size or workers")
    except KeyboardInterrupt:
        print("interrupted: what was not complete is not there", file=sys.stderr)
        return 130
    finally:
        end_workers()
    print(results_table(metrics))
    print(f"report: {config.output / 'report' / 'report.html'}")
    return 0


if __name__ == "__main__":
    leave(main())
