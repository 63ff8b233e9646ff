"""``i3d-doctor``: what this machine can run and what to install."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from i3d_deploy.commands.options import reports_errors, steps

if TYPE_CHECKING:
    from rich.console import Console

    from i3d_deploy.doctor import Machine, Package, Report

# Wide enough that no command is broken over two lines where the report is piped into a file.
_PIPED_WIDTH = 200


@click.command(epilog="Example: i3d-doctor --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@reports_errors
def main(as_json: bool) -> None:
    """Tell what this machine can run and what to install.

    The exit code is 1 where something installed is broken or in conflict, and 0 where something is only missing. The
    report names no user, host or folder.
    """
    from i3d_deploy import doctor

    with steps(quiet=as_json) as show:
        show("importing the packages, each in a process of its own")
        report = doctor.examine()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        _print(report)
    if report.problems:
        raise SystemExit(1)


def _print(report: Report) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    _print_rows(console, "Machine", _machine_rows(report.machine))
    _print_rows(console, "Packages", [_package_row(package) for package in report.packages])
    for problem in report.problems:
        console.print(f"Problem: {problem.what}", style="bold red")
        for command in problem.mend:
            console.print(f"    {command}", soft_wrap=True)
        console.print()
    abilities = [("yes" if ability.works else "no", ability.name, ability.how) for ability in report.abilities]
    _print_rows(console, "What this machine can do", abilities)


def _print_rows(console: Console, title: str, rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for row in rows:
        # As text: rich takes the "[cpu]" of a pip command for a style.
        table.add_row(*(Text(cell) for cell in row))
    console.print(title, style="bold")
    console.print(table)
    console.print()


def _machine_rows(machine: Machine) -> list[tuple[str, ...]]:
    features = ", ".join(machine.cpu_features) or "none that matter"
    gpus = [
        f"{gpu.name}, {gpu.memory}, compute capability {gpu.compute_capability}, driver {gpu.driver}"
        for gpu in machine.gpus
    ]
    return [
        ("i3d-deploy", machine.i3d_deploy),
        ("Python", machine.python),
        ("system", machine.system),
        ("CPU", f"{machine.cpu}, {machine.cores} usable cores; {features}"),
        ("memory", f"{machine.memory_gib} GiB"),
        *(("GPU", gpu) for gpu in gpus or ["no NVIDIA GPU, or no driver for it"]),
    ]


def _package_row(package: Package) -> tuple[str, ...]:
    names = ", ".join(name for name in package.distributions if name != package.name)
    details = [f"from {names}" if names else "", ", ".join(package.offers), package.reason or ""]
    return package.name, package.version or "", package.state, "; ".join(detail for detail in details if detail)
