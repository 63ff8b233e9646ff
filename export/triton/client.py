"""Ask a Triton server what happens in a video: all its frames go to NAME_video, labels come back.

It needs the extra `triton-client`. Frames are decoded by i3d-deploy, as they were for the export's proof. With --engine
it also proves the server: what runs the engine there is another build than what ran it in the export's proof.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import i3d_deploy as i3d
from i3d_deploy import limits, video


@click.command(epilog="Example: python client.py clip.mp4 --model i3d_r50_video --url localhost:8001")
@click.argument("path", metavar="VIDEO", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="NAME_video, where the repository is NAME_triton.")
@click.option("--url", default="localhost:8001", show_default=True, help="The server's gRPC address.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Labels to print.")
@click.option("--clips", type=click.IntRange(min=1), help="Fewer clips than the card has.")
@click.option("--crops", type=click.Choice(["1", "3"]), help="Other crops than the card has.")
@click.option(
    "--engine",
    type=click.Path(path_type=Path),
    help="The engine that is served, NAME_triton/NAME/1/model.*: fail when the server's logits are not those that it "
    "has here.",
)
def main(path: Path, model: str, url: str, top: int, clips: int | None, crops: str | None, engine: Path | None) -> None:
    """Print the most probable labels of VIDEO."""
    try:
        inputs = read(path)
        if clips is not None:
            inputs["clips"] = np.array([clips], np.int32)
        if crops is not None:
            inputs["crops"] = np.array([crops], np.int32)
        with InferenceServerClient(url) as client:
            response = client.infer(
                model,
                [tensor(name, array) for name, array in inputs.items()],
                outputs=[
                    InferRequestedOutput("probabilities", class_count=top),
                    InferRequestedOutput("logits"),
                    InferRequestedOutput("warnings"),
                ],
            )
        for line in response.as_numpy("probabilities"):
            probability, _, label = line.decode().split(":", 2)
            click.echo(f"{float(probability):7.4f}  {label}")
        for line in response.as_numpy("warnings"):
            click.echo(f"Warning: {line.decode()}", err=True)
        if engine is not None:
            click.echo(prove(response.as_numpy("logits"), engine, path, clips=clips, crops=crops))
    except InferenceServerException as error:
        raise click.ClickException(f"{url}, model {model}: {error}") from error
    except i3d.I3DError as error:
        raise click.ClickException(str(error)) from error


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The whole video: (T, H, W, 3) uint8 RGB frames, and their rate where the file says it."""
    with video.stream(path) as stream:
        inputs: dict[str, NDArray[Any]] = {"video": np.stack(list(stream.frames))}
        if stream.frames_per_second is not None:
            inputs["frames_per_second"] = np.array([stream.frames_per_second], np.float32)
    return inputs


def prove(logits: NDArray[np.float32], engine: Path, path: Path, *, clips: int | None, crops: str | None) -> str:
    """Hold a server's logits (V, K) against those of the same engine here; the limit is that of the export's proof.

    Raises:
        I3DError: They differ by more, or the engine cannot run here.
    """
    with i3d.load(engine) as recognizer:
        expected = recognizer.predict(path, clips=clips, crops=None if crops is None else int(crops)).logits
        if logits.shape != expected.shape:
            raise i3d.InputError(
                f"the server has logits of {logits.shape}, {engine} of {expected.shape}: not its engine"
            )
        difference, limit = np.abs(logits - expected).max(), limits.logits_limit(recognizer.card, expected)
        found = f"{len(logits)} views: logits differ from {recognizer.ran_by} by at most {difference:.1e}"
    if not difference <= limit:
        raise i3d.InputError(f"{found}, allowed is {limit:.1e}: the server does not answer as was proven")
    return f"{found} (allowed {limit:.1e})"


def tensor(name: str, array: NDArray[Any]) -> InferInput:
    """An array as a tensor of a request."""
    wrapped = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    wrapped.set_data_from_numpy(array)
    return wrapped


if __name__ == "__main__":
    main()
