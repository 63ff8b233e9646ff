"""What the commands share: expected failures as one line, options of checkpoints, progress on stderr."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar, get_args

import click

from i3d_deploy import labels
from i3d_deploy.card import Averaging, FlowMethod
from i3d_deploy.errors import I3DError, InputError
from i3d_deploy.network import NETWORKS
from i3d_deploy.origins import ORIGINS
from i3d_deploy.preprocessing import Formula, Sampling, Scheme

if TYPE_CHECKING:
    from i3d_deploy.checkpoint import Checkpoint

Stream = Literal["rgb", "flow"]

INTERRUPTED = 130
"""Exit code of what Ctrl-C has ended, as of a shell: 128 + SIGINT."""

P = ParamSpec("P")
R = TypeVar("R")


def reports_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an expected failure into a line on stderr and exit code 1, and Ctrl-C into one and exit code 130; anything
    else is a bug, with a traceback.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise SystemExit(INTERRUPTED) from None
        except I3DError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # the reader has gone, as in "| head": click ends quietly
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from error

    return wrapped


@contextmanager
def steps(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show on stderr what a long command is doing: a line that is gone afterwards, or in a log a line a step."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        # In a log, one line a step: what stands before the first colon.
        seen: set[str] = set()

        def log(text: str) -> None:
            step = text.partition(":")[0]
            if step not in seen and not quiet:
                click.echo(step, err=True)
            seen.add(step)

        yield log
        return
    # Redrawn seldom: what is measured meanwhile must not wait for it.
    with console.status("", refresh_per_second=2) as status:
        yield lambda text: status.update(text)


device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the backend's choice]"
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "fp8"]),
    help="What a checkpoint is computed in.  [default: fp32; on a GPU fp16 where its logits are within their limit, "
    "which takes longer to start]",
)
min_decoded_option = click.option(
    "--min-decoded",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the promised frames that a damaged file must still give.",
)

_MODEL = click.option(
    "--model",
    type=click.Choice(list(NETWORKS)),
    help="Network, where the checkpoint leaves it open; of two streams, the first.",
)
_ORIGIN = click.option(
    "--origin",
    type=click.Choice(list(ORIGINS)),
    help="Whose checkpoint it is.  [default: by the names of its entries]",
)
_ALLOW_HASH_MISMATCH = click.option(
    "--allow-hash-mismatch", is_flag=True, help="Read a zoo file whose name promises another SHA-256."
)
_FLOW_METHOD = click.option(
    "--flow-method",
    type=click.Choice(get_args(FlowMethod)),
    help="How optical flow is computed: tvl1 as in the paper of I3D (extra flow), or dis, many times as fast.  "
    "[default: the checkpoint's]",
)


def reading_options(function: Callable[P, R]) -> Callable[P, R]:
    """Those of the :func:`checkpoint_options` that say how to read a checkpoint."""
    return _MODEL(_ORIGIN(_FLOW_METHOD(_ALLOW_HASH_MISMATCH(function))))


def checkpoint_options(function: Callable[P, R]) -> Callable[P, R]:
    """The options that say how to read a checkpoint and what to write on its card."""
    options = [
        _MODEL,
        _ORIGIN,
        click.option("--labels", metavar="SET|FILE", help="kinetics400, ucf101, hmdb51, or a file of one name a line."),
        click.option("--sampling", type=click.Choice(get_args(Scheme)), help="Scheme that places the clips."),
        click.option(
            "--formula",
            type=click.Choice(get_args(Formula)),
            help="Whose uniform sampling the checkpoint was evaluated with.",
        ),
        click.option("--clip-len", type=click.IntRange(min=1), help="Frames per clip."),
        click.option("--frame-interval", type=click.IntRange(min=1), help="Distance of two frames of a clip."),
        click.option("--short-side", type=click.IntRange(min=1), help="Pixels of a resized frame's shorter side."),
        click.option("--crop-size", type=click.IntRange(min=1), help="Pixels of a crop's side."),
        click.option("--averaging", type=click.Choice(get_args(Averaging)), help="What is averaged over the views."),
        _FLOW_METHOD,
        _ALLOW_HASH_MISMATCH,
    ]
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """The values of :func:`checkpoint_options`, None where the checkpoint decides; and which of two streams it is."""

    model: str | None
    origin: str | None
    labels: str | None = None
    sampling: Scheme | None = None
    formula: Formula | None = None
    clip_len: int | None = None
    frame_interval: int | None = None
    short_side: int | None = None
    crop_size: int | None = None
    averaging: Averaging | None = None
    flow_method: FlowMethod | None = None
    allow_hash_mismatch: bool
    stream: Stream | None = None

    def read(self, path: Path) -> Checkpoint:
        """Read a checkpoint and put the options on its card."""
        from i3d_deploy import checkpoint

        names = _label_names(self.labels)
        found = checkpoint.load(
            path,
            network=self.model,
            origin=self.origin,
            label_names=names,
            allow_hash_mismatch=self.allow_hash_mismatch,
        )
        if self.stream is not None and found.card.modality != self.stream:
            place = "first stream" if self.stream == "rgb" else "second stream (--flow)"
            raise InputError(f"{path} is a network of {found.card.modality}: the {place} is one of {self.stream}")
        if self.flow_method is not None and found.card.modality != "flow":
            raise InputError(f"{path} is a network of {found.card.modality}: --flow-method is for networks of flow")
        return self._on_card(found)

    def make_random(self, *, seed: int) -> Checkpoint:
        """Make the network of ``model`` with random weights and as many classes as there are labels."""
        from i3d_deploy import checkpoint
        from i3d_deploy.card import with_labels

        assert self.model is not None
        names = _label_names(self.labels)
        if names is None:
            return self._on_card(checkpoint.random(self.model, seed=seed))
        count = labels.LABEL_SETS[names] if isinstance(names, str) else len(names)
        made = checkpoint.random(self.model, seed=seed, num_classes=count)
        return self._on_card(dataclasses.replace(made, card=with_labels(made.card, names)))

    @property
    def of_rgb(self) -> CheckpointOptions:
        """Those of the first of two streams."""
        return dataclasses.replace(self, flow_method=None, stream="rgb")

    @property
    def of_flow(self) -> CheckpointOptions:
        """Those of the second of two streams; ``model`` is the network of the first."""
        return dataclasses.replace(self, model=None, stream="flow")

    @property
    def given(self) -> tuple[str, ...]:
        """The options that were given, as they are called on the command line."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "stream"]
        return tuple(f"--{name.replace('_', '-')}" for name in names if getattr(self, name) not in (None, False))

    def _on_card(self, found: Checkpoint) -> Checkpoint:
        """Put what was given on the card of a checkpoint."""
        chosen = {
            "scheme": self.sampling,
            "formula": self.formula,
            "clip_len": self.clip_len,
            "frame_interval": self.frame_interval,
        }
        chosen = {name: value for name, value in chosen.items() if value is not None}
        is_whole = found.card.sampling.scheme == "whole"
        if self.sampling is not None and is_whole != (self.sampling == "whole"):
            chosen |= {"num_clips": Sampling().num_clips if is_whole else 1}
        if self.sampling == "whole" and not is_whole:
            least = found.card.network.least_clip_len(self.crop_size or found.card.spatial.crop_size)
            chosen |= {"min_clip_len": max(least, found.card.sampling.min_clip_len)}
        sizes = {"short_side": self.short_side, "crop_size": self.crop_size}
        sizes = {name: value for name, value in sizes.items() if value is not None}
        card = found.card.replaced(
            sampling=found.card.sampling.replaced(**chosen), spatial=found.card.spatial.replaced(**sizes)
        )
        for name in ("averaging", "flow_method"):
            if getattr(self, name) is not None:
                card = card.replaced(**{name: getattr(self, name)})
        is_overruled = {"sampling ": bool(chosen or sizes), "flow ": self.flow_method is not None}
        overruled = tuple(beginning for beginning, is_given in is_overruled.items() if is_given)
        notes = tuple(note for note in found.notes if not note.startswith(overruled))
        return dataclasses.replace(found, card=card, notes=notes)


def _label_names(given: str | None) -> str | tuple[str, ...] | None:
    if given is None or given in labels.LABEL_SETS:
        return given
    return labels.read(Path(given))
