"""Ask a Triton server what happens in a video: all its frames go to NAME_video, labels come back.

It needs the extra `triton-client`. Frames are decoded by i3d-deploy, as they were for the export's proof.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from i3d_deploy import I3DError, video


@click.command(epilog="Example: python client.py clip.mp4 --model i3d_r50_video --url localhost:8001")
@click.argument("path", metavar="VIDEO", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="NAME_video, where the repository is NAME_triton.")
@click.option("--url", default="localhost:8001", show_default=True, help="The server's gRPC address.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Labels to print.")
@click.option("--clips", type=click.IntRange(min=1), help="Fewer clips than the card has.")
@click.option("--crops", type=click.Choice(["1", "3"]), help="Other crops than the card has.")
def main(path: Path, model: str, url: str, top: int, clips: int | None, crops: str | None) -> None:
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
                outputs=[InferRequestedOutput("probabilities", class_count=top), InferRequestedOutput("warnings")],
            )
    except (I3DError, InferenceServerException) as error:
        raise click.ClickException(str(error)) from error
    for line in response.as_numpy("probabilities"):
        probability, _, label = line.decode().split(":", 2)
        click.echo(f"{float(probability):7.4f}  {label}")
    for line in response.as_numpy("warnings"):
        click.echo(f"Warning: {line.decode()}", err=True)


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The whole video: (T, H, W, 3) uint8 RGB frames, and their rate where the file says it."""
    with video.stream(path) as stream:
        inputs: dict[str, NDArray[Any]] = {"video": np.stack(list(stream.frames))}
        if stream.frames_per_second is not None:
            inputs["frames_per_second"] = np.array([stream.frames_per_second], np.float32)
    return inputs


def tensor(name: str, array: NDArray[Any]) -> InferInput:
    """An array as a tensor of a request."""
    wrapped = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    wrapped.set_data_from_numpy(array)
    return wrapped


if __name__ == "__main__":
    main()
