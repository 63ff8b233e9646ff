"""Lists of labelled videos: every form, and every way in which a line can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from i3d_deploy import lists
from i3d_deploy.errors import InputError
from i3d_deploy.images import FrameFolder
from i3d_deploy.lists import Annotation

ROOT = Path("/data")


def read(folder: Path, text: str, *, name: str = "list.txt", **options: Any) -> tuple[Annotation, ...]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return lists.read(path, **{"kind": "video", "root": ROOT, "num_classes": 10, **options})


def videos(*rows: tuple[str, int | tuple[int, ...]]) -> tuple[Annotation, ...]:
    """What a list of these videos holds."""
    return tuple(
        Annotation(name=name, source=ROOT / name, labels=label if isinstance(label, tuple) else (label,))
        for name, label in rows
    )


def folders(*rows: tuple[str, int, int, int | tuple[int, ...]], image_name: str) -> tuple[Annotation, ...]:
    """What a list of these folders (name, offset, frames, labels) holds."""
    return tuple(
        Annotation(
            name=name,
            source=FrameFolder(path=ROOT / name, num_frames=num_frames, offset=offset, image_name=image_name),
            labels=label if isinstance(label, tuple) else (label,),
        )
        for name, offset, num_frames, label in rows
    )


def test_videos(tmp_path: Path) -> None:
    found = read(tmp_path, "some/path/000.mp4 1\nother/001.avi 0\n")
    assert found == videos(("some/path/000.mp4", 1), ("other/001.avi", 0))
    assert found[0].source == Path("/data/some/path/000.mp4")


def test_frames(tmp_path: Path) -> None:
    found = read(tmp_path, "some/directory-1 163 1\nsome/directory-2 122 9\n", kind="frames")
    rows = (("some/directory-1", 0, 163, 1), ("some/directory-2", 0, 122, 9))
    assert found == folders(*rows, image_name="img_{:05}.jpg")


def test_frames_with_an_offset(tmp_path: Path) -> None:
    text = "a 12 163 1\nb 0 122 2\n"
    found = read(tmp_path, text, kind="frames", with_offset=True, image_name="frame-{}.png")
    assert found == folders(("a", 12, 163, 1), ("b", 0, 122, 2), image_name="frame-{}.png")


def test_videos_with_several_labels(tmp_path: Path) -> None:
    found = read(tmp_path, "a.mp4 1\nb.mp4 9 0 3\n", multi_class=True)
    assert found == videos(("a.mp4", 1), ("b.mp4", (9, 0, 3)))


@pytest.mark.parametrize(
    ("with_offset", "text"), [(False, "a 163 1 3 5\nb 122 2\n"), (True, "a 7 163 1 3 5\nb 7 122 2\n")]
)
def test_frames_with_several_labels(tmp_path: Path, with_offset: bool, text: str) -> None:
    found = read(tmp_path, text, kind="frames", multi_class=True, with_offset=with_offset)
    offset = 7 if with_offset else 0
    assert found == folders(("a", offset, 163, (1, 3, 5)), ("b", offset, 122, 2), image_name="img_{:05}.jpg")


@pytest.mark.parametrize(
    ("line", "options", "name"),
    [
        ("my videos/a b  c.mp4 3", {}, "my videos/a b  c.mp4"),
        ("my videos/a b 10 3", {"kind": "frames"}, "my videos/a b"),
        ("my videos/a 1 2 10 3", {"kind": "frames", "with_offset": True}, "my videos/a 1"),
    ],
)
def test_paths_may_hold_spaces_where_there_is_one_label(
    tmp_path: Path, line: str, options: dict[str, Any], name: str
) -> None:
    (found,) = read(tmp_path, line, **options)
    assert (found.name, found.labels) == (name, (3,))
    source = found.source
    assert (source.path if isinstance(source, FrameFolder) else source) == ROOT / name


def test_empty_lines_and_blanks_around_fields_do_not_count(tmp_path: Path) -> None:
    assert read(tmp_path, "\n  a.mp4 \t 1  \n\n \t\nb.mp4 2") == videos(("a.mp4", 1), ("b.mp4", 2))


@pytest.mark.parametrize("text", ["\ufeffgrößer/a.mp4 1\n", "größer/a.mp4 1\r\n"], ids=["byte order mark", "CRLF"])
def test_files_of_other_systems_are_read(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == videos(("größer/a.mp4", 1))


def test_an_absolute_path_needs_no_root(tmp_path: Path) -> None:
    (found,) = read(tmp_path, "/elsewhere/a.mp4 1")
    assert found.source == Path("/elsewhere/a.mp4")


def test_json_of_videos(tmp_path: Path) -> None:
    document = [{"filename": "a b.mp4", "label": 1}, {"filename": "c.mp4", "label": [9, 0], "comment": "x"}]
    found = read(tmp_path, json.dumps(document), name="list.JSON", multi_class=True)
    assert found == videos(("a b.mp4", 1), ("c.mp4", (9, 0)))


def test_json_of_frames(tmp_path: Path) -> None:
    document = [
        {"frame_dir": "a", "total_frames": 163, "label": 1},
        {"frame_dir": "b", "total_frames": 122, "offset": 5, "label": [2]},
    ]
    found = read(tmp_path, json.dumps(document), name="list.json", kind="frames")
    assert found == folders(("a", 0, 163, 1), ("b", 5, 122, 2), image_name="img_{:05}.jpg")


GOOD = "good.mp4 0\n\n"
GOOD_FOLDER = "good 5 0\n\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (f"{GOOD}a.mp4\n", {}, r"line 3 is 'a.mp4' instead of 'path label'"),
        (f"{GOOD}a.mp4\n", {"multi_class": True}, r"line 3 is 'a.mp4' instead of 'path label \.\.\.'"),
        (f"{GOOD_FOLDER}a 1\n", {"kind": "frames"}, r"line 3 is 'a 1' instead of 'folder num_frames label'"),
        ("a 1 2\n", {"kind": "frames", "with_offset": True}, r"line 1 is 'a 1 2' instead of 'folder offset num_fram"),
        (f"{GOOD}a.mp4 x\n", {}, r"line 3 \(a.mp4\) has the label 'x': give a number from 0 to 9"),
        (f"{GOOD}a.mp4 10\n", {}, r"line 3 \(a.mp4\) has the label '10': give a number from 0 to 9"),
        (f"{GOOD}a.mp4 -1\n", {}, r"line 3 \(a.mp4\) has the label '-1': give a number from 0 to 9"),
        (f"{GOOD}a.mp4 1.0\n", {}, r"line 3 \(a.mp4\) has the label '1.0': give a number from 0 to 9"),
        (f"{GOOD}a.mp4 1 10\n", {"multi_class": True}, r"line 3 \(a.mp4\) has the label '10': give a number from 0"),
        (f"{GOOD}a b.mp4 1\n", {"multi_class": True}, r"line 3 \(a\) has the label 'b.mp4': give a number from 0"),
        (
            f"{GOOD_FOLDER}a 0 1\n",
            {"kind": "frames"},
            r"line 3 \(a\) has the number of frames '0': give a number",
        ),
        (f"{GOOD_FOLDER}a b 1\n", {"kind": "frames"}, r"line 3 \(a\) has the number of frames 'b': give a number from"),
        (
            "a -1 5 1\n",
            {"kind": "frames", "with_offset": True},
            r"line 1 \(a\) has the offset '-1': give a number",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^list .*list.txt: {message}"):
        read(tmp_path, text, **options)


@pytest.mark.parametrize(
    ("document", "options", "message"),
    [
        ({"filename": "a", "label": 1}, {}, "holds a dict instead of a list of objects"),
        ([["a.mp4", 1]], {}, "entry 0 has no 'filename' with a 'label'"),
        ([{"filename": "a", "label": 1}, {"filename": "b"}], {}, "entry 1 has no 'filename' with a 'label'"),
        ([{"filename": 5, "label": 1}], {}, "entry 0 has no 'filename' with a 'label'"),
        ([{"frame_dir": "a", "label": 1}], {}, "entry 0 has no 'filename' with a 'label'"),
        ([{"filename": "a", "label": 1}], {"kind": "frames"}, "entry 0 has no 'frame_dir' with a 'label'"),
        ([{"filename": "a", "label": []}], {"multi_class": True}, "entry 0 has no label"),
        ([{"filename": "a", "label": [1, 2]}], {}, "a has several labels, and multi_class is not set"),
        ([{"filename": "a", "label": True}], {}, r"entry 0 \(a\) has the label True: give a number from 0 to 9"),
        ([{"filename": "a", "label": 1.5}], {}, r"entry 0 \(a\) has the label 1.5: give a number from 0 to 9"),
        ([{"filename": "a", "label": None}], {}, r"entry 0 \(a\) has the label None: give a number from 0 to 9"),
        (
            [{"frame_dir": "a", "label": 1}],
            {"kind": "frames"},
            r"entry 0 \(a\) has the number of frames None: give a number from 1",
        ),
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, document: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^list .*list.json: {message}"):
        read(tmp_path, json.dumps(document), name="list.json", **options)


@pytest.mark.parametrize("text", ["[", "a.mp4 1", "[" * 100_000], ids=["cut off", "a text list", "deep"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"list.json: no JSON document: "):
        read(tmp_path, text, name="list.json")


@pytest.mark.parametrize(("name", "text"), [("list.txt", "\n \n"), ("list.json", "[]")])
def test_a_list_without_videos_is_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(InputError, match=rf"{name} names no video: write one a line"):
        read(tmp_path, text, name=name)


def test_an_offset_of_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only lists of frames have offsets, not lists of videos"):
        read(tmp_path, "a.mp4 0 1\n", with_offset=True)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"kind": "video", "root": ROOT, "num_classes": 10}
    with pytest.raises(InputError, match=r"list .*missing.txt: no such file"):
        lists.read(tmp_path / "missing.txt", **options)
    with pytest.raises(InputError, match=r"list .*: is a folder, give one file"):
        lists.read(tmp_path, **options)
    with pytest.raises(InputError, match=r"list.txt: the file is empty"):
        read(tmp_path, "")
    (tmp_path / "video.mp4").write_bytes(b"\x00\xff\xfe\xff")
    with pytest.raises(InputError, match=r"list .*video.mp4: not a text file"):
        lists.read(tmp_path / "video.mp4", **options)


def test_text_of_a_list_reads_back(tmp_path: Path) -> None:
    text = lists.to_text([("a b", 12, 3), ("c", 40, 0)])
    assert text == "a b 12 3\nc 40 0\n"
    assert lists.to_text([("x.mp4", 1)]) == "x.mp4 1\n"
    found = read(tmp_path, text, kind="frames")
    assert found == folders(("a b", 0, 12, 3), ("c", 0, 40, 0), image_name="img_{:05}.jpg")
