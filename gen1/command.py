"""One kind of door: how every command reads its words, says what is wrong and ends.

Exit codes: 0, 1 after one sentence on stderr, 2 for words it does not know, 130 when interrupted.
"""

import re
import sys
from argparse import ArgumentParser as PlainParser
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import (
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_loader,
)

from gen1.ending import fail, leave

OPTION = re.compile(r"--\w[\w.-]*")


def hyphened(text: str) -> str:
    """The same text, its options as they are documented: --batch-size."""
    return OPTION.sub(lambda option: option[0].replace("_", "-"), text)


class Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of a description, where examples stand."""


class CommandLine(ArgumentParser):
    """Fields of settings as options: shown with hyphens, taken with underscores, too.

    An option that is true or false may stand alone and then is true.
    """

    def parse_args(self, args: Sequence[str] | None = None, **options: Any) -> Namespace:  # type: ignore[override]
        """The words of a command as settings; those that are none end it with exit code 2."""
        words = sys.argv[1:] if args is None else list(args)
        end = words.index("--") if "--" in words else len(words)
        defaults = self.get_defaults().items()
        switches = {f"--{name}" for name, value in defaults if isinstance(value, bool)}
        for i in range(end):
            name, equals, value = words[i].partition("=")
            if OPTION.fullmatch(name):
                name = "--" + name[2:].replace("-", "_")
                words[i] = name + equals + value
                alone = not equals and words[i + 1 : i + 2] not in (["true"], ["false"])
                words[i] += "=true" if name in switches and alone else ""
        return super().parse_args(words, **options)

    def format_help(self, *formatter: Any) -> str:
        return hyphened(super().format_help(*formatter)).replace("{true,false}", "[{true,false}]")

    def format_usage(self, *formatter: Any) -> str:
        return hyphened(super().format_usage(*formatter))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(hyphened(message), ex)


def command_line(
    prog: str, description: str, options: Callable[..., Any] | None = None, **how: Any
) -> CommandLine:
    """A parser for the parameters of a function, or of a dataclass, whose may lie in a YAML file.

    Their help is its docstring; how: of jsonargparse's add_class_arguments.
    """
    parser = CommandLine(prog=prog, description=description, formatter_class=Help)
    if isinstance(options, type):
        parser.add_argument("--config", action=ActionConfigFile, help="YAML file of these settings")
        parser.add_class_arguments(options, **how)
    elif options is not None:
        parser.add_function_arguments(options, as_group=False, as_positional=True, **how)
    return parser


def run_line(
    prog: str, description: str, load: Callable[[str], Any], unreadable: tuple[type[Exception], ...]
) -> CommandLine:
    """A parser whose --config files are read by `load`, which raises `unreadable`."""
    set_loader("settings", load, unreadable)
    parser = command_line(prog, description)
    parser.parser_mode = "settings"
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of these settings")
    return parser


def peek(words: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What some options say, before all is read: text or None by name, the last one given.

    `config`: the list of files.
    """
    parser = PlainParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    for name in names:
        parser.add_argument(f"--{name}", dest=name)
    return vars(parser.parse_known_args(words)[0])


def run(
    parser: CommandLine,
    act: Callable[..., int | None],
    words: Sequence[str] | None = None,
    interrupted: str = "what was not complete is not there",
    failed: Callable[[BaseException], int] = fail,
) -> int:
    """Call `act` with the settings that the words give, by name; the exit code.

    words: None takes those of this process; interrupted: what to say then, if anything; failed:
    says what is wrong, returns the exit code.
    """
    given = parser.parse_args(words)
    given.pop("config", None)
    try:
        return act(**vars(parser.instantiate(given))) or 0
    except KeyboardInterrupt:
        if interrupted:
            print(f"interrupted: {interrupted}", file=sys.stderr)
        return 130
    except Exception as error:
        return failed(error)


def entry(
    prog: str, description: str, act: Callable[..., str | int | None], word: str = ""
) -> Callable[[Sequence[str] | None], int]:
    """The main(words) of a command whose options are the parameters of `act`.

    Text that `act` returns is printed, a number is the exit code. word: must stand first.
    """

    def tell(**given: Any) -> int | None:
        said = act(**given)
        return print(said) if isinstance(said, str) else said

    def main(words: Sequence[str] | None = None) -> int:
        parser = command_line(f"{prog} {word}".strip(), description, act)
        given = sys.argv[1:] if words is None else list(words)
        if word and given[:1] == [word]:
            given = given[1:]
        elif word and not {"--help", "-h"} & {*given}:
            parser.error(f"expected the word {word} first")
        return run(parser, tell, given)

    return main


def door(main: Callable[..., int]) -> Callable[[], NoReturn]:
    """`main` as the entry of a process, which ends with it."""
    return lambda: leave(main())
