"""The Python models of a Triton repository, run from its ``model.py`` in a stand-in for the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import i3d_deploy as i3d
from i3d_deploy import artifact, builders, to_onnx, to_openvino, triton_repository, views
from i3d_deploy.card import Card, Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.openvino_core import CORE
from i3d_deploy.preprocessing import Sampling, normalize
from i3d_deploy.to_tensorrt import EngineOptions
from i3d_deploy.triton_repository import Serving, engine_path
from tests.test_two_stream import stream
from tests.triton_stand_in import Request, Server


def video(num_frames: int = 21, height: int = 40, width: int = 52) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frames that are all different."""
    return np.random.RandomState(1).randint(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


def repository_of(exported: Path, folder: Path, card: Card | None = None) -> Server:
    """A server of a repository with an engine that was exported before.

    Args:
        exported: ``.onnx`` or ``.xml``.
        folder: Where the repository goes.
        card: In place of the one that it carries.
    """
    if exported.suffix == ".onnx":
        serving, write = Serving(backend="onnx"), partial(to_onnx.write, onnx.load(exported))
    else:
        serving, write = Serving(backend="openvino"), partial(to_openvino.write, CORE.read_model(exported))
    repository = folder / "i3d_triton"
    triton_repository.write(write, serving, card or artifact.read_card(exported), repository)
    return Server(repository, engine_path(repository, serving))


def built(source: Checkpoint, folder: Path, engine: Engine) -> Server:
    """A server of a repository that is made of a checkpoint, and not proven."""
    makes = builders.Builders(
        source,
        engine=engine,
        calibrate=None,
        optimization=builders.Optimization(),
        tensorrt=EngineOptions(),
        on_step=lambda text: None,
    )
    (made,) = makes.build_repository(Serving())
    made.write(source.card.replaced(engine=made.engine), folder / "i3d_triton")
    return Server(folder / "i3d_triton", engine_path(folder / "i3d_triton", Serving()))


def tensors(response: Any) -> dict[str, np.ndarray[Any, Any]]:
    assert not response.has_error(), response.error()
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


@pytest.fixture(scope="module", params=["tiny.onnx", "tiny.xml"])
def server(
    request: pytest.FixtureRequest, tiny_exports: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with closing(repository_of(tiny_exports / request.param, tmp_path_factory.mktemp("served"))) as server:
        yield server


def test_a_video_is_answered_as_the_recognizer_does(server: Server) -> None:
    frames = video()
    expected = i3d.load(server.engine, device="cpu").predict(frames)
    model = server.load("i3d_video")
    server.calls.clear()
    answers = tensors(*model.execute([Request(video=frames)]))
    np.testing.assert_array_equal(answers["probabilities"], expected.probabilities)
    np.testing.assert_array_equal(answers["logits"], expected.logits)
    assert server.calls == [1] * 6
    assert answers["warnings"].tolist() == []


def test_clips_and_crops_can_be_fewer(server: Server) -> None:
    frames = video()
    one = np.array([1], np.int32)
    answers = tensors(*server.load("i3d_video").execute([Request(video=frames, clips=one, crops=one)]))
    expected = i3d.load(server.engine, device="cpu").predict(frames, clips=1, crops=1)
    np.testing.assert_array_equal(answers["logits"], expected.logits)
    assert len(answers["logits"]) == 1


def test_views_are_those_of_the_card(server: Server) -> None:
    frames = video()
    answers = tensors(*server.load("i3d_preprocess").execute([Request(video=frames)]))
    (expected,) = views.prepare(frames, i3d.load(server.engine, device="cpu").card).batches(6)
    np.testing.assert_array_equal(answers["frames"], expected)


def test_a_short_video_warns(server: Server) -> None:
    answers = tensors(*server.load("i3d_video").execute([Request(video=video(5))]))
    assert answers["warnings"].tolist() == [b"5 frames are fewer than the 15 that a clip spans: they are repeated"]


def test_a_bad_request_spoils_no_other(server: Server) -> None:
    good, empty = Request(video=video()), Request(video=video(0))
    many = Request(video=video(), crops=np.array([2], np.int32))
    slow = Request(video=video(), frames_per_second=np.array([1e-6], np.float32))
    unforeseen = Request(crops=np.array([1], np.int32))  # without a video, which Triton itself would refuse
    responses = server.load("i3d_video").execute([empty, good, many, slow, unforeseen])
    assert [response.has_error() for response in responses] == [True, False, True, True, True]
    assert [response.error().code for response in responses if response.has_error()] == [3, 3, 3, 1]
    assert "has no frame" in responses[0].error().message()
    assert responses[2].error().message() == "crops (2) must be 1 or 3"
    assert responses[3].error().message() == "frames_per_second (1e-06) must be >= 0.1 and <= 1000"
    assert responses[4].error().message().startswith("AttributeError: ")


def test_a_failure_of_the_engine_is_passed_on(server: Server) -> None:
    model = server.load("i3d_video")
    server.failure = "out of memory"
    try:
        (response,) = model.execute([Request(video=video())])
    finally:
        server.failure = None
    assert (response.error().code, response.error().message()) == (1, "i3d: out of memory")


def test_a_smallest_batch_is_filled_up(tiny_exports: Path, tmp_path: Path) -> None:
    card = artifact.read_card(tiny_exports / "tiny.onnx").replaced(engine=Engine(profile=(4, 4, 8)))
    with closing(repository_of(tiny_exports / "tiny.onnx", tmp_path, card)) as server:
        answers = tensors(*server.load("i3d_video").execute([Request(video=video())]))
    assert server.calls == [4, 4]
    np.testing.assert_array_equal(answers["logits"], i3d.load(server.engine, device="cpu").predict(video()).logits)


def test_the_rate_of_a_video_counts_where_the_card_counts_in_seconds(tiny_exports: Path, tmp_path: Path) -> None:
    sampling = Sampling(clip_len=8, frame_interval=2, num_clips=2, frames_per_second=25)
    card = artifact.read_card(tiny_exports / "tiny.onnx").replaced(sampling=sampling)
    frames, rate = video(40), np.array([50], np.float32)
    with closing(repository_of(tiny_exports / "tiny.onnx", tmp_path, card)) as server:
        model = server.load("i3d_video")
        timed, untimed = (
            tensors(*model.execute([request]))
            for request in (Request(video=frames, frames_per_second=rate), Request(video=frames))
        )
    recognizer = i3d.load(tiny_exports / "tiny.onnx", device="cpu")
    # At twice the card's rate every other frame counts.
    np.testing.assert_array_equal(timed["logits"], recognizer.predict(frames[::2]).logits)
    np.testing.assert_array_equal(untimed["logits"], recognizer.predict(frames).logits)
    assert np.abs(timed["logits"] - untimed["logits"]).max() > 1e-3
    assert timed["warnings"].tolist() == []
    assert untimed["warnings"].tolist() == [b"the video does not say its rate: its frames are taken to be 25 a second"]


def test_normalised_floats_are_what_a_float_engine_gets(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with closing(built(tiny_checkpoint, tmp_path, Engine(input="float32_ncthw"))) as server:
        answers = tensors(*server.load("i3d_video").execute([Request(video=video())]))
        cut = tensors(*server.load("i3d_preprocess").execute([Request(video=video())]))
    np.testing.assert_array_equal(answers["logits"], i3d.load(server.engine, device="cpu").predict(video()).logits)
    (pixels,) = views.prepare(video(), tiny_checkpoint.card).batches(6)
    np.testing.assert_array_equal(cut["frames"], normalize(pixels, tiny_checkpoint.card.pixels))


def test_flow_is_computed_from_the_frames(tmp_path: Path) -> None:
    with closing(built(stream("flow"), tmp_path, Engine())) as server:
        answers = tensors(*server.load("i3d_video").execute([Request(video=video(14))]))
    expected = i3d.load(server.engine, device="cpu").predict(video(14))
    np.testing.assert_array_equal(answers["probabilities"], expected.probabilities)
