"""Reading TensorFlow checkpoints, such as DeepMind's I3D, with TensorFlow's own reader.

Note [TensorFlow apart]
    The reader runs in a process of its own. Importing TensorFlow takes seconds and 500 MiB, writes lines to the
    standard error that no logging level stops, makes ``~/.keras``, and changes the environment; and its reader is C++
    that was not made for files of unknown origin. All of this ends with that process, whose log is kept back, whose
    Keras folder is temporary and whose uptime report is off. Keras is hidden from it: TensorFlow does without, while
    Keras would import scikit-learn and Matplotlib, which makes folders as well. Nothing is sent over the network.
    Source: TensorFlow 2.21 and 2.18 ``tensorflow/__init__.py`` and ``tensorflow/python/keras/backend.py``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files
from i3d_deploy.errors import CheckpointError, MissingExtraError

Array = NDArray[Any]

_PART = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-(\d{5}))")
"""Names of the files of a checkpoint: its prefix, and of data how many there are."""

_PYTORCH_STARTS = (b"PK\x03\x04", b"\x80")
"""Of a zip archive, and of the pickle that PyTorch before 1.6 wrote."""

# Answers with the names of the arrays in an archive, or with why there are none.
_READER = """
import json, sys
import numpy as np

def is_number(dtype):
    return (dtype.is_floating or dtype.is_integer) and np.dtype(dtype.as_numpy_dtype).isbuiltin == 1

def read(prefix, archive_path):
    sys.modules["keras"] = None
    try:
        import tensorflow as tf
    except Exception as error:
        return {"missing": str(error)}
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(prefix)
        names = sorted(name for name, dtype in reader.get_variable_to_dtype_map().items() if is_number(dtype))
        arrays = [np.asarray(reader.get_tensor(name)) for name in names]
    except Exception as error:  # of several unrelated classes, also plain IndexError
        return {"damaged": str(error)}
    np.savez(archive_path, *arrays)
    return {"names": names}

print("\\n" + json.dumps(read(*sys.argv[1:])))
"""


def is_checkpoint(path: Path) -> bool:
    """Whether a path is one that :func:`read` takes, by its name and by what is beside it."""
    if _PART.fullmatch(path.name) is not None or _index(path).is_file():
        return True
    return path.suffix == ".ckpt" and not _is_of_pytorch(path)


def _is_of_pytorch(path: Path) -> bool:
    """Whether a file begins as those of ``torch.save`` do, some of which end in ``.ckpt`` as well."""
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(_PYTORCH_STARTS)
    except OSError:
        return False


def sha256(path: Path) -> str:
    """SHA-256 over the SHA-256 of each file of a checkpoint, in the order of their names.

    Raises:
        CheckpointError: One of its files is missing or empty.
    """
    prefix = _find_prefix(path)
    parts = [prefix] if prefix.is_file() else [_index(prefix), *_data_files(prefix)]
    digests = "\n".join(files.sha256(part) for part in sorted(parts))
    return hashlib.sha256(digests.encode()).hexdigest()


def read(path: Path) -> dict[str, Array]:
    """Read the variables of a TensorFlow checkpoint.

    Args:
        path: The prefix that TensorFlow takes (``model.ckpt``), one of the files that bear it (``model.ckpt.index``,
            ``model.ckpt.data-00000-of-00001``, ``model.ckpt.meta``), or the one file of the first format.

    Returns:
        By variable name, sorted: each as it was stored, also slots of optimisers; ``global_step`` has no dimension.
        Variables that are no integers or floats of NumPy, such as text, are left out.

    Raises:
        CheckpointError: It cannot be read, lacks one of its files, is no checkpoint, or is damaged.
        MissingExtraError: TensorFlow is not installed, or cannot be imported.
    """
    prefix = _find_prefix(path)
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:  # None: a folder without code, as an uninstallation leaves it
        raise MissingExtraError("tensorflow", extra="tensorflow", cause=ModuleNotFoundError(name="tensorflow"))
    with tempfile.TemporaryDirectory(prefix="i3d-tensorflow-") as scratch:
        archive_path = Path(scratch) / "arrays.npz"
        names = _ask_reader(path, prefix, archive_path)
        with np.load(archive_path, allow_pickle=False) as archive:
            return {name: archive[f"arr_{number}"] for number, name in enumerate(names)}


def _ask_reader(path: Path, prefix: Path, archive_path: Path) -> list[str]:
    """Have the arrays put into an archive; returns their names. Note [TensorFlow apart]."""
    # -P keeps the current folder from being searched, where a user's tensorflow.py would come first.
    command = [sys.executable, "-P", "-W", "ignore", "-c", _READER, str(prefix.absolute()), str(archive_path)]
    environment = {
        **os.environ,
        "ENABLE_RUNTIME_UPTIME_TELEMETRY": "0",
        "KERAS_HOME": str(archive_path.parent),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        how = f"signal {-done.returncode}" if done.returncode < 0 else lines[-1] if lines else f"code {done.returncode}"
        raise CheckpointError(f"{path}: TensorFlow's reader gave up with {how}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "missing" in answer:
        raise MissingExtraError("tensorflow", extra="tensorflow", cause=ImportError(_shorten(answer["missing"])))
    if "damaged" in answer:
        reason = _shorten(answer["damaged"])
        raise CheckpointError(f"{path}: not a TensorFlow checkpoint, or a damaged one: {reason}")
    names: list[str] = answer["names"]
    return names


def _shorten(text: str) -> str:
    return " ".join(text.split())[:300]


def _find_prefix(path: Path) -> Path:
    """What to give to the reader, once all files of the checkpoint are there."""
    match = _PART.fullmatch(path.name)
    prefix = path.with_name(match[1]) if match else path
    index = _index(prefix)
    counts = [match[2]] if match and match[2] else _shard_counts(prefix)
    is_one_file = not match and not counts and not index.is_file()  # the first format
    if match or is_one_file:
        _check(path, path)
    if is_one_file:
        return path
    _check(path, index)
    count = counts[-1] if counts else "00001"
    for shard in range(int(count)):
        _check(path, prefix.parent / f"{prefix.name}.data-{shard:05}-of-{count}")
    return prefix


def _index(prefix: Path) -> Path:
    return prefix.parent / f"{prefix.name}.index"


def _data_files(prefix: Path) -> list[Path]:
    if not prefix.parent.is_dir():
        return []
    matches = {other: _PART.fullmatch(other.name) for other in prefix.parent.iterdir()}
    return sorted(other for other, match in matches.items() if match and match[2] and match[1] == prefix.name)


def _shard_counts(prefix: Path) -> list[str]:
    """How many files of data there should be, according to those that are there."""
    return sorted(path.name[-5:] for path in _data_files(prefix))


def _check(path: Path, needed: Path) -> None:
    problem = files.what_is_wrong(needed)
    if problem is not None:
        which = "" if needed == path else f"the checkpoint also needs {needed.name} beside it: "
        raise CheckpointError(f"{path}: {which}{problem}")
