"""Figures of one subject: printed as rows of Markdown tables as they come, and kept in a JSON file as soon."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from i3d_deploy import files

JSON_VERSION = 1
PERCENT = ("share", "spread", "utilisation")
"""Names of columns whose numbers are shares."""


Status = Literal["complete", "partly measured", "failed"]


class NotHereError(Exception):
    """A subject, or a part of one, that cannot be measured here; the message says why."""


class Sheet:
    """The tables of a subject.

    Args:
        path: The JSON file, written anew with every row: a run that is cut off loses none.
        subject: What is measured.
        head: Machine, versions, date and so on.
        protocol: What was measured, in words and numbers.
    """

    def __init__(self, path: Path, *, subject: str, head: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
        self._path, self._began = path, time.perf_counter()
        self._record: dict[str, Any] = {
            "version": JSON_VERSION,
            "subject": subject,
            **head,
            "protocol": dict(protocol),
            "status": "running",
            "reason": None,
            "tables": [],
            "notes": [],
        }
        click.echo(f"\n## {subject}")
        self._write()

    def table(self, title: str) -> Table:
        """Begin a table."""
        table = Table(title, on_row=self._write)
        self._record["tables"].append({"title": title, "rows": table.rows})
        return table

    def note(self, text: str) -> None:
        """A line below the tables."""
        click.echo(f"\n{text}")
        self._record["notes"].append(text)
        self._write()

    def protocol(self, **values: Any) -> None:
        """Say more of what is measured."""
        self._record["protocol"] |= values
        self._write()

    def finish(self, status: Status, reason: str | None = None) -> None:
        """End the subject.

        Args:
            status: How it ended.
            reason: Why not as it should.
        """
        if reason is not None:
            click.echo(f"\n{status}: {reason}")
        self._record |= {"status": status, "reason": reason}
        self._write()

    def _write(self) -> None:
        self._record["wall_seconds"] = time.perf_counter() - self._began
        with files.replacing(self._path) as (target,):
            target.write_text(json.dumps(self._record, indent=2) + "\n", encoding="utf-8")


class Table:
    """Rows of figures.

    Args:
        title: Printed above them.
        on_row: Called after each row.

    Attributes:
        rows: All so far, as they were given.
    """

    def __init__(self, title: str, *, on_row: Any) -> None:
        self._title, self._on_row = title, on_row
        self.rows: list[dict[str, Any]] = []

    def row(self, **values: Any) -> None:
        """Print and keep a row; all rows have the names of the first."""
        if not self.rows:
            headings = [name.replace("_per_", "/").replace("_", " ") for name in values]
            click.echo(f"\n{self._title}\n\n| {' | '.join(headings)} |\n|{' --- |' * len(values)}")
        assert not self.rows or values.keys() == self.rows[0].keys(), "rows of a table have the same names"
        self.rows.append(values)
        click.echo(f"| {' | '.join(_cell(name, value) for name, value in values.items())} |")
        self._on_row()


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if name in PERCENT:
            return f"{value:.1%}"
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("|", "/").replace("\n", " ")
