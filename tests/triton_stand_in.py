"""A stand-in for the server around the Python models of a Triton repository.

It is no Triton: it has as much of ``triton_python_backend_utils`` as the models use, with the documented behaviour, and
answers their calls of the engine with the repository's own engine in its real runner. Views go to it in the parts in
which they come, and no server is between: for that there is ``test_triton_server.py``.
Interface: https://github.com/triton-inference-server/python_backend.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from i3d_deploy.runners import open_runner

Array = NDArray[Any]


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: Array) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Array:
        return self._array


@dataclass(frozen=True)
class TritonError:
    """What a request is refused with."""

    text: str
    code: int = 0

    INTERNAL = 1
    INVALID_ARG = 3

    def message(self) -> str:
        return self.text


class InferenceResponse:
    """Tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class Request:
    """A request as a model gets it."""

    def __init__(self, **inputs: Array) -> None:
        self._inputs = [Tensor(name, array) for name, array in inputs.items()]

    def inputs(self) -> list[Tensor]:
        return self._inputs


@dataclass(frozen=True)
class PreferredMemory:
    """Where the outputs of a call are wanted."""

    kind: str
    device: int


class Server:
    """Loads the Python models of a repository and carries their calls to its engine.

    Args:
        repository: ``NAME_triton``.
        engine: The engine's file in it.

    Attributes:
        engine: That file.
        calls: Views of each call of the engine.
        failure: What every call of the engine is answered with in place of logits.
    """

    def __init__(self, repository: Path, engine: Path) -> None:
        self._repository = repository
        self.engine = engine
        self._name = engine.parents[1].name
        self._runner = open_runner(engine, device="cpu")
        self.calls: list[int] = []
        self.failure: str | None = None

    def load(self, model: str) -> Any:
        """Import ``model.py`` as the Python backend does, and initialize its model."""
        sys.modules["triton_python_backend_utils"] = self._utilities()
        sys.modules.pop("i3d_deploy.triton_models", None)
        folder = self._repository / model
        spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        as_json = json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True))
        loaded = module.TritonPythonModel()
        loaded.initialize({"model_repository": str(folder), "model_version": "1", "model_config": as_json})
        return loaded

    def close(self) -> None:
        """Free the engine, and forget the stand-in."""
        self._runner.close()
        for name in ("triton_python_backend_utils", "i3d_deploy.triton_models"):
            sys.modules.pop(name, None)

    def _utilities(self) -> types.ModuleType:
        module = types.ModuleType("triton_python_backend_utils")
        parts: Mapping[str, Any] = {
            "Tensor": Tensor,
            "TritonError": TritonError,
            "InferenceResponse": InferenceResponse,
            "InferenceRequest": self._request(),
            "PreferredMemory": PreferredMemory,
            "TRITONSERVER_MEMORY_CPU": "cpu",
            "get_input_tensor_by_name": lambda request, name: _named(request.inputs(), name),
            "get_output_tensor_by_name": lambda response, name: _named(response.output_tensors(), name),
        }
        module.__dict__.update(parts)
        return module

    def _request(self) -> Callable[..., Any]:
        server = self

        class InferenceRequest:
            """A call of another model."""

            def __init__(
                self,
                *,
                model_name: str,
                requested_output_names: Sequence[str],
                inputs: Sequence[Tensor],
                preferred_memory: PreferredMemory,
            ) -> None:
                assert (model_name, list(requested_output_names)) == (server._name, ["logits"])
                assert [tensor.name() for tensor in inputs] == ["frames"]
                assert preferred_memory == PreferredMemory("cpu", 0)
                self._frames = inputs[0].as_numpy()

            def exec(self) -> InferenceResponse:
                if server.failure is not None:
                    return InferenceResponse(error=TritonError(server.failure))
                server.calls.append(len(self._frames))
                # The engine's own input, which may be normalised already: what the runner itself hands to the backend.
                return InferenceResponse([Tensor("logits", server._runner._run(np.array(self._frames)))])

        return InferenceRequest


def _named(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)
