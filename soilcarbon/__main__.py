"""The command `soilcarbon`, also `python -m soilcarbon`: finds the sub-command by name and runs it."""

import signal
import sys

from soilcarbon.io.interruption import end_at_signals


def usage() -> str:
    """Return the list of commands, each with the first line of its module's docstring."""
    import ast
    from pathlib import Path

    from soilcarbon.commands.arguments import COMMANDS

    folder = Path(__file__).parent / "commands"
    lines = ["usage: soilcarbon COMMAND [--help] [SETTINGS]", "", "Soil organic carbon from profiles and rasters to maps.", ""]
    for name in COMMANDS:
        purpose = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<12}{purpose.splitlines()[0]}")
    return "\n".join([*lines, "", "soilcarbon COMMAND --help lists the settings of one. soilcarbon --version: the version."])


def dispatch(arguments: list[str]) -> None:
    """Run the sub-command that the first argument names.

    Raises
    ------
    UserError
        If there is no such command, or the command finds a mistake of its user.
    """
    import importlib

    from soilcarbon import __version__
    from soilcarbon.commands.arguments import COMMANDS
    from soilcarbon.io.files import UserError, nearest

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
    elif arguments[0] == "--version":
        print(f"soilcarbon {__version__}")
    elif arguments[0] not in COMMANDS:
        raise UserError(f"no command {arguments[0]!r}{nearest(arguments[0], COMMANDS)} (soilcarbon --help lists them)")
    else:
        importlib.import_module(f"soilcarbon.commands.{arguments[0]}").main(arguments[1:])


def main() -> int:
    """Run the command line of this process and return its exit status."""
    undo = end_at_signals()  # before the imports below, which take a while
    from soilcarbon.io.files import run

    try:
        return run(lambda: dispatch(sys.argv[1:]))
    finally:
        undo()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the interpreter ends there is nothing to say


if __name__ == "__main__":
    sys.exit(main())
