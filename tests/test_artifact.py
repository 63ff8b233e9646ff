"""Files with a card: reading it without loading the engine, and refusing what is damaged."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import onnx
import pytest

from i3d_deploy import artifact, to_onnx, triton_repository
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, CardError, I3DError

NAMES = ["tiny.safetensors", "tiny.onnx", "tiny.xml"]


@pytest.mark.parametrize("name", NAMES)
def test_every_file_carries_the_whole_card(tiny_exports: Path, tiny_checkpoint: Checkpoint, name: str) -> None:
    card = artifact.read_card(tiny_exports / name)
    assert card.labels == tiny_checkpoint.card.labels
    assert card.sampling == tiny_checkpoint.card.sampling
    assert card.parity[0].status == "passed"


def test_the_card_in_onnx_is_where_onnx_says(tiny_exports: Path) -> None:
    path = tiny_exports / "tiny.onnx"
    (entry,) = onnx.load(path).metadata_props
    assert entry.key == "i3d_card"
    assert artifact.read_card(path).to_json() == entry.value


def copy(source: Path, target: Path, content: bytes) -> Path:
    """A damaged copy of an artifact, with the weights beside it that an .xml needs."""
    target.write_bytes(content)
    if source.suffix == ".xml":
        target.with_suffix(".bin").write_bytes(source.with_suffix(".bin").read_bytes())
    return target


@pytest.mark.parametrize("name", NAMES)
def test_truncation_is_seen(tiny_exports: Path, tmp_path: Path, name: str) -> None:
    whole = (tiny_exports / name).read_bytes()
    # The card of safetensors is at its start: the weights behind it are checked on loading.
    lengths = [1, 9, 100, len(whole) // 2, len(whole) - 20] if name != "tiny.safetensors" else [1, 9, 100]
    for length in lengths:
        path = copy(tiny_exports / name, tmp_path / name, whole[:length])
        with pytest.raises((ArtifactError, CardError), match=r"not a whole|carries no card|not of OpenVINO"):
            artifact.read_card(path)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes_give_a_card_or_one_error(tiny_exports: Path, tmp_path: Path, name: str) -> None:
    whole = (tiny_exports / name).read_bytes()
    draw = random.Random(5)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 20)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path = copy(tiny_exports / name, tmp_path / name, bytes(content))
        try:
            artifact.read_card(path)
        except I3DError as error:
            assert str(path) in str(error)


def test_a_file_without_card_says_how_to_get_one(tiny_exports: Path, tmp_path: Path) -> None:
    graph = onnx.load(tiny_exports / "tiny.onnx")
    del graph.metadata_props[:]
    path = tmp_path / "plain.onnx"
    onnx.save(graph, path)
    with pytest.raises(CardError, match=r"plain\.onnx carries no card: export it with i3d-export"):
        artifact.read_card(path)


def test_a_newer_card_asks_for_an_upgrade(tiny_exports: Path, tmp_path: Path) -> None:
    graph = onnx.load(tiny_exports / "tiny.onnx")
    graph.metadata_props[0].value = graph.metadata_props[0].value.replace('"version": 1', '"version": 9')
    path = tmp_path / "newer.onnx"
    onnx.save(graph, path)
    with pytest.raises(CardError, match=r"newer\.onnx has version 9, .* pip install --upgrade i3d-deploy"):
        artifact.read_card(path)


def test_openvino_needs_both_files(tiny_exports: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.xml"
    path.write_bytes((tiny_exports / "tiny.xml").read_bytes())
    with pytest.raises(ArtifactError, match=r"tiny\.bin with the weights is not beside it"):
        artifact.read_card(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.onnx", None, "no such file"),
        ("a.onnx", b"", "the file is empty"),
        ("a.onnx", b"hello world", "not a whole ONNX file"),
        ("a.tflite", b"x", r"unknown kind of file, allowed are \.safetensors, \.onnx, \.xml, \.engine, \.plan"),
        ("a.pth", b"x", "foreign checkpoint; i3d-export gives it one"),
        ("a.engine", b"x", r"a\.engine\.json beside it is missing or unreadable"),
    ],
)
def test_what_is_no_artifact_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ArtifactError, CardError), match=message):
        artifact.read_card(path)


DEEP = "[" * 200_000


def test_strange_headers_are_one_error(tmp_path: Path) -> None:
    headers = ['{"__metadata__": {"i3d_card": 5}}', '{"__metadata__": 3}', DEEP, "[]"]
    path = tmp_path / "a.safetensors"
    for header in headers:
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
        with pytest.raises((ArtifactError, CardError), match=r"a\.safetensors"):
            artifact.read_card(path)


@pytest.mark.parametrize("card", [DEEP, '{"version": 1, "labels": ["\\ud800"]}', "5", ""])
def test_strange_cards_are_one_error(tmp_path: Path, card: str) -> None:
    graph = onnx.ModelProto()
    onnx.helper.set_model_props(graph, {"i3d_card": card})
    path = tmp_path / "a.onnx"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(CardError, match=r"a\.onnx"):
        artifact.read_card(path)


def test_a_download_that_was_never_filled_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(ArtifactError, match=r"a\.onnx: not a whole ONNX file"):
        artifact.read_card(path)


@pytest.mark.parametrize("encoding", ["foo", "shift_jis"])
def test_a_strange_xml_encoding_is_one_error(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><net/>')
    path.with_suffix(".bin").touch()
    with pytest.raises((ArtifactError, CardError), match=r"a\.xml"):
        artifact.read_card(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is a folder, give one file$"):
        artifact.read_card(tmp_path)


def test_the_hash_is_that_of_the_file_or_follows_from_those_of_all(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert artifact.sha256(tmp_path / "net.onnx") == abc
    found = set()
    for graph, weights in ((b"abc", b"a"), (b"abc", b"b"), (b"abd", b"a")):
        copy(tmp_path / "net.onnx", tmp_path / "net.xml", graph)
        (tmp_path / "net.bin").write_bytes(weights)
        found.add(artifact.sha256(tmp_path / "net.xml"))
    found.add(artifact.sha256(tmp_path / "net.onnx", tmp_path / "net.xml"))
    assert len(found | {abc}) == 5


def test_the_engine_of_a_triton_repository_is_named(tiny_exports: Path, tmp_path: Path) -> None:
    repository = tmp_path / "tiny_triton"
    card = artifact.read_card(tiny_exports / "tiny.onnx")
    write = partial(to_onnx.write, onnx.load(tiny_exports / "tiny.onnx"))
    triton_repository.write(write, triton_repository.Serving(), card, repository)
    engine = repository / "tiny" / "1" / "model.onnx"
    with pytest.raises(ArtifactError, match=f"the engine of this Triton repository is {engine}$"):
        artifact.read_card(repository)
    assert artifact.read_card(engine) == card
