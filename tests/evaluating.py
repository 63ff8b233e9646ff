"""``training/test.py`` as tests call it."""

from __future__ import annotations

import runpy
from pathlib import Path

import click
from click.testing import CliRunner, Result

SCRIPT = Path(__file__).parents[1] / "training" / "test.py"


def run(*arguments: object) -> Result:
    """Invoke the script in this process; a traceback is a bug."""
    command = runpy.run_path(str(SCRIPT))["main"]
    assert isinstance(command, click.Command)
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def assert_one_line(result: Result, *parts: str, code: int = 1) -> None:
    """The command has failed, and said why in one line that holds these parts."""
    assert result.exit_code == code, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    for part in parts:
        assert part in errors[0]
