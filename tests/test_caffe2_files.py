"""Caffe2's pickles: arrays as Python 2 wrote them, and nothing executed, reserved or let through."""

from __future__ import annotations

import base64
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i3d_deploy import caffe2_files
from i3d_deploy.errors import CheckpointError

# What cPickle of Python 2.7.18 with NumPy 1.16.6 writes in its highest protocol for
# {"blobs": {"conv1_w": np.arange(6, dtype="<f4").reshape(2, 3) - 2.5, "pred_b": np.arange(65, dtype="<f4"),
#            "pred_w": np.asfortranarray(np.arange(6.0).reshape(2, 3)), u"counts": np.array([1, -2], ">i4"),
#            "half": np.array([[[1.5]]], "<f2"), "lr": np.float32(0.25), "model_iter": 240000, "none": None},
#  "cfg": "NUM_GPUS: 8\n"}
PYTHON_2 = base64.b64decode("""
gAJ9cQEoVQNjZmdxAlUMTlVNX0dQVVM6IDgKcQNVBWJsb2JzcQR9cQUoVQptb2RlbF9pdGVycQZKgKkDAFUCbHJxB2NudW1weS5jb3JlLm11bHRpYXJy
YXkKc2NhbGFyCnEIY251bXB5CmR0eXBlCnEJVQJmNEsASwGHUnEKKEsDVQE8Tk5OSv////9K/////0sAdGJVBAAAgD6GUnELVQRoYWxmcQxjbnVtcHku
Y29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxDWNudW1weQpuZGFycmF5CnEOSwCFVQFih1JxDyhLAUsBSwFLAYdoCVUCZjJLAEsBh1JxEChLA1UB
PE5OTkr/////Sv////9LAHRiiVUCAD50YlUGcHJlZF93cRFoDWgOSwCFVQFih1JxEihLAUsCSwOGaAlVAmY4SwBLAYdScRMoSwNVATxOTk5K/////0r/
////SwB0YohVMAAAAAAAAAAAAAAAAAAACEAAAAAAAADwPwAAAAAAABBAAAAAAAAAAEAAAAAAAAAUQHRiWAYAAABjb3VudHNxFGgNaA5LAIVVAWKHUnEV
KEsBSwKFaAlVAmk0SwBLAYdScRYoSwNVAT5OTk5K/////0r/////SwB0YolVCAAAAAH////+dGJVBnByZWRfYnEXaA1oDksAhVUBYodScRgoSwFLQYVo
ColUBAEAAAAAAAAAAIA/AAAAQAAAQEAAAIBAAACgQAAAwEAAAOBAAAAAQQAAEEEAACBBAAAwQQAAQEEAAFBBAABgQQAAcEEAAIBBAACIQQAAkEEAAJhB
AACgQQAAqEEAALBBAAC4QQAAwEEAAMhBAADQQQAA2EEAAOBBAADoQQAA8EEAAPhBAAAAQgAABEIAAAhCAAAMQgAAEEIAABRCAAAYQgAAHEIAACBCAAAk
QgAAKEIAACxCAAAwQgAANEIAADhCAAA8QgAAQEIAAERCAABIQgAATEIAAFBCAABUQgAAWEIAAFxCAABgQgAAZEIAAGhCAABsQgAAcEIAAHRCAAB4QgAA
fEIAAIBCdGJVBG5vbmVxGU5VB2NvbnYxX3dxGmgNaA5LAIVVAWKHUnEbKEsBSwJLA4ZoColVGAAAIMAAAMC/AAAAvwAAAD8AAMA/AAAgQHRidXUu
""")


def pickled(path: Path, document: Any, *, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(document, protocol))
    return path


def assembled(path: Path, blob: bytes) -> Path:
    """A file of protocol 2 with one blob, whose operations are given."""
    path.write_bytes(b"\x80\x02}U\x05blobs}U\x01a" + blob + b"ss.")
    return path


F4 = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
EMPTY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def array(*, shape: bytes = b"K\x02\x85", dtype: bytes = F4, raw: bytes = b"U\x08" + bytes(8)) -> bytes:
    """The operations that Python 2 writes for an array of two zeros, or others."""
    return EMPTY_ARRAY + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"


@pytest.fixture
def python_2_file(tmp_path: Path) -> Path:
    path = tmp_path / "I3D_8x8_R50.pkl"
    path.write_bytes(PYTHON_2)
    return path


def test_a_file_of_python_2_is_read(python_2_file: Path) -> None:
    found = caffe2_files.read(python_2_file)
    expected = {
        "conv1_w": np.array([[-2.5, -1.5, -0.5], [0.5, 1.5, 2.5]], np.float32),
        "pred_b": np.array(range(65), np.float32),
        "pred_w": np.array([[0, 1, 2], [3, 4, 5]], np.float64),
        "counts": np.array([1, -2], np.int32),
        "half": np.array([[[1.5]]], np.float16),
        "lr": np.array(0.25, np.float32),
        "model_iter": np.array(240000, np.int64),
    }
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], strict=True)
        assert values.dtype.isnative and values.flags.c_contiguous and values.flags.writeable and values.flags.owndata


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_files_of_python_3_are_read(tmp_path: Path, protocol: int) -> None:
    blobs = {
        "high_bytes": np.frombuffer(bytes(range(256)), np.uint8),
        "swapped": np.array([[1.5, -2.0]], ">f8"),
        "by_columns": np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
        "scalar": np.int64(-3),
        "long": np.linspace(0, 1, 1000),
        "number": -(2**40),
        "text": "left out",
    }
    document = {"cfg": {"nested": [1, 2.5, True, (), ("a", b"b")]}, "blobs": blobs}
    found = caffe2_files.read(pickled(tmp_path / "a.pkl", document, protocol=protocol))
    assert list(found) == ["high_bytes", "swapped", "by_columns", "scalar", "long", "number"]
    for name, values in found.items():
        np.testing.assert_array_equal(values, blobs[name])
    assert found["swapped"].dtype == np.float64


def test_an_assembled_array_is_read(tmp_path: Path) -> None:
    """The other refusals below change one thing in these operations."""
    found = caffe2_files.read(assembled(tmp_path / "a.pkl", array()))
    np.testing.assert_array_equal(found["a"], np.zeros(2, np.float32), strict=True)
    empty = caffe2_files.read(assembled(tmp_path / "a.pkl", array(shape=b"K\x00K\x03\x86", raw=b"U\x00")))
    assert empty["a"].shape == (0, 3)


class Calling:
    """Pickles to a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Calling(os.system, "echo executed"), f"{os.system.__module__}.system"),
        (Calling(eval, "print('executed')"), "(__builtin__|builtins).eval"),
        (Calling(getattr, "a", "upper"), "(__builtin__|builtins).getattr"),
        ([{"deep": (Calling(print, "executed"),)}], "(__builtin__|builtins).print"),
        (Calling(np.loadtxt, "/dev/null"), r"numpy\.loadtxt"),
        (Calling(Calling, Calling(print, "executed")), r"tests\.test_caffe2_files\.Calling"),
        (np.ma.zeros(3), r"numpy\.ma\.core\._mareconstruct"),
        (bytearray(b"a"), "(__builtin__|builtins).bytearray"),
    ],
)
def test_pickled_code_is_refused_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], protocol: int, value: Any, name: str
) -> None:
    for document in (value, {"blobs": {"a": value}}, {"blobs": {}, "cfg": value}):
        path = pickled(tmp_path / "a.pkl", document, protocol=protocol)
        with pytest.raises(CheckpointError, match=rf"a\.pkl: refused, it needs the pickled code {name}; only numbers"):
            caffe2_files.read(path)
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (np.array([{}, None], object), "O8"),
        (np.array(["a"]), "U1"),
        (np.zeros(2, "f4,i4"), "V8"),
        (np.array(["2020-06-14"], "M8[D]"), "M8"),
        (np.array([True]), "b1"),
    ],
)
def test_only_numbers_are_admitted(tmp_path: Path, values: Any, code: str) -> None:
    path = pickled(tmp_path / "a.pkl", {"blobs": {"a": values}})
    with pytest.raises(CheckpointError, match=f"refused, it holds values of NumPy's type {code};"):
        caffe2_files.read(path)


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (array(shape=b"J\xff\xff\xff\xff\x85"), "the shape of an array does not fit its bytes"),
        (array(shape=b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"), "the shape of an array does not fit its bytes"),
        (array(shape=b"J\xff\xff\xff\x7f\x85"), "the shape of an array does not fit its bytes"),
        (array(shape=b"(" + b"K\x01" * 33 + b"K\x02t"), "the shape of an array does not fit its bytes"),
        (array(shape=b"U\x01a\x85"), "the shape of an array does not fit its bytes"),
        (array(shape=b"\x88K\x02\x86"), "the shape of an array does not fit its bytes"),
        (array(shape=b"K\x00\x8a\x09" + bytes(8) + b"\x01\x86", raw=b"U\x00"), "the shape of an array does not fit"),
        (array(shape=b"K\x02"), "not as NumPy writes it"),
        (array(raw=b"]"), "not as NumPy writes it"),
        (array(raw=b"X\x08\x00\x00\x00abcdef\xc4\x80"), "the shape of an array does not fit its bytes"),
        (array(raw=b"X\x09\x00\x00\x00abcdefg\xc4\x80"), "'latin-1' codec can"),
        (array(dtype=b"N"), "not as NumPy writes it"),
        (array(dtype=F4.replace(b"U\x01<NNN", b"U\x01<NN}")), "not as NumPy writes it"),
        (array(dtype=F4.replace(b"U\x01<", b"U\x01,")), "not as NumPy writes it"),
        (EMPTY_ARRAY, "the blob a is an array without values, it must be an array or a number"),
        (F4, "the blob a is a name, it must be"),
        (b"cnumpy\nndarray\nK\x02\x85\x85R", "a call is not as NumPy writes it"),
        (b"cnumpy\nndarray\n", "the blob a is a name, it must be"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R", "a call is not as NumPy"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aU\x06base64\x86R", "a call is not as NumPy writes it"),
        (b"cos\nsystem\\\x1b[31m\n", r"needs the pickled code os\.system\\\\\\x1b\[31m;"),
        (b"(ios\nsystem\n", "uses the pickle operation INST"),
        (b"\x82\x01", "uses the pickle operation EXT1"),
        (b"Pid\n", "uses the pickle operation PERSID"),
        (b"\xff", "it is no pickle"),
        (b"c" + b"a" * 5000, "a name has no end"),
        (b"T\xff\xff\xff\xffabc", "it is cut short"),
        (b"\x8e" + b"\xff" * 8 + b"abc", "it is cut short"),
        (b"\x8a\x0a" + b"\x7f" * 10, "the blob a is a value of type int"),
        (b"K\x01K\x02K\x03\x87K\x05s", "an operation lacks|must have text"),
        (b"}K\x05K\x06s", "a dictionary must have text for its keys"),
        (b"h\x09", "refers to a value that it has not"),
        (b"K\x07b", "not as NumPy writes it"),
        (b"tttt", "an operation lacks its values"),
        (b"K\x01(R", "an operation lacks its values"),
        (b"K\x01K\x02a", "an operation lacks its list"),
        (b"]", "the blob a is a value of type list"),
    ],
)
def test_what_numpy_does_not_write_is_refused(tmp_path: Path, operations: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        caffe2_files.read(assembled(tmp_path / "a.pkl", operations))
    assert "\n" not in str(caught.value)


# A text of 100,000 characters, kept in the memo.
HUGE = b"(X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x01"
BYTES = F4.replace(b"f4", b"u1")
KEY = "a dictionary must have text for its keys"
NOT_NUMBERS = "is a value of type (tuple|list), it must be an array or a number"


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (
            HUGE + array(shape=b"J\xa0\x86\x01\x00\x85", dtype=BYTES, raw=b"h\x01") * 1000 + b"t",
            "its arrays would take more",
        ),
        (HUGE + b"c_codecs\nencode\nh\x01U\x06latin1\x86R" * 5000 + b"t", NOT_NUMBERS),
        (b"})" + b"\x85" * 500_000 + b"K\x01s", KEY),
        (b"})" + b"q\x01h\x01\x86" * 60 + b"K\x01s", KEY),
        (b"(" + b"]" * 1_000_000 + b"t", "it has more than 1,000,000 operations"),
        (b"]" * 400_000 + b"a" * 399_999, NOT_NUMBERS),
    ],
    ids=["arrays of one text", "encodings of one text", "deep key", "doubled key", "empty lists", "deep list"],
)
def test_bombs_do_not_go_off(tmp_path: Path, operations: bytes, message: str) -> None:
    """Small files that would take much memory, stack or time where nothing stands against it."""
    with pytest.raises(CheckpointError, match=message):
        caffe2_files.read(assembled(tmp_path / "a.pkl", operations))


def test_a_huge_memo_number_takes_no_memory(tmp_path: Path) -> None:
    """``pickle.Unpickler`` makes a table of so many entries."""
    assert caffe2_files.read(assembled(tmp_path / "a.pkl", b"K\x01r\xff\xff\xff\xff"))["a"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"hello world, this is no checkpoint", "it does not begin as a pickle of protocol 2 or later"),
        (pickle.dumps({"blobs": {}}, 0), "it does not begin as a pickle of protocol 2 or later"),
        (pickle.dumps([1, 2], 2), "no dictionary of blobs; it holds a value of type list"),
        (pickle.dumps({"state_dict": 1, "epoch": 3}, 2), "no dictionary of blobs; its entries are state_dict, epoch"),
        (pickle.dumps({"blobs": [1]}, 2), "no dictionary of blobs; its entries are blobs"),
        (pickle.dumps({}, 2), "no dictionary of blobs; its entries are none"),
        (pickle.dumps({1: 2}, 2), "a dictionary must have text for its keys"),
    ],
)
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        caffe2_files.read(path)
    with pytest.raises(CheckpointError, match="is a folder, give one file"):
        caffe2_files.read(tmp_path)


def test_truncation_anywhere_is_one_error(python_2_file: Path) -> None:
    for length in range(1, len(PYTHON_2)):
        python_2_file.write_bytes(PYTHON_2[:length])
        with pytest.raises(CheckpointError, match=r"R50\.pkl: not a Caffe2 weights file, or a damaged one: "):
            caffe2_files.read(python_2_file)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or moved."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(changed))
        end = start + chance.randint(1, 8)
        piece = [bytes([chance.randrange(256)]), b"", changed[start:end] * 2, bytes(changed[:8])]
        changed[start : chance.choice([start + 1, end])] = chance.choice(piece)
    return bytes(changed)


def test_damage_anywhere_is_one_error(tmp_path: Path) -> None:
    chance = random.Random(3)
    blobs = {"w": np.ones((2, 2), np.float32), "lr": np.float32(1), "n": 3, "none": None}
    whole = [PYTHON_2, *(pickle.dumps({"blobs": blobs, "cfg": "text"}, protocol) for protocol in (2, 3, 4))]
    path = tmp_path / "a.pkl"
    errors = 0
    for number in range(2000):
        path.write_bytes(mutated(whole[number % len(whole)], chance))
        try:
            found = caffe2_files.read(path)
        except CheckpointError as error:
            errors += 1
            assert "\n" not in str(error)
        else:
            assert all(values.dtype.kind in "iuf" for values in found.values())
    assert 500 < errors < 2000
