"""How the flow images of a list were made: found beside them, and held against a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i3d_deploy import flow, flow_images, prepared_flow
from i3d_deploy.errors import InputError
from i3d_deploy.images import FrameFolder
from i3d_deploy.lists import Annotation

BY = "OpenCV 4.9.9 DISOpticalFlow medium"
RECORD: dict[str, Any] = {
    "method": "dis",
    "frames_per_second": 25.0,
    "with_rgb": False,
    "implementation": BY,
    "short_side": 128,
    "size": None,
}


def write(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flow.json").write_text(json.dumps({**RECORD, **changes}))


def entry(folder: Path) -> Annotation:
    """A line of a list, with its folder of two pairs."""
    flow_images.write_pairs(folder, [np.zeros((16, 16, 2), np.uint8)] * 2)
    return Annotation(name=folder.name, source=FrameFolder(path=folder, num_frames=2), labels=(0,))


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Annotation, ...]:
    """Two folders of flow in a folder of their class, beside the record of the data set."""
    write(tmp_path)
    return entry(tmp_path / "run" / "a"), entry(tmp_path / "run" / "b")


def test_the_record_lies_above_the_folders(listed: tuple[Annotation, ...], tmp_path: Path) -> None:
    found = prepared_flow.of_list(listed)
    assert list(found.records) == [tmp_path / "flow.json"]
    assert (found.is_all_read, found.implementation("tvl1")) == (True, BY)


def test_the_nearest_record_counts_and_results_of_its_name_do_not(
    listed: tuple[Annotation, ...], tmp_path: Path
) -> None:
    write(tmp_path / "run", implementation="scikit-image 0.25 tvl1")
    (tmp_path / "run" / "a" / "flow.json").write_text("[[0.25, 0.75]]")  # in the folder of flow itself
    assert prepared_flow.of_list(listed).implementation("dis") == "scikit-image 0.25 tvl1"
    (tmp_path / "run" / "flow.json").write_text("[[0.25, 0.75]]")  # of training/test.py --out flow.json
    assert prepared_flow.of_list(listed).implementation("dis") == BY


def test_flow_of_several_makers_names_all(listed: tuple[Annotation, ...], tmp_path: Path) -> None:
    write(tmp_path / "jump", implementation="another")
    both = prepared_flow.of_list([*listed, entry(tmp_path / "jump" / "c")])
    assert both.implementation("dis") == f"{BY} and another"
    video = Annotation(name="d.mp4", source=tmp_path / "d.mp4", labels=(0,))
    mixed = prepared_flow.of_list([*listed, video])
    assert (mixed.is_all_read, mixed.implementation("dis")) == (False, f"{BY} and {flow.implementation('dis')}")


def test_what_is_computed_here_is_known_and_flow_without_a_record_is_not(tmp_path: Path) -> None:
    video = Annotation(name="d.mp4", source=tmp_path / "d.mp4", labels=(0,))
    assert prepared_flow.of_list([video]).implementation("dis") == flow.implementation("dis")
    found = prepared_flow.of_list([entry(tmp_path / "a")])
    assert (found.records, found.is_all_read, found.implementation("dis")) == ({}, True, None)


def test_flow_as_the_recipe_says_is_taken(listed: tuple[Annotation, ...], tmp_path: Path) -> None:
    prepared_flow.check(prepared_flow.of_list(listed), method="dis", short_side=128, frames_per_second=25)
    # A recipe of any rate takes any: motion_tiny_flow has none.
    prepared_flow.check(prepared_flow.of_list(listed), method="dis", short_side=128, frames_per_second=None)
    write(tmp_path, short_side=None, size=[170, 128])
    prepared_flow.check(prepared_flow.of_list(listed), method="dis", short_side=128, frames_per_second=25)


def test_flow_made_in_another_way_is_refused_with_both_values(listed: tuple[Annotation, ...], tmp_path: Path) -> None:
    def message(*, method: flow.Method = "dis", short_side: int = 128, rate: float | None = 25.0) -> str:
        found = prepared_flow.of_list(listed)
        with pytest.raises(InputError, match=r"flow\.json: the flow was made with .*make it anew with") as caught:
            prepared_flow.check(found, method=method, short_side=short_side, frames_per_second=rate)
        return str(caught.value)

    assert "made with method dis, and data.flow_method is tvl1: make" in message(method="tvl1")
    assert "made with a short side of 128, and test.spatial.short_side is 256: make" in message(short_side=256)
    assert "made with 25 frames a second, and test.sampling.frames_per_second is 30: make" in message(rate=30.0)
    write(tmp_path, frames_per_second=None)
    everything = message(method="tvl1", short_side=256)
    assert "every frame of a video, and test.sampling.frames_per_second is 25" in everything
    assert everything.count(", and ") == 3
