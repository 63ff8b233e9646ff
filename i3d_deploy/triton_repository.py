"""A model repository for Triton Inference Server: an engine, and the models that take whole videos to it.

::

    NAME_triton/
        NAME/             config.pbtxt  labels.txt  1/model.onnx, or model.xml and .bin, or model.plan and .plan.json
        NAME_preprocess/  config.pbtxt  1/model.py
        NAME_video/       config.pbtxt  labels.txt  1/model.py

Each has the card as ``1/card.json``. NAME is the engine: views in, logits out. NAME_preprocess makes the views of a
video, and NAME_video its probabilities; both run :mod:`i3d_deploy.triton_models`, which is this library, in the
server's Python.

Note [Why not an ensemble]
    A video is V views, and V depends on the card and the request. An ensemble hands whole tensors from model to model:
    it would need a third model, in Python too, to average, all views of a video would pass through it at once, 180 MiB
    for 30 of 32x256x256, and none could hand them to the engine in parts of the size that suits it. NAME_video cuts a
    part of the views, calls the engine with it (business logic scripting), and keeps nothing but logits.

Note [OpenVINO in Triton]
    Its backend runs batches of exactly ``max_batch_size`` and pads smaller ones up to it, so a batch is left to the
    request here: ``max_batch_size`` is 0 and the number of views an open dimension. It has no setting for float32, and
    OpenVINO computes in bf16 wherever the CPU can unless it is told otherwise: only bf16 and int8 run as they were
    proven. Source: triton-inference-server/openvino_backend r24.10 to main of 2026-08, ``src/openvino.cc``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from i3d_deploy import files
from i3d_deploy.card import Card, Engine
from i3d_deploy.errors import I3DError, InputError
from i3d_deploy.protobuf_text import Message, Word, to_text
from i3d_deploy.runners.runner import input_of

Backend = Literal["onnx", "openvino", "tensorrt"]
Device = Literal["cpu", "gpu"]

ENDING = "_triton"
"""What a repository's name has after that of its engine."""

_ENGINE_FILES: dict[Backend, str] = {"onnx": "model.onnx", "openvino": "model.xml", "tensorrt": "model.plan"}
_BESIDE = ("model.bin", "model.plan.json")
_BACKEND_NAMES: dict[Backend, str] = {"onnx": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}
_DTYPES = {"uint8": Word("TYPE_UINT8"), "float32": Word("TYPE_FP32")}
_COMMENTS = {
    "": "The engine: views in, logits out.",
    "_preprocess": "A video's frames in, views out, as the card says.",
    "_video": "A video's frames in, probabilities out: cuts views as the card says, calls the engine, averages.",
}
_PYTHON_MODEL = '''\
"""{what}.

Needs i3d-deploy in the server's Python.
"""

from i3d_deploy.triton_models import {name} as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a server is to run an engine.

    Attributes:
        backend: What runs it.
        device: What it runs on; None: the GPU for TensorRT, otherwise the CPU.
        instances: Instances of each model.
    """

    backend: Backend = "onnx"
    device: Device | None = None
    instances: int = 1

    def __post_init__(self) -> None:
        if self.instances < 1:
            raise InputError(f"instances ({self.instances}) must be > 0")
        if self.backend == "openvino" and self.device == "gpu":
            raise InputError("Triton's OpenVINO backend runs on CPUs: for a GPU take onnx or tensorrt")
        if self.backend == "tensorrt" and self.device == "cpu":
            raise InputError("TensorRT runs on GPUs: for a CPU take onnx or openvino")

    @property
    def is_on_gpu(self) -> bool:
        """Whether the engine runs on a GPU."""
        return (self.device or ("gpu" if self.backend == "tensorrt" else "cpu")) == "gpu"


def engine_path(repository: Path, serving: Serving) -> Path:
    """Where the engine of a repository is."""
    return repository / _name(repository) / "1" / _ENGINE_FILES[serving.backend]


def check(repository: Path, card: Card, *, overwrite: bool = False) -> None:
    """Refuse a name that a server cannot have, and to replace what was not made here of the same checkpoint.

    Args:
        repository: The folder to write, which may exist.
        card: Of what will be in it.
        overwrite: Replace a repository of another checkpoint too; what else is there is never replaced.

    Raises:
        InputError: The name has other characters, it is no folder, or one that holds something else, or a repository
            of another checkpoint, or of one that cards do not identify.
    """
    name = _name(repository)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InputError(f"name {name!r} becomes part of addresses: only letters, digits, _, . and - can be in it")
    if not repository.exists():
        return
    if not repository.is_dir():
        raise InputError(f"{repository} is a file: move it away, or give another --name or --output")
    for found in _cards(repository):
        if not overwrite and not _is_of_same_checkpoint(found, card):
            raise InputError(
                f"{repository} is of {_made_from(found)}, and this is {_made_from(card)}: give another --name or "
                "--output, or --overwrite"
            )


def write(
    write_engine: Callable[[Card, Path], None],
    serving: Serving,
    card: Card,
    repository: Path,
    *,
    overwrite: bool = False,
) -> None:
    """Write a repository as a whole.

    Args:
        write_engine: Writes the engine with its card to a path.
        serving: How it is to be run.
        card: With engine and, once measured, parity.
        repository: The folder, ``NAME_triton``; one of the same checkpoint is replaced.
        overwrite: Replace one of another checkpoint too.

    Raises:
        InputError: As :func:`check`.
    """
    check(repository, card, overwrite=overwrite)
    name = _name(repository)
    configs = {name: _engine_config(name, card, serving)}
    configs |= {model: _python_config(model, card, serving) for model in (_preprocess(name), _video(name))}
    with files.replacing_folder(repository) as folder:
        for model, config in configs.items():
            version = folder / model / "1"
            version.mkdir(parents=True)
            _write(version.parent / "config.pbtxt", to_text(config, comment=_COMMENTS[model.removeprefix(name)]))
            _write(version / "card.json", card.to_json(indent=2) + "\n")
            if model != _preprocess(name):
                _write(version.parent / "labels.txt", "".join(f"{' '.join(label.split())}\n" for label in card.labels))
        _write(folder / _preprocess(name) / "1" / "model.py", _python("Preprocess", "A video's frames in, views out"))
        _write(folder / _video(name) / "1" / "model.py", _python("Video", "A video's frames in, probabilities out"))
        write_engine(card, folder / name / "1" / _ENGINE_FILES[serving.backend])


def notes(card: Card, serving: Serving) -> tuple[str, ...]:
    """What to know of a repository, one line each.

    Args:
        card: Of its engine.
        serving: How it is to be run.
    """
    assert card.engine is not None
    if serving.backend == "openvino" and card.engine.precision in ("fp32", "fp16"):
        return (
            f"Triton's OpenVINO backend cannot be told to compute in {card.engine.precision}: on a CPU with bf16 it "
            "computes in bf16, which is not what was proven; --precision bf16 or --triton-backend onnx runs as proven",
        )
    if serving.backend == "tensorrt":
        return ("a plan runs under the TensorRT that built it: take the container that has this version",)
    return ()


def _name(repository: Path) -> str:
    return repository.name.removesuffix(".failed").removesuffix(ENDING)


def _preprocess(name: str) -> str:
    return f"{name}_preprocess"


def _video(name: str) -> str:
    return f"{name}_video"


def _cards(repository: Path) -> list[Card]:
    """Those of the models in a repository that was written here; none of an empty folder.

    Raises:
        InputError: It holds something else.
    """
    name = _name(repository)
    inside = [path.relative_to(repository) for path in sorted(repository.rglob("*")) if _is_leaf(path)]
    strangers = sorted(set(inside) - _written(name))
    if strangers:
        raise InputError(
            f"{repository} holds {strangers[0]}, which is not part of what is written there and would be lost: "
            "move it away, or give another --name or --output"
        )
    cards = []
    for model in sorted({path.parts[0] for path in inside}):
        path = Path(model, "1", "card.json")
        try:
            cards.append(Card.from_json(files.read_text(repository / path, called=str(path)), where=str(path)))
        except I3DError as error:
            raise InputError(
                f"{repository} was not written by i3d-export: {error}; move it away, or give another --name or --output"
            ) from error
    return cards


def _is_leaf(path: Path) -> bool:
    """Whether a path is more than a folder, or than what Python has compiled of the models."""
    return path.is_symlink() or not (path.is_dir() or path.parent.name == "__pycache__")


def _is_of_same_checkpoint(found: Card, card: Card) -> bool:
    """Whether two cards say so; those of networks that were trained here do not say of which weights."""
    is_known = card.provenance.sha256 is not None or card.provenance.origin.startswith("random weights")
    of_each = [(each.network, each.provenance.origin, each.provenance.sha256) for each in (found, card)]
    return is_known and of_each[0] == of_each[1]


def _made_from(card: Card) -> str:
    digest = card.provenance.sha256
    which = "file not recorded" if digest is None else f"SHA-256 {digest[:8]}..."
    return f"{card.network.name} ({card.provenance.origin}, {which})"


def _written(name: str) -> set[Path]:
    """Every file that a repository of this name may have, whatever its backend."""
    engines = (f"1/{file}" for file in (*_ENGINE_FILES.values(), *_BESIDE))
    of_all = ("config.pbtxt", "labels.txt", "1/card.json", "1/model.py", *engines)
    return {Path(model, file) for file in of_all for model in (name, _preprocess(name), _video(name))}


def _engine_config(name: str, card: Card, serving: Serving) -> Message:
    engine = _engine_of(card)
    taken = input_of(card)
    usual = tuple(card.sampling.clip_len if size < 0 else size for size in taken.shape)
    has_batches = serving.backend != "openvino"  # Note [OpenVINO in Triton]
    of_views = () if has_batches else (-1,)
    num_views = _views_per_request(engine, serving)
    warm_views = {"data_type": _DTYPES[taken.dtype], "dims": usual if has_batches else (num_views, *usual)}
    return {
        "name": name,
        "backend": _BACKEND_NAMES[serving.backend],
        "max_batch_size": engine.profile[2] if has_batches else 0,
        "input": [_tensor("frames", taken.dtype, (*of_views, *taken.shape))],
        "output": [
            {
                **_tensor("logits", "float32", (*of_views, len(card.labels))),
                **({"label_filename": "labels.txt"} if has_batches else {}),
            }
        ],
        "instance_group": [_instances(serving, on_gpu=serving.is_on_gpu)],
        **({"dynamic_batching": _batching(engine)} if has_batches else {}),
        "model_warmup": [
            {
                "name": "views",
                "batch_size": num_views if has_batches else 1,
                "inputs": [{"key": "frames", "value": {**warm_views, "random_data": True}}],
            }
        ],
        **_settings(engine, serving),
    }


def _batching(engine: Engine) -> Message:
    preferred = sorted({size for size in engine.profile[1:] if size > 1})
    return {"preferred_batch_size": preferred} if preferred else {}


def _settings(engine: Engine, serving: Serving) -> Message:
    """What makes the backend compute as the proof did."""
    if serving.backend == "openvino":
        in_bf16 = {"HINT_BF16": "YES"} if engine.precision in ("bf16", "int8") else {}
        latency = {"PERFORMANCE_HINT": "LATENCY"} if serving.instances == 1 else {}
        return {"parameters": _parameters({**in_bf16, **latency, "NUM_STREAMS": str(serving.instances)})}
    if serving.backend == "tensorrt":
        return {}
    # The extended optimisations of ONNX Runtime 1.32 give wrong numbers for 8-bit floats: -1 is the basic ones.
    graph: Message = {"graph": {"level": -1}} if engine.precision == "fp8" else {}
    if serving.is_on_gpu:
        # TF32 has ten bits of mantissa: an fp32 engine must not use it.
        cuda = {"name": "cuda", "parameters": [{"key": "use_tf32", "value": "0"}]}
        return {"optimization": {**graph, "execution_accelerators": {"gpu_execution_accelerator": [cuda]}}}
    # A second block of memory for all activations, and no faster on a CPU.
    memory: Message = {"parameters": _parameters({"enable_mem_pattern": "0"})}
    return {**({"optimization": graph} if graph else {}), **memory}


def _python_config(model: str, card: Card, serving: Serving) -> Message:
    engine = _engine_of(card)
    taken = input_of(card)
    name = model.rpartition("_")[0]
    asked = {"data_type": Word("TYPE_INT32"), "dims": [1], "optional": True}
    is_video = model == _video(name)
    probabilities = {**_tensor("probabilities", "float32", (len(card.labels),)), "label_filename": "labels.txt"}
    outputs = [probabilities, _tensor("logits", "float32", (-1, len(card.labels)))]
    calls = {"engine": name, "views_per_request": str(_views_per_request(engine, serving))}
    return {
        "name": model,
        "backend": "python",
        "max_batch_size": 0,
        "input": [
            _tensor("video", "uint8", (-1, -1, -1, 3)),
            {**_tensor("frames_per_second", "float32", (1,)), "optional": True},
            {"name": "clips", **asked},
            {"name": "crops", **asked},
        ],
        "output": [
            *(outputs if is_video else [_tensor("frames", taken.dtype, (-1, *taken.shape))]),
            {"name": "warnings", "data_type": Word("TYPE_STRING"), "dims": [-1]},
        ],
        "instance_group": [_instances(serving, on_gpu=False)],
        **({"parameters": _parameters(calls)} if is_video else {}),
    }


def _engine_of(card: Card) -> Engine:
    assert card.engine is not None, "a checkpoint's card has none"
    return card.engine


def _views_per_request(engine: Engine, serving: Serving) -> int:
    """As many as suit the device: see ``preferred_batch`` of the runners."""
    return engine.profile[1 if serving.is_on_gpu else 0]


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> Message:
    return {"name": name, "data_type": _DTYPES[dtype], "dims": shape}


def _instances(serving: Serving, *, on_gpu: bool) -> Message:
    return {"count": serving.instances, "kind": Word("KIND_GPU" if on_gpu else "KIND_CPU")}


def _parameters(settings: dict[str, str]) -> list[Message]:
    return [{"key": key, "value": {"string_value": value}} for key, value in settings.items()]


def _python(name: str, what: str) -> str:
    return _PYTHON_MODEL.format(name=name, what=what)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
