"""TensorFlow checkpoints, written by TensorFlow itself where it is installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import tensorflow_files
from i3d_deploy.errors import CheckpointError, MissingExtraError
from tests import goldens

Arrays = dict[str, NDArray[Any]]

# Not imported here: TensorFlow is noisy, and its deprecations would be errors.
needs_tensorflow = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs tensorflow")

# Writes the variables of each archive beside it: as the Saver of TensorFlow 1 does, in both formats, and in two parts.
WRITE = """
import sys
import numpy as np
import tensorflow as tf

v1 = tf.compat.v1

def save(prefix, values):
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {name: v1.Variable(value, name=name, use_resource=False) for name, value in values.items()}
        session.run(v1.global_variables_initializer())
        v1.train.Saver(variables).save(session, prefix + ".ckpt")
        saver = v1.train.Saver(variables, write_version=v1.train.SaverDef.V1)
        saver.save(session, prefix + ".one_file", write_meta_graph=False)

def save_parts(prefix, values):
    parts = []
    for name, value in values.items():
        parts.append(f"{prefix}.part{len(parts)}")
        tf.raw_ops.SaveV2(prefix=parts[-1], tensor_names=[name], shape_and_slices=[""], tensors=[tf.constant(value)])
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=prefix + ".parts")

for path in sys.argv[1:]:
    with np.load(path) as archive:
        values = dict(zip(archive["names"].tolist(), (archive[f"arr_{i}"] for i in range(len(archive["names"])))))
    prefix = path.removesuffix(".npz")
    save(prefix, {**values, "global_step": np.int64(7), "note": np.array(["text", "more"])})
    save_parts(prefix, dict(list(values.items())[:3]))
"""


def filled(listed: list[list[Any]]) -> Arrays:
    """Values for listed names and shapes, which depend on the name."""
    return {
        name: np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        for name, shape in listed
    }


@pytest.fixture(scope="module")
def variables() -> dict[str, Arrays]:
    """What DeepMind's checkpoints hold, by their names and shapes: rgb whole, of the others what differs."""
    listed = goldens.load_json("tf_variables_inception_i3d.json")
    slots = [[f"{name}/Momentum", shape] for name, shape in listed["rgb_scratch_kin600_excluding_momentum"]]
    return {
        "rgb": filled(listed["rgb_imagenet"]),
        "flow": filled(listed["flow_imagenet"]),
        "kin600": filled(listed["rgb_scratch_kin600_excluding_momentum"] + slots),
    }


@pytest.fixture(scope="module")
def folder(variables: dict[str, Arrays], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints ``rgb``, ``flow`` and ``kin600`` with the endings ``.ckpt``, ``.one_file`` and ``.parts``."""
    path = tmp_path_factory.mktemp("tensorflow")
    for name, values in variables.items():
        np.savez(path / f"{name}.npz", *values.values(), names=np.array(list(values)))
    archives = [path / f"{name}.npz" for name in variables]
    subprocess.run([sys.executable, "-c", WRITE, *archives], check=True, capture_output=True)
    return path


def assert_holds(found: Arrays, expected: Arrays) -> None:
    assert list(found) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, strict=True)


@needs_tensorflow
@pytest.mark.parametrize("name", ["rgb", "flow", "kin600"])
@pytest.mark.parametrize("ending", ["ckpt", "one_file"])
def test_every_variable_is_read(
    folder: Path, variables: dict[str, Arrays], name: str, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = tensorflow_files.read(folder / f"{name}.{ending}")
    assert_holds(found, {**variables[name], "global_step": np.array(7, np.int64)})
    assert all(values.flags.writeable for values in found.values())
    assert capfd.readouterr() == ("", "")


@needs_tensorflow
@pytest.mark.parametrize("ending", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_any_file_of_a_checkpoint_stands_for_it(
    folder: Path, variables: dict[str, Arrays], ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = tensorflow_files.read(Path(f"flow.ckpt{ending}"))
    assert found.keys() == {*variables["flow"], "global_step"}


@needs_tensorflow
def test_data_in_several_files_is_read(folder: Path, variables: dict[str, Arrays]) -> None:
    expected = dict(list(variables["kin600"].items())[:3])
    assert_holds(tensorflow_files.read(folder / "kin600.parts.data-00001-of-00003"), expected)


@needs_tensorflow
def test_reading_leaves_no_trace(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing TensorFlow makes ``~/.keras``, and the reading has a folder of its own."""
    for variable in ("HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tensorflow_files.read(folder / "flow.ckpt")
    assert list(tmp_path.iterdir()) == []
    assert "tensorflow" not in sys.modules


@needs_tensorflow
@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (".ckpt.index", "flow.ckpt: not a TensorFlow checkpoint, or a damaged one: .*(corrupt|checksum|magic)"),
        (".ckpt.data-00000-of-00001", "flow.ckpt: not a TensorFlow checkpoint, or a damaged one: .*[Cc]hecksum"),
        (".one_file", "flow.one_file: not a TensorFlow checkpoint, or a damaged one: "),
    ],
)
def test_damage_is_found(folder: Path, tmp_path: Path, ending: str, message: str) -> None:
    for source in folder.glob("flow.*"):
        shutil.copy(source, tmp_path)
    path = tmp_path / f"flow{ending}"
    content = bytearray(path.read_bytes())
    content[20:24] = b"\0\xff\0\xff"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        tensorflow_files.read(tmp_path / ("flow.ckpt" if "ckpt" in ending else "flow.one_file"))
    assert "\n" not in str(caught.value)


@needs_tensorflow
def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_text('model_checkpoint_path: "model.ckpt"\n' * 9)
    with pytest.raises(CheckpointError, match=r"checkpoint: not a TensorFlow checkpoint.*not an sstable"):
        tensorflow_files.read(path)


@pytest.mark.parametrize(
    ("present", "given", "message"),
    [
        ([], "model.ckpt", "model.ckpt: no such file"),
        ([], "nowhere/model.ckpt", "model.ckpt: no such file"),
        ([], ".", "is a folder, give one file"),
        ([".index"], "model.ckpt", r"also needs model\.ckpt\.data-00000-of-00001 beside it: no such file"),
        ([".index"], "model.ckpt.index", r"also needs model\.ckpt\.data-00000-of-00001 beside it: no such file"),
        ([".meta"], "model.ckpt.meta", r"also needs model\.ckpt\.index beside it: no such file"),
        ([".data-00000-of-00001"], "model.ckpt", r"also needs model\.ckpt\.index beside it: no such file"),
        ([".data-00000-of-00001"], "model.ckpt.data-00000-of-00001", r"also needs model\.ckpt\.index beside it"),
        ([".data-00000-of-00001"], "model.ckpt.index", r"model\.ckpt\.index: no such file"),
        ([".index", ".data-00001-of-00003"], "model.ckpt", r"also needs model\.ckpt\.data-00000-of-00003 beside"),
        ([".index", ".data-00000-of-00002"], "model.ckpt.index", r"also needs model\.ckpt\.data-00001-of-00002 beside"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, present: list[str], given: str, message: str) -> None:
    for ending in present:
        (tmp_path / f"model.ckpt{ending}").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=message):
        tensorflow_files.read(tmp_path / given)


def test_an_empty_partner_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt.index").write_bytes(b"anything")
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"needs model\.ckpt\.data-00000-of-00001 beside it: the file is empty"):
        tensorflow_files.read(tmp_path / "model.ckpt.index")


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"anything")
    return path


def test_a_missing_tensorflow_gives_the_pip_command(one_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"tensorflow is not installed: pip install 'i3d-deploy\[tensorflow\]'"):
        tensorflow_files.read(one_file)


def test_the_folder_of_a_removed_tensorflow_is_none(
    one_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtraError, match=r"tensorflow is not installed: pip install"):
        tensorflow_files.read(one_file)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("raise ImportError('libx.so: no\\nsuch')", MissingExtraError, r"cannot be imported \(libx.so: no such\): pip"),
        ("import os; os.abort()", CheckpointError, "model.ckpt: TensorFlow's reader gave up with signal 6"),
        ("raise SystemExit('no memory')", CheckpointError, "model.ckpt: TensorFlow's reader gave up with no memory"),
        ("raise SystemExit(3)", CheckpointError, "model.ckpt: TensorFlow's reader gave up with code 3"),
    ],
)
def test_a_tensorflow_that_fails_is_one_error(
    one_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "tensorflow.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(error, match=message):
        tensorflow_files.read(one_file)
