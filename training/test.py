"""Evaluate a checkpoint or an exported engine on a labelled list, as the zoo does."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from i3d_deploy.commands.options import device_option, reports_errors, threads_option
from i3d_deploy.metrics import METRICS

if TYPE_CHECKING:
    from i3d_deploy.results import AverageClips, Result
    from i3d_deploy.training.recipe import Split

RECIPES = Path(__file__).parent / "recipes"


class _Command(click.Command):
    """Takes ``--eval a b`` for ``--eval a --eval b``, as the zoo's command does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each of its words."""
        return super().parse_args(ctx, list(_repeated(args)))


def _repeated(arguments: Sequence[str]) -> Iterator[str]:
    is_listing = False
    previous = ""
    for argument in arguments:
        # Words near to a metric are taken too, so that a slip of the pen is told from a recipe.
        is_listing = is_listing and bool(difflib.get_close_matches(argument, METRICS, n=1))
        if is_listing and previous != "--eval":
            yield "--eval"
        yield argument
        is_listing = is_listing or argument == "--eval" or previous == "--eval" or argument.startswith("--eval=")
        previous = argument


@click.command(
    cls=_Command,
    epilog="Example: python training/test.py i3d_r50_32x2x1_100e_kinetics400_rgb i3d_r50_fp32.onnx "
    "--eval top_k_accuracy mean_class_accuracy --out result.json",
)
@click.argument("recipe")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--eval", "names", type=click.Choice(METRICS), multiple=True, metavar="METRIC...", help=f"{', '.join(METRICS)}."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Scores of all videos, .json or .pkl; a .jsonl with a line per video is written beside it.",
)
@click.option(
    "--average-clips",
    type=click.Choice(["prob", "score", "none"]),
    help="Mean of the views' probabilities, of their logits, or a row for each view.  [default: the recipe's]",
)
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True, help="Which list.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a field of the recipe; repeats.")
@click.option(
    "--confusion", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the confusion matrix; .csv beside."
)
@device_option
@threads_option
@click.option("--batch", type=click.IntRange(min=1), help="Views per run of the engine.")
@click.option(
    "--flow-cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep the optical flow of videos here, for networks that take flow.",
)
@click.option("--skip-broken", is_flag=True, help="Leave out videos that cannot be read; their scores are zeros.")
@click.option("--fresh", is_flag=True, help="Start anew instead of going on where a killed evaluation stopped.")
@reports_errors
def main(
    recipe: str,
    checkpoint: Path,
    names: tuple[str, ...],
    out: Path,
    average_clips: AverageClips | None,
    split: Split,
    settings: tuple[str, ...],
    confusion: Path | None,
    device: str,
    threads: int | None,
    batch: int | None,
    flow_cache: Path | None,
    skip_broken: bool,
    fresh: bool,
) -> None:
    """Evaluate CHECKPOINT (.safetensors, .pth, .onnx, .xml, .engine, or the .json of two streams) on the test list of
    RECIPE.

    RECIPE is a name in training/recipes, or a .py file; of two streams, that of either. The views are the recipe's,
    whatever the checkpoint's card says. Optical flow is read where the list names folders of flow images, and else
    computed.

    Under torchrun the processes share the list. A killed evaluation goes on where it stopped when it is started again.
    """
    from i3d_deploy import evaluation
    from i3d_deploy import processes as all_processes
    from i3d_deploy.confusion import check, write
    from i3d_deploy.training.recipe import load

    if confusion is not None:
        check(confusion)
    chosen = load(recipe, folder=RECIPES).overridden(settings)
    with all_processes.joined() as processes, closing(_Printer(is_first=processes.is_first)) as printer:
        result = evaluation.run(
            checkpoint,
            chosen,
            out=out,
            split=split,
            averaging=average_clips,
            names=names,
            confusion=confusion is not None,
            device=device,
            threads=threads,
            batch=batch,
            flow_cache=flow_cache,
            skip_broken=skip_broken,
            fresh=fresh,
            processes=processes,
            listener=printer,
        )
    if result is None:
        return
    click.echo(f"{out} written", err=True)
    _print(result, names)
    if confusion is not None:
        predicted, true = result.predictions()
        write(confusion, predicted=predicted, true=true, labels=result.plan.labels)
        click.echo(f"{confusion} written", err=True)


class _Printer:
    """Shows the first process's progress on stderr: a bar, or in a log a line for each tenth of the list."""

    def __init__(self, *, is_first: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
        self._is_first = is_first
        self._is_log = not console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=self._is_log or not is_first)
        self._task = self._progress.add_task("", total=None)

    def note(self, text: str) -> None:
        """Print what all processes would say, once."""
        if self._is_first:
            click.echo(f"Note: {text}", err=True)

    def failure(self, text: str) -> None:
        """Print a line, whichever process it is."""
        self.close()
        click.echo(f"Broken: {text}", err=True)

    def video(self, done: int, total: int, top1: float | None) -> None:
        """Move the bar."""
        accuracy = "" if top1 is None else f"top-1 {top1:.4f}"
        if not self._is_log:
            self._progress.update(self._task, completed=done, total=total, description=accuracy)
            self._progress.start()
        elif self._is_first and done * 10 // total > (done - 1) * 10 // total:
            click.echo(f"{done} of {total} videos" + (accuracy and f", {accuracy}"), err=True)

    def close(self) -> None:
        """Make room for lines."""
        self._progress.stop()


def _print(result: Result, names: Sequence[str]) -> None:
    found = result.metrics(names) if names else {}
    for name, value in found.items():
        click.echo(f"{name}: {value:.4f}")
    click.echo(f"videos: {len(result.readable)} of {len(result.entries)}")
    click.echo(f"views: {result.plan.num_views}")
    warned = sum(bool(entry.warnings) for entry in result.entries)
    if warned:
        click.echo(f"Note: {warned} videos with warnings, see the .jsonl", err=True)


if __name__ == "__main__":
    main()
