"""Frames and windows of videos, from the files to the lists."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from i3d_deploy import extraction, flow, generated, lists, preparation, video, video_files
from i3d_deploy.errors import InputError
from i3d_deploy.extraction import Resize
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.flow_images import FlowFolder
from i3d_deploy.training import clips
from i3d_deploy.training.clips import TrainViews
from tests.test_preparation import QUICK, UCF101, bad_files, place, run, write_files


def test_frames_are_extracted_and_listed(tmp_path: Path, clip20: Path) -> None:
    videos, folder, output = tmp_path / "videos", tmp_path / "frames", tmp_path / "lists"
    place(clip20, videos, "Archery/v_a.avi", "BabyCrawling/v_b.avi", "BabyCrawling/v_c.avi")
    bad_files(videos, clip20)
    done = run("frames", "--videos", videos, "--output", folder, "--short-side", "16")
    assert done.exit_code == 0, done.output
    assert "9 videos: 3 ok, 5 broken, 1 short\n" in done.stderr
    assert sorted(str(path.relative_to(folder)) for path in folder.glob("*/*")) == [
        *("Archery/v_a", "BabyCrawling/v_b", "BabyCrawling/v_c"),
    ]
    names = sorted(path.name for path in (folder / "Archery" / "v_a").iterdir())
    assert names == [f"img_{number:05}.jpg" for number in range(1, 21)]
    images = [cv2.imread(str(folder / "Archery" / "v_a" / name)) for name in names]
    for image, frame in zip(images, video_files.read(clip20), strict=True):
        assert image is not None
        expected = cv2.resize(frame, (24, 16), interpolation=cv2.INTER_LINEAR)[..., ::-1]
        # JPEG halves the colour resolution. Red and blue exchanged would give about 60.
        assert np.abs(image.astype(np.float64) - expected).mean() < 20

    (folder / "BabyCrawling" / "v_c" / "img_00007.jpg").write_bytes(b"\xff\xd8 no picture")
    more = {
        "testlist01.txt": UCF101["testlist01.txt"] + "Archery/v_a.avi\n",
        "trainlist02.txt": UCF101["trainlist02.txt"] + "BabyCrawling/v_b.avi 2\n",
    }
    splits = write_files(tmp_path / "splits", UCF101 | more)
    done = run("ucf101", "--splits", splits, "--videos", folder, "--output", output, "--kind", "frames")
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_text() for path in output.glob("*.txt")} == {
        "labels.txt": "Archery\nBabyCrawling\n",
        "ucf101_train_split_1_rawframes.txt": "Archery/v_a 20 0\nBabyCrawling/v_b 20 1\n",
        "ucf101_val_split_1_rawframes.txt": "Archery/v_a 20 0\n",
        "ucf101_train_split_2_rawframes.txt": "BabyCrawling/v_b 20 1\n",
        "ucf101_val_split_2_rawframes.txt": "Archery/v_a 20 0\n",
    }
    report = json.loads((output / "report.json").read_text())
    assert [(entry["name"], entry["verdict"], entry["reason"]) for entry in report["bad"]] == [
        ("BabyCrawling/v_c", "broken", "BabyCrawling/v_c/img_00007.jpg: the image cannot be decoded"),
        ("Archery/v_gone.avi", "missing", "no such folder of frames"),
    ]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("img_00001.jpg", "video/img_00001.jpg: no such file"),
        ("img_00009.jpg", "video/img_00009.jpg: no such file"),
        ("img_*.jpg", "no frames named img_00001.jpg and so on"),
    ],
)
def test_folder_of_frames_with_a_gap_is_broken(tmp_path: Path, clip20: Path, lost: str, reason: str) -> None:
    extraction.extract("video", clip20, tmp_path / "video", Resize(), QUICK)
    for path in list((tmp_path / "video").glob(lost)):
        path.unlink()
    found = preparation.judge("video", tmp_path, "frames", QUICK)
    assert (found.verdict, found.reason) == ("broken", reason)


def test_extraction_goes_on_where_it_was(tmp_path: Path, clip20: Path) -> None:
    videos, folder = tmp_path / "videos", tmp_path / "frames"
    place(clip20, videos, "a.mp4", "deep/b.mp4")
    options = ("frames", "--videos", videos, "--output", folder, "--size", "20x10")
    assert run(*options).exit_code == 0
    kept = folder / "a" / "img_00001.jpg"
    image = cv2.imread(str(kept))
    assert image is not None
    assert image.shape == (10, 20, 3)
    when = kept.stat().st_mtime_ns
    # What a run leaves that was killed in the middle of a video.
    half = folder / "deep" / ".writing-b"
    (folder / "deep" / "b").rename(half)
    for number in range(11, 21):
        (half / f"img_{number:05}.jpg").unlink()
    (half / "img_00099.jpg").write_bytes(b"")
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert kept.stat().st_mtime_ns == when
    assert not half.exists()
    assert len(list((folder / "deep" / "b").iterdir())) == 20
    done = run("frames", "--videos", videos, "--output", folder)
    assert done.exit_code == 1
    assert "has frames of another size (frames.json): give another folder or remove this one" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "20x10", "--short-side", "8"), "give --short-side or --size, not both"),
        (("--size", "20*10"), "'20*10' is not width x height, such as 340x256"),
    ],
)
def test_wrong_sizes_are_usage_errors(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = run("frames", "--videos", tmp_path, "--output", tmp_path, *options)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "videos: no videos: give the folder of the videos"),
        (("a.avi", "a.mp4"), r"a\.avi and a\.mp4 would get the same folder of frames: rename one"),
        (("a.avi", "a/b.avi"), r"the frames of a/b\.avi would lie among those of a\.avi: rename one"),
    ],
)
def test_names_that_cannot_be_folders_are_refused(
    tmp_path: Path, clip20: Path, names: tuple[str, ...], message: str
) -> None:
    place(clip20, tmp_path / "videos", *names)
    with pytest.raises(InputError, match=message):
        extraction.extract_all(tmp_path / "videos", output=tmp_path / "out", resize=Resize(), limits=QUICK)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "image"),
    [
        (("frames", "--videos", "videos/a.MP4"), "img_00020.jpg"),
        (("flow", "videos/a.MP4", "videos/one", "--method", "dis"), "y_00019.jpg"),
    ],
)
def test_one_video_file_is_extracted(
    tmp_path: Path, clip20: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], image: str
) -> None:
    monkeypatch.chdir(tmp_path)
    place(clip20, tmp_path / "videos", "a.MP4", "other.mp4", "one/b.mp4")
    done = run(*options, "--output", "out", "--short-side", "24")
    assert done.exit_code == 0, done.output
    expected = ["a", "b"] if options[0] == "flow" else ["a"]
    assert sorted(path.name for path in Path("out").iterdir() if path.is_dir()) == expected
    assert Path("out", "a", image).is_file()


@pytest.mark.parametrize("command", ["flow", "frames"])
def test_a_video_file_that_is_not_there_is_named(tmp_path: Path, command: str) -> None:
    options = (
        ("flow", tmp_path / "no.mp4", "--method", "dis")
        if command == "flow"
        else ("frames", "--videos", tmp_path / "no.mp4")
    )
    done = run(*options, "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert "no.mp4: no such file\n" in done.stderr


LISTED = {"train.txt": "one/a.mp4 0\ntwo words.mp4 1\n", "val.txt": "one/a.mp4 0\nbroken.mp4 1\n"}


@pytest.fixture
def listed(tmp_path: Path, clip20: Path) -> list[Path]:
    """Two lists of a video that is in both, one of its own each, and labels."""
    videos = tmp_path / "videos"
    place(clip20, videos, "one/a.mp4", "two words.mp4")
    (videos / "broken.mp4").write_text("nothing")
    write_files(videos, {**LISTED, "labels.txt": "run\njump\n"})
    return [videos / name for name in LISTED]


def test_flow_of_lists_is_written_as_pairs_and_listed(tmp_path: Path, clip20: Path, listed: list[Path]) -> None:
    output = tmp_path / "flow"
    done = run("flow", *listed, "--output", output, "--method", "dis", "--short-side", "24", "--rgb")
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_text() for path in output.glob("*.txt")} == {
        "train.txt": "one/a 19 0\ntwo words 19 1\n",
        "val.txt": "one/a 19 0\n",
        "labels.txt": "run\njump\n",
    }
    assert "Warning: broken.mp4: broken: no video stream that can be decoded\n" in done.stderr
    assert "train.txt: 2 videos\n" in done.stderr
    assert json.loads((output / "flow.json").read_text()) == {
        "method": "dis",
        "frames_per_second": 25.0,
        "with_rgb": True,
        "implementation": flow.implementation("dis"),
        "short_side": 24,
        "size": None,
    }
    # 20 frames of 48x32 become 36x24, with flow from each to the next.
    frames = [Resize(short_side=24).apply(frame) for frame in video_files.read(clip20)]
    assert frames[0].shape == (24, 36, 3)
    folder = FlowFolder(output / "one" / "a")
    assert (folder.num_flows, folder.size) == (19, (24, 36))
    assert len(list(folder.path.glob("img_*.jpg"))) == 20
    for number in (0, 18):
        expected = flow.to_uint8(flow.compute(frames[number], frames[number + 1], method="dis"))
        assert np.abs(folder.read(number).astype(int) - expected).mean() < 1  # JPEG
    read = lists.read(output / "train.txt", kind="frames", root=output, num_classes=2)
    assert clips.draw(read[1].source, TrainViews(crop_size=16), seed=0, flow=FlowWanted(method="dis")).shape == (
        32,
        16,
        16,
        2,
    )


def test_flow_is_computed_between_frames_of_the_asked_rate(tmp_path: Path, clip20: Path) -> None:
    # The clip has 25 frames a second: 10 at 12.5, and the eighth flow leads from frame 14 to frame 16.
    place(clip20, tmp_path / "videos", "a.mp4")
    for rate, count in (("12.5", 9), ("50", 39)):
        done = run(
            *("flow", tmp_path / "videos", "--output", tmp_path / rate, "--method", "dis", "--size", "48x32"),
            *("--fps", rate, "--min-frames", "10"),
        )
        assert done.exit_code == 0, done.output
        assert FlowFolder(tmp_path / rate / "a").num_flows == count
    frames = list(video_files.read(clip20))
    expected = flow.to_uint8(flow.compute(frames[14], frames[16], method="dis"))
    assert np.abs(FlowFolder(tmp_path / "12.5" / "a").read(7).astype(int) - expected).mean() < 1
    # At 50 each frame but the first comes twice, and between the same frame nothing moves.
    assert np.unique(FlowFolder(tmp_path / "50" / "a").read(1)).tolist() == [127]


def test_flow_goes_on_where_it_was_and_does_not_mix(tmp_path: Path, listed: list[Path]) -> None:
    options = ("flow", listed[0], "--output", tmp_path / "flow", "--method", "dis")
    assert run(*options).exit_code == 0
    kept = tmp_path / "flow" / "one" / "a" / "x_00001.jpg"
    when = kept.stat().st_mtime_ns
    # What a run leaves that was killed in the middle of a video.
    half = tmp_path / "flow" / ".writing-two words"
    (tmp_path / "flow" / "two words").rename(half)
    (half / "y_00019.jpg").unlink()
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert kept.stat().st_mtime_ns == when
    assert not half.exists()
    assert FlowFolder(tmp_path / "flow" / "two words").num_flows == 19
    done = run(*options, "--short-side", "16")
    assert done.exit_code == 1
    assert "has flow that was made in another way (flow.json): give another folder or remove this one" in done.stderr


def test_official_splits_list_folders_of_flow(tmp_path: Path, clip20: Path) -> None:
    videos, folder, output = tmp_path / "videos", tmp_path / "flow", tmp_path / "lists"
    place(clip20, videos, "Archery/v_a.avi", "BabyCrawling/v_b.avi", "BabyCrawling/v_c.avi")
    done = run("flow", videos, "--output", folder, "--method", "dis", "--short-side", "16", "--workers", "1")
    assert done.exit_code == 0, done.output
    assert not list(folder.glob("*.txt"))
    (folder / "BabyCrawling" / "v_c" / "y_00007.jpg").unlink()
    splits = write_files(tmp_path / "splits", UCF101)
    (splits / "testlist01.txt").write_text("Archery/v_a.avi\nBabyCrawling/v_c.avi\n")
    done = run("ucf101", "--splits", splits, "--videos", folder, "--output", output, "--kind", "flow")
    assert done.exit_code == 1
    (splits / "trainlist02.txt").write_text("BabyCrawling/v_b.avi 2\n")
    done = run("ucf101", "--splits", splits, "--videos", folder, "--output", output, "--kind", "flow")
    assert done.exit_code == 0, done.output
    assert (output / "ucf101_train_split_1_flow.txt").read_text() == "Archery/v_a 19 0\nBabyCrawling/v_b 19 1\n"
    (bad,) = json.loads((output / "report.json").read_text())["bad"]
    assert (bad["name"], bad["verdict"]) == ("BabyCrawling/v_c", "broken")
    assert bad["reason"].startswith("y_00007.jpg missing")


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ("a.mp4 0\n", ("--output", "."), "would be replaced by those of the flow: give another folder"),
        ("../a.mp4 0\n", (), r"../a.mp4 is not below the folder that paths start from: give that with --root"),
        ("a.mp4 0\na.avi 1\n", (), "a.mp4 and a.avi would get the same folder of frames: rename one"),
        ("a.mp4\n", (), "line 1 is 'a.mp4' instead of 'path label'"),
    ],
)
def test_lists_without_a_place_for_their_flow_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text(lines)
    done = run("flow", "list.txt", "--method", "dis", *(options or ("--output", "out")))
    assert done.exit_code == 1
    assert message in done.stderr
    assert not Path("out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, clip20: Path) -> None:
    place(clip20, tmp_path / "videos", "a.mp4")
    write_files(tmp_path / "out" / "a", {"notes.txt": "mine"})
    done = run("flow", tmp_path / "videos", "--output", tmp_path / "out", "--method", "dis")
    assert done.exit_code == 1
    assert "is there and holds no flow images: give another folder" in done.stderr


def test_window_starts_lie_wholly_on_one_side() -> None:
    # 100 frames, 60 % of them to train on: windows of 20 start up to frame 40, and from frame 60 up to frame 80.
    assert extraction.window_starts(100, train_share=0.6, window=20, stride=15) == ([0, 15, 30], [60, 75])
    assert extraction.window_starts(100, train_share=0.6, window=20, stride=10) == ([0, 10, 20, 30, 40], [60, 70, 80])
    assert extraction.window_starts(100, train_share=0.6, window=61, stride=1) == ([], [])
    # 0.29 * 100 is less than 29 in floating point.
    assert extraction.window_starts(100, train_share=0.29, window=29, stride=29) == ([0], [29, 58])
    for share, window, stride in ((0, 4, 4), (1, 4, 4), (0.5, 0, 4), (0.5, 4, 0)):
        with pytest.raises(
            InputError, match=r"train_share \(.*\) must be between 0 and 1, window and stride \(.*\) > 0"
        ):
            extraction.window_starts(9, train_share=share, window=window, stride=stride)


def test_windows_of_long_videos_are_listed_with_offsets(tmp_path: Path, clip20: Path) -> None:
    generated.write_clip(tmp_path / "knead dough.mp4", num_frames=40, height=32, width=48)
    place(clip20, tmp_path, "cut.mp4")
    (tmp_path / "broken.mp4").write_text("nothing")
    output = tmp_path / "out"
    files = (tmp_path / "broken.mp4", tmp_path / "knead dough.mp4", tmp_path / "cut.mp4")
    options = ("--train-share", "0.5", "--window", "8", "--stride", "6", "--short-side", "16", "--output", output)
    done = run("windows", *files, *options)
    assert done.exit_code == 0, done.output
    assert (output / "labels.txt").read_text() == "knead dough\ncut\n"
    assert (output / "train.txt").read_text() == (
        "knead dough 0 8 0\nknead dough 6 8 0\nknead dough 12 8 0\ncut 0 8 1\n"
    )
    assert (output / "test.txt").read_text() == (
        "knead dough 20 8 0\nknead dough 26 8 0\nknead dough 32 8 0\ncut 10 8 1\n"
    )
    read = lists.read(output / "test.txt", kind="frames", root=output, num_classes=2, with_offset=True)
    last = video.collect(read[2].source, choose=lambda count, _: np.array([[count - 1]]), transform=lambda frame: frame)
    assert (last.num_frames, last.by_index[7].shape) == (8, (16, 24, 3))
    assert "Warning: broken.mp4: broken: no video stream that can be decoded\n" in done.stderr
    assert "train.txt: 4 windows\n" in done.stderr
    # 20 frames have 10 on each side.
    done = run("windows", *files[1:], *options, "--window", "12")
    assert done.exit_code == 0, done.output
    assert "Warning: cut.mp4: short: 20 frames leave no window of 12 for training\n" in done.stderr
    assert (output / "labels.txt").read_text() == "knead dough\n"


def test_windows_of_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    done = run("windows", tmp_path / "a.mp4", tmp_path / "b" / "a.mp4", "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr == "Error: two videos have the same name, which is their class: rename one\n"
    done = run("windows", tmp_path / "a.mp4", tmp_path / "b" / "a.avi", "--output", tmp_path / "out")
    assert done.stderr == "Error: a.mp4 and a.avi would get the same folder of frames: rename one\n"
