"""The command `trbert`, for work with a finished model, without Ray. Each of its commands is a file in this folder."""

import sys
from collections.abc import Sequence

from trbert import __version__
from trbert.commands import bench, import_checkpoint
from trbert.console import Parser, exit_code

COMMANDS = {"bench": bench, "import-checkpoint": import_checkpoint}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        arguments: the words after `trbert`; None takes those of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _run(words), verbose="--verbose" in words)


def _run(words: Sequence[str]) -> None:
    options = _parser().parse_args(words)
    COMMANDS[options.command].run(options)


def _parser() -> Parser:
    parser = Parser(prog="trbert", description="Commands for reduced models.")
    parser.add_version(__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.HELP)
        command.add_arguments(own)
        own.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
