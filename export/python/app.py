"""A web service around one recognizer: drop a clip on its page, and see which labels it has when.

    python export/python/app.py engines/i3d_r50.onnx
    I3D_ARTIFACT=engines/i3d_r50.onnx uvicorn --factory --app-dir export/python app:create_app

Each request runs in a thread, so that the event loop goes on; all of them share one recognizer, which is safe.

Note [Files from strangers]
    FFmpeg takes a text file for a playlist, and would then open what that names, on this machine too. So it is held to
    containers of videos, and to the file itself, whatever else the environment says to it.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import click
import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

import i3d_deploy as i3d
from i3d_deploy import video_files
from i3d_deploy.predictions import softmax
from i3d_deploy.preprocessing import Sampling
from i3d_deploy.timeline import Timeline

PAGE = Path(__file__).with_name("page.html")
MAX_MEGABYTES = 200
AT_ONCE = 4
"""Clips that are decoded at a time; others wait, on the disk. Each keeps its frames in memory."""
MAX_WINDOWS = 60
"""Over a clip: windows overlap by half, or lie apart where there would be more of them."""
LABELS = 5
"""Of the chart, and of the clip as a whole, where a request does not say how many."""
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,ogg,asf"
_ONLY_VIDEOS = f"protocol_whitelist;file|format_whitelist;{_CONTAINERS}"
_ONLY_PAGE_ITSELF = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; media-src blob:; connect-src 'self'"
)


class Described(BaseModel):
    """A part of an answer or request; what is said of its fields below is in the service's documentation too."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Asked(Described):
    """How a clip is to be looked at."""

    model_config = ConfigDict(extra="forbid")

    name: str = "the clip"
    """What the answer calls the clip."""
    top: int = Field(LABELS, ge=1)
    """How many labels the answer has, of the clip as a whole and over time; at most all."""


class Top(Described):
    """A label of the clip as a whole."""

    label: str
    """Its name."""
    probability: float
    """The mean over all windows."""


class Moment(Described):
    """A stretch of the clip in which the same windows lie."""

    start_frame: int
    """Its first frame."""
    end_frame: int
    """The frame after its last."""
    probabilities: list[float] | None
    """Of each of the report's labels, the mean over the windows that lie here; null where none does."""


class Report(Described):
    """What the network says about a clip."""

    name: str
    """What the request calls the clip."""
    frames: int
    """Length of the clip."""
    frames_per_second: float | None
    """As its container says; null where it does not."""
    top: list[Top]
    """Its most probable labels, best first."""
    labels: list[str]
    """Those that are most probable at any moment, in the order of their highest moments."""
    moments: list[Moment]
    """From the first window to the end of the last, without gaps."""
    warnings: list[str]
    """What was wrong with the clip, one line each."""


class Health(Described):
    """Whether clips are taken."""

    ready: bool
    """Whether the network is loaded; the status is 503 where it is not."""
    engine: str
    """Name of the file that is served."""
    network: str | None
    """Name of the network in it; null until it is loaded."""
    ran_by: str | None
    """What runs it, with its version; null until it is loaded."""


class About(Described):
    """What answers here."""

    network: str
    """Name of the network."""
    ran_by: str
    """What runs it, with its version."""
    notes: list[str]
    """What to know of its answers, one line each."""
    max_bytes: int
    """Size of the largest clip that is taken."""


class Problem(Described):
    """Why there is no report."""

    detail: str
    """One line."""


PARAMETERS = " and ".join(Asked.model_fields)

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The clip has not arrived as a whole."},
    413: {"model": Problem, "description": "The clip is larger than is taken."},
    415: {"model": Problem, "description": "The body is a form in place of the file itself."},
    422: {"model": Problem, "description": "A parameter is not allowed, or the body is no video that can be read."},
    503: {"model": Problem, "description": "The network is not loaded."},
}


def loaded(request: Request) -> i3d.Recognizer:
    """The network of the application that is asked."""
    found: i3d.Recognizer | None = request.app.state.recognizer
    if found is None:
        raise HTTPException(503, "the network is not loaded: the lifespan of the application has not begun")
    return found


Loaded = Annotated[i3d.Recognizer, Depends(loaded)]


def create_app(
    artifact: Path | None = None, *, max_windows: int = MAX_WINDOWS, max_megabytes: float = MAX_MEGABYTES
) -> FastAPI:
    """Make the service; the network is loaded when it starts and freed when it stops.

    Args:
        artifact: Anything that ``i3d.load`` takes; default: what the environment variable I3D_ARTIFACT says.
        max_windows: Of one clip.
        max_megabytes: The largest clip that is taken.
    """
    path = artifact or Path(os.environ.get("I3D_ARTIFACT", ""))
    if not path.name:
        raise SystemExit("Error: the environment variable I3D_ARTIFACT does not say which engine to serve")
    max_bytes = int(max_megabytes * 1e6)
    others = os.environ.get(_OPTIONS, "").removeprefix(_ONLY_VIDEOS).strip("|")
    os.environ[_OPTIONS] = f"{_ONLY_VIDEOS}|{others}" if others else _ONLY_VIDEOS  # Note [Files from strangers]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with i3d.load(path) as recognizer:
            app.state.recognizer, app.state.turns = recognizer, anyio.CapacityLimiter(AT_ONCE)
            yield

    app = FastAPI(title="Labels over time", version=i3d.__version__, lifespan=lifespan, redoc_url=None)
    app.state.recognizer = None

    @app.exception_handler(RequestValidationError)
    def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        detail = f"{found['loc'][-1]} ({found['input']!r}): {found['msg'].lower()}; parameters are {PARAMETERS}"
        return JSONResponse({"detail": detail}, 422)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text("utf-8"), headers={"Content-Security-Policy": _ONLY_PAGE_ITSELF})

    @app.get("/about", responses={503: PROBLEMS[503]})
    def about(recognizer: Loaded) -> About:
        network = recognizer.card.network.name
        return About(network=network, ran_by=recognizer.ran_by, notes=list(recognizer.notes), max_bytes=max_bytes)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses={503: {"model": Health, "description": "The network is not loaded."}})
    async def health(response: Response) -> Health:
        """Say whether clips are taken, whatever is being worked on."""
        recognizer: i3d.Recognizer | None = app.state.recognizer
        if recognizer is None:
            response.status_code = 503
            return Health(ready=False, engine=path.name, network=None, ran_by=None)
        return Health(ready=True, engine=path.name, network=recognizer.card.network.name, ran_by=recognizer.ran_by)

    @app.post(
        "/predict",
        responses=PROBLEMS,
        openapi_extra={"requestBody": {"content": {"video/*": {}}, "required": True}},
    )
    async def predict(request: Request, asked: Annotated[Asked, Query()], recognizer: Loaded) -> Report:
        """Take a clip, which is the body of the request, and say what is in it when."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, "a form: send the file itself, as curl --data-binary @clip.mp4 does")
        with tempfile.TemporaryDirectory(prefix="i3d-") as folder:
            clip = Path(folder, "clip")
            await _receive(request, clip, max_bytes)
            report = partial(_report, recognizer, clip, asked, max_windows=max_windows)
            try:
                async with app.state.turns:
                    if await request.is_disconnected():
                        raise HTTPException(400, "nobody waits for the answer")
                    return await anyio.to_thread.run_sync(report)
            except i3d.I3DError as error:
                raise HTTPException(422, str(error).replace(str(clip), asked.name)) from error

    return app


async def _receive(request: Request, clip: Path, max_bytes: int) -> None:
    """Write the body of a request to a file, as it comes."""
    received = 0
    try:
        async with await anyio.open_file(clip, "wb") as file:
            async for chunk in request.stream():
                received += len(chunk)
                if received > max_bytes:
                    megabytes = max_bytes / 1e6
                    raise HTTPException(413, f"the clip is larger than {megabytes:g} MB: cut it, or make it smaller")
                await file.write(chunk)
    except ClientDisconnect as error:
        raise HTTPException(400, "the clip has not arrived as a whole") from error


def _report(recognizer: i3d.Recognizer, clip: Path, asked: Asked, *, max_windows: int) -> Report:
    """Predict, in a thread. Each window is a clip as the card has it, under the middle crop alone."""
    num_frames, rate = _promised(clip)
    clips = _num_windows(recognizer.card.sampling, num_frames, rate, max_windows)
    prediction = recognizer.predict(clip, clips=clips, crops=1)
    windows = _windows(recognizer.card, prediction.frames, rate, clips)
    edges, means = Timeline(
        of="clip",
        start_frames=windows.min(axis=1),
        end_frames=windows.max(axis=1) + 1,
        probabilities=np.float32(softmax(prediction.logits)),
    ).means()
    highest = np.argsort(-np.nanmax(means, axis=0), kind="stable")[: asked.top]
    shown = highest[np.argsort(np.nanargmax(means[:, highest], axis=0), kind="stable")]
    return Report(
        name=asked.name,
        frames=prediction.frames,
        frames_per_second=rate,
        top=[Top(label=label, probability=probability) for label, probability in prediction.top(asked.top)],
        labels=[prediction.labels[index] for index in shown],
        moments=[
            Moment(
                start_frame=int(start),
                end_frame=int(end),
                probabilities=None if np.isnan(row).any() else row[shown].tolist(),
            )
            for start, end, row in zip(edges[:-1], edges[1:], means, strict=True)
        ],
        warnings=list(prediction.warnings),
    )


def _promised(clip: Path) -> tuple[int, float | None]:
    """The frames and the rate that the container promises."""
    address = video_files.address(clip)
    assert address is not None, "a file"
    with video_files.opened(address) as capture:
        return video_files.promised_frames(capture), video_files.promised_rate(capture)


def _num_windows(sampling: Sampling, num_frames: int, rate: float | None, max_windows: int) -> int | None:
    """As many as overlap by half; None: as the card says, of a network of whole videos or a clip of unknown length."""
    if sampling.scheme == "whole" or num_frames < 1:
        return None
    return max(1, min(max_windows, math.ceil(2 * num_frames / sampling.span(rate))))


def _windows(card: i3d.Card, num_frames: int, rate: float | None, clips: int | None) -> NDArray[np.int64]:
    """(W, T) the frames of each window; of flow, the frames from which it leads."""
    if card.modality == "rgb":
        return card.sampling.frame_indices(num_frames, rate, num_clips=clips)
    indices, counted = card.sampling.flow_indices(num_frames, rate, num_clips=clips)
    return counted[indices]


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--max-windows", default=MAX_WINDOWS, show_default=True, type=click.IntRange(1, 1000), help="Of one clip."
)
@click.option("--max-megabytes", default=MAX_MEGABYTES, show_default=True, type=click.FloatRange(min=0))
def main(artifact: Path, host: str, port: int, max_windows: int, max_megabytes: float) -> None:
    """Serve ARTIFACT, with a page to drop clips on."""
    uvicorn.run(create_app(artifact, max_windows=max_windows, max_megabytes=max_megabytes), host=host, port=port)


if __name__ == "__main__":
    main()
