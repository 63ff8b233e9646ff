"""Features on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i3d_deploy import feature_files
from i3d_deploy.card import Card, Provenance
from i3d_deploy.errors import InputError
from i3d_deploy.features import Features, Settings
from i3d_deploy.network import i3d_r50

CARD = Card(
    network=i3d_r50(2), label_set="custom", labels=("a", "b"), provenance=Provenance(origin="random weights, seed 3")
)
SETTINGS = Settings(frames_per_second=25.0, crop_size=224)
BASIS = feature_files.basis("https://host/a/clip.mp4", "a/clip.mp4", [(CARD, "0" * 64)], SETTINGS)
FEATURES = Features(
    values=np.arange(6, dtype=np.float32).reshape(2, 3),
    start_frames=np.array([0, 16]),
    end_frames=np.array([16, 25]),
    padded_frames=7,
    num_frames=25,
    frames_per_second=24.0,
    warnings=("the container says 26 frames, 25 decode",),
)


def basis(**changes: Any) -> feature_files.Basis:
    """The basis with other settings."""
    return {**BASIS, "settings": {**BASIS["settings"], **changes}}


def of_video(path: Path) -> Any:
    """What the basis says of a video's content."""
    return feature_files.basis(str(path), "clip", [(CARD, None)], SETTINGS)["video_sha256"]


def test_what_a_video_holds_is_part_of_the_basis(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"abc")
    # Source: FIPS 180-2, appendix B.1.
    assert of_video(tmp_path / "clip.mp4") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert BASIS["video_sha256"] is None
    folder = tmp_path / "clip"
    folder.mkdir()
    found = set()
    for name, content in (("img_00001.jpg", b"1"), ("img_00002.jpg", b"2"), ("img_00002.jpg", b"22")):
        (folder / name).write_bytes(content)
        found.add(of_video(folder))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip.mp4", "clip.npy"),
        ("a/b/clip.MKV", "a/b/clip.npy"),
        ("v_0.5.avi", "v_0.5.npy"),
        ("frames_v0.5", "frames_v0.5.npy"),  # a folder of frames: what follows the dot is no ending
    ],
)
def test_a_video_has_an_array_of_its_name(name: str, expected: str) -> None:
    assert feature_files.targets({"/x/y": name}, output=Path("out")) == {"/x/y": Path("out") / expected}


def test_two_videos_never_share_an_array() -> None:
    names = {"x/a.mp4": "a.mp4", "y/b.mp4": "b.mp4", "z/a.avi": "a.avi"}
    with pytest.raises(InputError, match=r"x/a\.mp4 and z/a\.avi would both be written to out/a\.npy: rename one"):
        feature_files.targets(names, output=Path("out"))


def test_what_is_written(tmp_path: Path) -> None:
    target = tmp_path / "a" / "clip.npy"
    feature_files.write(target, FEATURES, BASIS)
    np.testing.assert_array_equal(np.load(target), FEATURES.values)
    document = json.loads((tmp_path / "a" / "clip.json").read_text())
    assert document.pop("i3d_deploy")
    assert document == {
        "video": "a/clip.mp4",
        "video_sha256": None,
        "streams": {
            "rgb": {
                "network": "i3d_r50",
                "origin": "random weights, seed 3",
                "artifact_sha256": "0" * 64,
                "short_side": 256,
                "flow": None,
            }
        },
        "settings": {
            "window": 16,
            "stride": 16,
            "layer": "pool",
            "crops": 1,
            "last": "repeat",
            "frames_per_second": 25.0,
            "crop_size": 224,
        },
        "shape": [2, 3],
        "num_frames": 25,
        "frames_per_second": 24.0,
        "padded_frames": 7,
        "start_frames": [0, 16],
        "end_frames": [16, 25],
        "start_seconds": [0.0, 0.666667],
        "end_seconds": [0.666667, 1.041667],
        "warnings": ["the container says 26 frames, 25 decode"],
    }
    assert sorted(entry.name for entry in (tmp_path / "a").iterdir()) == ["clip.json", "clip.npy"]


def test_a_pair_with_the_same_settings_is_done(tmp_path: Path) -> None:
    target = tmp_path / "clip.npy"
    assert not feature_files.is_done(target, BASIS)
    feature_files.write(target, FEATURES, BASIS)
    assert feature_files.is_done(target, BASIS)


def test_a_document_alone_is_no_pair(tmp_path: Path) -> None:
    target = tmp_path / "clip.npy"
    feature_files.write(target, FEATURES, BASIS)
    target.unlink()
    assert not feature_files.is_done(target, BASIS)


def test_other_settings_are_named(tmp_path: Path) -> None:
    target = tmp_path / "clip.npy"
    feature_files.write(target, FEATURES, BASIS)
    with pytest.raises(InputError, match=r"settings\.window was 16, now 32; settings\.last was repeat, now drop"):
        feature_files.is_done(target, basis(window=32, last="drop"))


def test_another_checkpoint_or_stream_is_named(tmp_path: Path) -> None:
    target = tmp_path / "clip.npy"
    feature_files.write(target, FEATURES, BASIS)
    other = feature_files.basis("https://host/a/clip.mp4", "a/clip.mp4", [(CARD, "1" * 64)], SETTINGS)
    with pytest.raises(InputError, match=r"streams\.rgb\.artifact_sha256 was 0+, now 1+\)"):
        feature_files.is_done(target, other)
    more = {**BASIS, "streams": {**BASIS["streams"], "flow": {"network": "b"}}}
    with pytest.raises(InputError, match=r"streams\.flow\.network was None, now b"):
        feature_files.is_done(target, more)


@pytest.mark.parametrize("text", ["", "[]", "3", '"video"', '{"video": "a/clip.mp4"}'])
def test_a_document_of_somebody_else_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "clip.json").write_text(text)
    with pytest.raises(InputError, match=r"clip\.json is not of i3d-features: remove it, or give --overwrite"):
        feature_files.is_done(tmp_path / "clip.npy", BASIS)


def test_an_array_of_somebody_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "clip.npy").write_bytes(b"x")
    with pytest.raises(InputError, match=r"clip\.npy is there without clip\.json, which says what it holds: remove it"):
        feature_files.is_done(tmp_path / "clip.npy", BASIS)


def test_a_rate_that_is_not_known_is_null(tmp_path: Path) -> None:
    unknown = Features(
        values=FEATURES.values,
        start_frames=FEATURES.start_frames,
        end_frames=FEATURES.end_frames,
        padded_frames=7,
        num_frames=25,
        frames_per_second=None,
    )
    feature_files.write(tmp_path / "clip.npy", unknown, BASIS)
    document = json.loads((tmp_path / "clip.json").read_text())
    assert document["start_seconds"] is document["end_seconds"] is document["frames_per_second"] is None
