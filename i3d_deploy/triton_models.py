"""The Python models of a Triton repository: from a video's frames to views, and to probabilities.

Runs inside Triton's Python backend, which brings ``triton_python_backend_utils``; nowhere else can it be imported.
Interface: https://github.com/triton-inference-server/python_backend.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from i3d_deploy import files, flow_frames, video
from i3d_deploy.card import Card
from i3d_deploy.errors import ArtifactError, I3DError, InputError, VideoError
from i3d_deploy.frames import Resized
from i3d_deploy.preprocessing import normalize
from i3d_deploy.reading import Cutting
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners import Runner, RunnerInfo


class EngineRunner(Runner):
    """An engine of the same server, called for each part of a video's views.

    Args:
        card: The engine's.
        model: Its name in the server.
        views_per_request: Views that suit its device.
    """

    def __init__(self, card: Card, *, model: str, views_per_request: int) -> None:
        super().__init__()
        assert card.engine is not None, "the card of a repository is that of an engine"
        self.card = card
        self.preferred_batch = views_per_request
        self.info = RunnerInfo(backend="Triton", device="the server's", provider=model, precision=card.engine.precision)

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        request = pb_utils.InferenceRequest(
            model_name=self.info.provider,
            requested_output_names=["logits"],
            inputs=[pb_utils.Tensor("frames", inputs)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise ArtifactError(f"{self.info.provider}: {response.error().message()}")
        return np.array(pb_utils.get_output_tensor_by_name(response, "logits").as_numpy(), np.float32)


class VideoModel(ABC):
    """A model that takes the frames of whole videos.

    Attributes:
        card: Of the repository's engine.
    """

    card: Card

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the card.

        Args:
            args: As Triton gives them; ``model_repository`` is the folder of this model.

        Raises:
            CardError: It is missing, malformed or newer.
        """
        path = Path(args["model_repository"], args["model_version"], "card.json")
        self.card = Card.from_json(files.read_text(path, called=str(path)), where=str(path))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, one video each; one that cannot be answered does not touch the others."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            return pb_utils.InferenceResponse(
                output_tensors=[pb_utils.Tensor(name, array) for name, array in self.answer(request).items()]
            )
        except Exception as error:
            is_clients = isinstance(error, InputError | VideoError)
            code = pb_utils.TritonError.INVALID_ARG if is_clients else pb_utils.TritonError.INTERNAL
            text = str(error) if isinstance(error, I3DError) else f"{type(error).__name__}: {error}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))

    @abstractmethod
    def answer(self, request: Any) -> dict[str, NDArray[Any]]:
        """The output tensors of a request, by name.

        Raises:
            I3DError: It cannot be answered; the client is told why.
        """


class Preprocess(VideoModel):
    """A video's frames in, all its views out, as the engine takes them."""

    def answer(self, request: Any) -> dict[str, NDArray[Any]]:
        """As in any model."""
        cutting = Cutting(
            sampling=self.card.sampling,
            spatial=self.card.spatial,
            flow=flow_frames.wanted_of(self.card),
            clips=_number(request, "clips"),
            crops=_number(request, "crops"),
        )
        views = cutting.cut(_video(request))
        (frames,) = views.batches(len(views))
        is_normalized = self.card.engine is not None and self.card.engine.input == "float32_ncthw"
        taken = normalize(frames, self.card.pixels) if is_normalized else frames
        return {"frames": taken, "warnings": _texts(views.warnings)}


class Video(VideoModel):
    """A video's frames in, its probabilities out, averaged over its views as the card says."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the card, and which engine to call."""
        super().initialize(args)
        parameters = json.loads(args["model_config"])["parameters"]
        engine, num_views = (parameters[name]["string_value"] for name in ("engine", "views_per_request"))
        self._recognizer = Recognizer(EngineRunner(self.card, model=engine, views_per_request=int(num_views)))

    def answer(self, request: Any) -> dict[str, NDArray[Any]]:
        """As in any model."""
        prediction = self._recognizer.predict(
            _video(request), clips=_number(request, "clips"), crops=_number(request, "crops")
        )
        return {
            "probabilities": prediction.probabilities,
            "logits": prediction.logits,
            "warnings": _texts(prediction.warnings),
        }


def _video(request: Any) -> video.Source:
    """The frames of a request, with their rate where it says it."""
    frames = pb_utils.get_input_tensor_by_name(request, "video").as_numpy()
    rate = pb_utils.get_input_tensor_by_name(request, "frames_per_second")
    if rate is None:
        return np.asarray(frames, np.uint8)
    return video.TimedFrames(frames=frames, frames_per_second=float(rate.as_numpy()[0]))


def _number(request: Any, name: str) -> int | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else int(tensor.as_numpy()[0])


def _texts(lines: Sequence[str]) -> NDArray[np.object_]:
    return np.array([line.encode() for line in lines], np.object_)
