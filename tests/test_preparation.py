"""Official splits to lists: hand-written split files, small videos, and every way in which a file can be bad."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from i3d_deploy import labels, lists, official_splits, preparation
from i3d_deploy.errors import InputError
from i3d_deploy.official_splits import Entry
from i3d_deploy.preparation import Finding, Limits
from tests.raw_avi import write_avi

SCRIPT = Path(__file__).parents[1] / "training" / "prepare.py"
COMMAND: click.Group = runpy.run_path(str(SCRIPT))["main"]
QUICK = Limits(workers=1)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(COMMAND, [str(argument) for argument in arguments])


def place(clip: Path, folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, folder / name)


def write_files(folder: Path, texts: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def bad_files(folder: Path, clip: Path) -> None:
    """One file of each kind that must not reach a list, in ``Archery``."""
    data = clip.read_bytes()
    archery = folder / "Archery"
    archery.mkdir(parents=True, exist_ok=True)
    (archery / "v_cut.avi").write_bytes(data[: len(data) // 2])
    (archery / "v_empty.avi").write_bytes(b"")
    (archery / "v_text.avi").write_text("not found\n" * 40)
    os.mkfifo(archery / "v_pipe.avi")
    grey = np.full((19, 16, 16, 3), 128, np.uint8)
    write_avi(archery / "v_half.avi", grey, promised=40)
    write_avi(archery / "v_short.avi", grey[:15])


UCF101 = {
    "classInd.txt": "1 Archery\n2 BabyCrawling\n",
    "trainlist01.txt": "Archery/v_a.avi 1\nBabyCrawling/v_b.avi 2\n",
    "testlist01.txt": "BabyCrawling/v_c.avi\nArchery/v_gone.avi\n",
    "trainlist02.txt": "BabyCrawling/v_c.avi 2\r\n",
    "testlist02.txt": "Archery/v_a.avi\r\n\r\n",
}
BAD = ["cut", "empty", "gone", "half", "pipe", "short", "text"]


def test_ucf101_lists_hold_the_usable_videos(tmp_path: Path, clip20: Path) -> None:
    splits = write_files(tmp_path / "splits", UCF101)
    (splits / "trainlist03.txt").write_text("".join(f"Archery/v_{name}.avi 1\n" for name in ["a", *BAD]))
    (splits / "testlist03.txt").write_text("BabyCrawling/v_b.avi\n")
    videos, output = tmp_path / "videos", tmp_path / "lists"
    place(clip20, videos, "Archery/v_a.avi", "BabyCrawling/v_b.avi", "BabyCrawling/v_c.avi", "BabyCrawling/extra.avi")
    bad_files(videos, clip20)
    done = run("ucf101", "--splits", splits, "--videos", videos, "--output", output)
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_text() for path in output.glob("*.txt")} == {
        "labels.txt": "Archery\nBabyCrawling\n",
        "ucf101_train_split_1_videos.txt": "Archery/v_a.avi 0\nBabyCrawling/v_b.avi 1\n",
        "ucf101_val_split_1_videos.txt": "BabyCrawling/v_c.avi 1\n",
        "ucf101_train_split_2_videos.txt": "BabyCrawling/v_c.avi 1\n",
        "ucf101_val_split_2_videos.txt": "Archery/v_a.avi 0\n",
        "ucf101_train_split_3_videos.txt": "Archery/v_a.avi 0\n",
        "ucf101_val_split_3_videos.txt": "BabyCrawling/v_b.avi 1\n",
    }
    report = json.loads((output / "report.json").read_text())
    assert report["videos"] == 10
    assert report["counts"] == {"ok": 3, "missing": 1, "broken": 5, "short": 1}
    assert report["lists"]["ucf101_train_split_1_videos.txt"] == 2
    assert {entry["name"]: (entry["verdict"], entry["reason"]) for entry in report["bad"]} == {
        "Archery/v_gone.avi": ("missing", "no such file"),
        "Archery/v_cut.avi": ("broken", "no video stream that can be decoded"),
        "Archery/v_empty.avi": ("broken", "the file is empty"),
        "Archery/v_half.avi": (
            "broken",
            "only 19 of 40 frames decode, fewer than 50%: the file is damaged; min_decoded_share (--min-decoded) sets "
            "how much is enough",
        ),
        "Archery/v_pipe.avi": ("broken", "not a regular file"),
        "Archery/v_short.avi": ("short", "15 frames, 16 are needed"),
        "Archery/v_text.avi": ("broken", "no video stream that can be decoded"),
    }
    assert done.stdout == ""
    assert "Warning: Archery/v_gone.avi: missing: no such file\n" in done.stderr
    assert "10 videos: 3 ok, 1 missing, 5 broken, 1 short\n" in done.stderr
    assert "ucf101_train_split_1_videos.txt: 2 videos\n" in done.stderr


def test_limits_are_the_callers(tmp_path: Path, clip20: Path) -> None:
    splits = write_files(
        tmp_path / "splits",
        {
            "classInd.txt": "1 Archery\n",
            "trainlist01.txt": "Archery/v_half.avi 1\nArchery/v_short.avi 1\n",
            "testlist01.txt": "Archery/v_a.avi\nArchery/v_half.avi\n",
        },
    )
    place(clip20, tmp_path / "videos", "Archery/v_a.avi")
    bad_files(tmp_path / "videos", clip20)
    options = ("--splits", splits, "--videos", tmp_path / "videos", "--output", tmp_path / "lists")
    done = run("ucf101", *options, "--min-frames", "15", "--min-decoded", "0.4", "--workers", "1")
    assert done.exit_code == 0, done.output
    train = tmp_path / "lists" / "ucf101_train_split_1_videos.txt"
    val = train.with_name("ucf101_val_split_1_videos.txt")
    assert train.read_text() == "Archery/v_half.avi 0\nArchery/v_short.avi 0\n"
    assert val.read_text() == "Archery/v_a.avi 0\nArchery/v_half.avi 0\n"
    done = run("ucf101", *options, "--min-frames", "16", "--min-decoded", "0.4")
    assert done.exit_code == 0, done.output
    assert train.read_text() == "Archery/v_half.avi 0\n"
    # Of 20 frames there is v_a alone, which is in the other list.
    done = run("ucf101", *options, "--min-frames", "20", "--min-decoded", "0.4")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: no usable video is left for ucf101_train_split_1_videos.txt, so no list was written, "
        f"see {tmp_path / 'lists' / 'report.json'}: is it the right folder of videos?"
    )
    assert train.read_text() == "Archery/v_half.avi 0\n"
    assert val.read_text() == "Archery/v_a.avi 0\nArchery/v_half.avi 0\n"
    report = json.loads((tmp_path / "lists" / "report.json").read_text())
    assert report["lists"] == {"ucf101_train_split_1_videos.txt": 0, "ucf101_val_split_1_videos.txt": 1}


def test_nothing_usable_is_a_failure_that_leaves_older_lists(tmp_path: Path) -> None:
    splits = write_files(tmp_path / "splits", UCF101)
    (tmp_path / "videos").mkdir()
    output = write_files(tmp_path / "lists", {"ucf101_train_split_1_videos.txt": "old 0\n"})
    done = run("ucf101", "--splits", splits, "--videos", tmp_path / "videos", "--output", output)
    assert done.exit_code == 1
    assert "4 videos: 4 missing\n" in done.stderr
    assert "Error: no video is usable, see " in done.stderr
    assert sorted(path.name for path in output.iterdir()) == ["report.json", "ucf101_train_split_1_videos.txt"]
    assert (output / "ucf101_train_split_1_videos.txt").read_text() == "old 0\n"


def test_classes_of_ucf101_have_the_shipped_order(tmp_path: Path) -> None:
    # Lines 1, 23, 71 and 101 of the official classInd.txt.
    names = labels.load("ucf101")
    assert (names[0], names[22], names[70], names[100]) == ("ApplyEyeMakeup", "CricketBowling", "Punch", "YoYo")
    index = "".join(f"{number} {name}\n" for number, name in enumerate(names, 1))
    texts = {"classInd.txt": index, "trainlist01.txt": "YoYo/a.avi 101\n", "testlist01.txt": "YoYo/b.avi\n"}
    found = official_splits.ucf101(write_files(tmp_path, texts))
    assert found.labels == names
    assert found.lists["ucf101_train_split_1"] == (Entry(names=("YoYo/a.avi",), label=100),)
    reverse = "".join(f"{number} {name}\n" for number, name in enumerate(reversed(names), 1))
    write_files(tmp_path, {"classInd.txt": reverse, "trainlist01.txt": "YoYo/a.avi 1\n"})
    with pytest.raises(InputError, match=r"classInd\.txt has the classes of ucf101 in another order"):
        official_splits.ucf101(tmp_path)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"classInd.txt": "Archery\n"}, r"classInd\.txt line 1 is 'Archery' instead of '1 NameOfTheClass'"),
        ({"classInd.txt": "1 Archery\n3 Biking\n"}, r"classInd\.txt line 2 is '3 Biking' instead of '2 Name"),
        ({"classInd.txt": ""}, r"classInd\.txt: the file is empty"),
        ({"trainlist01.txt": "Diving/a.avi 1\n"}, r"trainlist01\.txt line 1 \(Diving/a\.avi\) is in the folder of no"),
        (
            {"trainlist01.txt": "\nArchery/a.avi 2\n"},
            r"line 2 \(Archery/a\.avi\) has the number 2, classInd\.txt says 1",
        ),
    ],
)
def test_malformed_ucf101_files_are_refused(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        official_splits.ucf101(write_files(tmp_path, UCF101 | texts))


def test_missing_split_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        official_splits.hmdb51(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no files <class>_test_split1\.txt: give the folder testTrainMulti_7030"):
        official_splits.hmdb51(tmp_path)
    write_files(tmp_path, UCF101)
    (tmp_path / "testlist02.txt").unlink()
    with pytest.raises(InputError, match=r"testlist02\.txt: no such file"):
        official_splits.ucf101(tmp_path)
    (tmp_path / "trainlist01.txt").unlink()
    (tmp_path / "trainlist02.txt").unlink()
    with pytest.raises(InputError, match=r"no trainlist01\.txt: give the folder ucfTrainTestlist"):
        official_splits.ucf101(tmp_path)


HMDB51 = {
    "wave_test_split1.txt": "w [1]#x.avi 1 \nw2.avi 2 \nw3.avi 0 \n",
    "wave_test_split2.txt": "w [1]#x.avi 2 \nw2.avi 0 \nw3.avi 1 \n",
    "brush_hair_test_split1.txt": "b1.avi 2 \nb2.avi 1 \n",
    "brush_hair_test_split2.txt": "b1.avi 0 \nb2.avi 0 \n",
}


def test_hmdb51_lists_hold_what_each_split_uses(tmp_path: Path, clip20: Path) -> None:
    splits = write_files(tmp_path / "splits", HMDB51)
    names = ("wave/w [1]#x.avi", "wave/w2.avi", "wave/w3.avi", "brush_hair/b1.avi", "brush_hair/b2.avi")
    place(clip20, tmp_path / "videos", *names)
    output = tmp_path / "lists"
    done = run("hmdb51", "--splits", splits, "--videos", tmp_path / "videos", "--output", output)
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_text() for path in output.glob("*.txt")} == {
        "labels.txt": "brush_hair\nwave\n",
        "hmdb51_train_split_1_videos.txt": "brush_hair/b2.avi 0\nwave/w [1]#x.avi 1\n",
        "hmdb51_val_split_1_videos.txt": "brush_hair/b1.avi 0\nwave/w2.avi 1\n",
        "hmdb51_train_split_2_videos.txt": "wave/w3.avi 1\n",
        "hmdb51_val_split_2_videos.txt": "wave/w [1]#x.avi 1\n",
    }
    path = output / "hmdb51_train_split_1_videos.txt"
    read = lists.read(path, kind="video", root=tmp_path / "videos", num_classes=2)
    assert [entry.name for entry in read] == ["brush_hair/b2.avi", "wave/w [1]#x.avi"]


def test_classes_of_hmdb51_have_the_shipped_order(tmp_path: Path) -> None:
    names = labels.load("hmdb51")
    assert (names[0], names[1], names[50]) == ("brush_hair", "cartwheel", "wave")
    write_files(tmp_path, {f"{name}_test_split1.txt": "a.avi 1\n" for name in names})
    assert official_splits.hmdb51(tmp_path).labels == names


def test_malformed_hmdb51_files_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, HMDB51 | {"wave_test_split1.txt": "w1.avi 3\n"})
    with pytest.raises(InputError, match=r"wave_test_split1\.txt line 1 is 'w1\.avi 3' instead of 'video\.avi 0', 1"):
        official_splits.hmdb51(tmp_path)
    write_files(tmp_path, HMDB51)
    (tmp_path / "wave_test_split2.txt").unlink()
    with pytest.raises(InputError, match=r"wave_test_split2\.txt: no such file"):
        official_splits.hmdb51(tmp_path)


TRAIN_CSV = """label,youtube_id,time_start,time_end,split,is_cc
making tea,-AbC_1,4,14,train,0
abseiling,0123456789a,120,130,train,1
"tying knot (not on a tie)",xyz,0,10,train,0
abseiling,gone,1,2,train,0
"""
VAL_CSV = "label,youtube_id,time_start,time_end,split\nmaking tea,valid,1000,1010,validate\n"


def test_kinetics_videos_are_found_under_their_usual_names(tmp_path: Path, clip20: Path) -> None:
    write_files(tmp_path, {"train.csv": TRAIN_CSV, "val.csv": VAL_CSV})
    place(
        clip20,
        tmp_path / "videos",
        *("making tea/-AbC_1_000004_000014.mp4", "abseiling/0123456789a.mkv"),
        *("tying_knot_(not_on_a_tie)/xyz_000000_000010.webm", "valid_001000_001010.mp4", "valid.mp4"),
    )
    output = tmp_path / "lists"
    options = ("--train-csv", tmp_path / "train.csv", "--val-csv", tmp_path / "val.csv")
    done = run("kinetics", *options, "--videos", tmp_path / "videos", "--output", output)
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_text() for path in output.glob("*.txt")} == {
        "labels.txt": "".join(f"{name}\n" for name in labels.load("kinetics400")),
        # Lines 1, 192 and 370 of the official class list, which counts from 1.
        "kinetics400_train_list_videos.txt": (
            "making tea/-AbC_1_000004_000014.mp4 191\n"
            "abseiling/0123456789a.mkv 0\n"
            "tying_knot_(not_on_a_tie)/xyz_000000_000010.webm 369\n"
        ),
        "kinetics400_val_list_videos.txt": "valid_001000_001010.mp4 191\n",
    }
    assert sorted(path.name for path in output.glob("*.json")) == [
        *("kinetics400_train_report.json", "kinetics400_val_report.json"),
    ]
    list_name = "kinetics400_train_list_videos.txt"
    assert f"Warning: {list_name}: gone_000001_000002: missing: no such file, nor under 3 other names\n" in done.stderr
    assert f"{list_name}: 4 videos: 3 ok, 1 missing\n" in done.stderr


ROW = "abseiling,same,0,10,x\n"
HEADER = "label,youtube_id,time_start,time_end,split\n"


@pytest.fixture
def two_folders(tmp_path: Path, clip20: Path) -> Path:
    """Lists ``train.csv`` and ``val.csv`` of the same name, which is good in ``videos_train`` alone."""
    write_files(tmp_path, {"train.csv": HEADER + ROW, "val.csv": HEADER + ROW + "air drumming,other,0,10,x\n"})
    place(clip20, tmp_path / "videos_train", "same.mp4")
    place(clip20, tmp_path / "videos_val", "other.mp4")
    (tmp_path / "videos_val" / "same.mp4").write_bytes(b"")
    return tmp_path


def of_part(part: str, folder: Path) -> tuple[str | Path, ...]:
    return (f"--{part}-csv", folder / f"{part}.csv", f"--{part}-videos", folder / f"videos_{part}")


def test_kinetics_lists_start_from_folders_of_their_own(two_folders: Path) -> None:
    output = two_folders / "lists"
    done = run("kinetics", *of_part("train", two_folders), *of_part("val", two_folders), "--output", output)
    assert done.exit_code == 0, done.output
    assert (output / "kinetics400_train_list_videos.txt").read_text() == "same.mp4 0\n"
    assert (output / "kinetics400_val_list_videos.txt").read_text() == "other.mp4 1\n"
    assert json.loads((output / "kinetics400_train_report.json").read_text()) == {
        "videos": 1,
        "counts": {"ok": 1},
        "lists": {"kinetics400_train_list_videos.txt": 1},
        "bad": [],
    }
    assert json.loads((output / "kinetics400_val_report.json").read_text()) == {
        "videos": 2,
        "counts": {"ok": 1, "broken": 1},
        "lists": {"kinetics400_val_list_videos.txt": 1},
        "bad": [{"name": "same.mp4", "verdict": "broken", "reason": "the file is empty"}],
    }
    assert done.stderr.splitlines() == [
        "kinetics400_train_list_videos.txt: 1 videos: 1 ok",
        "Warning: kinetics400_val_list_videos.txt: same.mp4: broken: the file is empty",
        "kinetics400_val_list_videos.txt: 2 videos: 1 ok, 1 broken",
        f"{output / 'kinetics400_train_list_videos.txt'}: 1 videos",
        f"{output / 'kinetics400_val_list_videos.txt'}: 1 videos",
    ]


def test_kinetics_in_two_runs_keeps_both_reports(two_folders: Path) -> None:
    together, apart = two_folders / "together", two_folders / "apart"
    done = run("kinetics", *of_part("train", two_folders), *of_part("val", two_folders), "--output", together)
    assert done.exit_code == 0, done.output
    for part in ("val", "train"):
        done = run("kinetics", *of_part(part, two_folders), "--output", apart)
        assert done.exit_code == 0, done.output
    assert len(list(apart.iterdir())) == 5
    assert {path.name: path.read_text() for path in apart.iterdir()} == {
        path.name: path.read_text() for path in together.iterdir()
    }


def test_kinetics_list_without_a_usable_video_is_a_failure(two_folders: Path) -> None:
    (two_folders / "val.csv").write_text(HEADER + ROW)
    output = write_files(two_folders / "lists", {"kinetics400_train_list_videos.txt": "old.mp4 7\n"})
    done = run("kinetics", *of_part("train", two_folders), *of_part("val", two_folders), "--output", output)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: no usable video is left for kinetics400_val_list_videos.txt, so no list was written, "
        f"see {output / 'kinetics400_val_report.json'}: is it the right folder of videos?"
    )
    assert sorted(path.name for path in output.iterdir()) == [
        *("kinetics400_train_list_videos.txt", "kinetics400_train_report.json", "kinetics400_val_report.json"),
    ]
    assert (output / "kinetics400_train_list_videos.txt").read_text() == "old.mp4 7\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--train-csv t --train-videos a --videos b", "give --videos, or --train-videos and --val-videos, not both"),
        ("--train-csv t --val-videos a --videos b", "give --videos, or --train-videos and --val-videos, not both"),
        ("--train-csv t", "--train-csv needs --train-videos, or --videos where one folder holds all"),
        ("--train-csv t --val-csv v --train-videos a", "--val-csv needs --val-videos, or --videos where one folder"),
        ("--train-csv t --train-videos a --val-videos b", "--val-videos needs --val-csv"),
    ],
)
def test_kinetics_takes_one_folder_or_one_for_each_list(tmp_path: Path, options: str, message: str) -> None:
    done = run("kinetics", *options.split(), "--output", tmp_path)
    assert done.exit_code == 2
    assert message in done.stderr


def test_classes_of_kinetics400_keep_their_numbers_where_some_are_missing(tmp_path: Path) -> None:
    rows = [f'"{name}",id,0,10,train\n' for name in labels.load("kinetics400") if name != "abseiling"]
    assert len(rows) == 399
    write_files(tmp_path, {"t.csv": HEADER + "".join(rows), "v.csv": HEADER + " zumba ,id,0,10,validate\n"})
    found = official_splits.kinetics(train=tmp_path / "t.csv", val=tmp_path / "v.csv")
    assert found.labels == labels.load("kinetics400")
    # Lines 2 and 400 of the official class list.
    assert found.lists["kinetics400_train_list"][0].names[2] == "air_drumming/id_000000_000010"
    assert found.lists["kinetics400_train_list"][0].label == 1
    assert found.lists["kinetics400_val_list"][0].label == 399


def test_other_classes_of_kinetics_count_over_both_lists(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"t.csv": HEADER + "zumba,a,0,9,x\nknitting,b,0,9,x\n", "v.csv": HEADER + "abseiling,c,0,9,x\n"}
    )
    found = official_splits.kinetics(train=tmp_path / "t.csv", val=tmp_path / "v.csv", name="kinetics3")
    assert found.labels == ("abseiling", "knitting", "zumba")
    assert [entry.label for entry in found.lists["kinetics3_train_list"]] == [2, 1]
    assert [entry.label for entry in found.lists["kinetics3_val_list"]] == [0]
    # "knitting" and "zumba" are in the shipped set, whose numbers the recipes mean; "petting a dragon" is not.
    (tmp_path / "v.csv").write_text(HEADER + "petting a dragon,c,0,9,x\n")
    with pytest.raises(InputError, match=r"'petting a dragon' is no class of kinetics400: correct it, or .*--name"):
        official_splits.kinetics(train=tmp_path / "t.csv", val=tmp_path / "v.csv")


def test_lists_of_other_classes_in_the_same_folder_are_refused(two_folders: Path) -> None:
    output = two_folders / "lists"
    options = ("kinetics", "--name", "kinetics2", "--output", output)
    assert run(*options, *of_part("train", two_folders)).exit_code == 0
    assert (output / "labels.txt").read_text() == "abseiling\n"
    before = {path.name: path.read_text() for path in output.iterdir()}
    done = run(*options, *of_part("val", two_folders))
    assert done.exit_code == 1
    assert done.stderr == (
        f"Error: {output / 'labels.txt'} has other classes than these lists: make all lists of a data set in one run, "
        "or in another folder\n"
    )
    assert {path.name: path.read_text() for path in output.iterdir()} == before
    assert run(*options, *of_part("train", two_folders)).exit_code == 0


def test_classes_of_kinetics400_have_the_shipped_order(tmp_path: Path) -> None:
    names = labels.load("kinetics400")
    assert (names[0], names[1], names[399]) == ("abseiling", "air drumming", "zumba")
    rows = [f'"{name}",id{number},0,10,train' for number, name in enumerate(names)]
    text = "\n".join(["label,youtube_id,time_start,time_end,split", *reversed(rows)])
    found = official_splits.kinetics(train=write_files(tmp_path, {"t.csv": text}) / "t.csv", val=None)
    assert found.labels == names
    assert list(found.lists) == ["kinetics400_train_list"]
    assert found.lists["kinetics400_train_list"][0].label == 399


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("youtube_id,time_start,time_end,split\na,0,1,test\n", "has no column 'label', as the test set has none: give"),
        (
            "label,youtube_id,time_start\na,b,0\n",
            r"has no column 'time_end': its first line is 'label,youtube_id,time_",
        ),
        ("label,youtube_id,time_start,time_end\na,b,0\n", r"line 2 is 'a,b,0' instead of 'label,youtube_id,0,10"),
        ("label,youtube_id,time_start,time_end\na,b,x,1\n", r"line 2 is 'a,b,x,1' instead of 'label,youtube_id,0,10"),
        ("label,youtube_id,time_start,time_end\n,b,0,1\n", "line 2 has an empty label or youtube_id"),
        ("", r"given\.csv: the file is empty"),
    ],
)
def test_malformed_kinetics_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write_files(tmp_path, {"given.csv": text})
    options = ("--val-csv", tmp_path / "given.csv", "--videos", tmp_path, "--output", tmp_path)
    done = run("kinetics", *options)
    assert done.exit_code == 1
    with pytest.raises(InputError, match=message):
        official_splits.kinetics(train=None, val=tmp_path / "given.csv")
    assert done.stderr.count("\n") == 1


def test_kinetics_needs_a_file(tmp_path: Path) -> None:
    done = run("kinetics", "--videos", tmp_path, "--output", tmp_path)
    assert done.exit_code == 1
    assert done.stderr == "Error: give the CSV file of the training or of the validation videos, or both\n"


def test_missing_folder_of_videos_is_one_line(tmp_path: Path) -> None:
    splits = write_files(tmp_path / "splits", UCF101)
    done = run("ucf101", "--splits", splits, "--videos", tmp_path / "no", "--output", tmp_path / "lists")
    assert done.exit_code == 1
    assert done.stderr == f"Error: {tmp_path / 'no'}: no such folder: give the folder of the videos\n"
    assert not (tmp_path / "lists").exists()


def test_motion_is_written_once(tmp_path: Path) -> None:
    options = ("motion", "--output", tmp_path / "motion", "--train", "8", "--val", "1", "--test", "1")
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "motion" / "train.txt").read_text().splitlines()) == 8
    assert done.stderr == f"10 videos and their lists are in {tmp_path / 'motion'}; 0 were there\n"
    assert run(*options).stderr == f"10 videos and their lists are in {tmp_path / 'motion'}; all were there\n"


def read_all(name: str, path: Path) -> Finding:
    """Read a file to its end, as decoders do that do not look at what they are given."""
    return Finding(name=name, verdict="ok", num_frames=len(path.read_bytes()))


def crash(name: str) -> Finding:
    """End as a decoder does that writes outside its memory."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError(name)


def fail(name: str) -> Finding:
    """Fail as a full disk does."""
    raise OSError(28, "No space left on device", name)


def test_file_that_never_ends_is_given_up_and_others_go_on(tmp_path: Path) -> None:
    # A pipe that nobody writes to holds whoever opens it for reading.
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"1234")
    calls = [("first", tmp_path / "file"), ("hangs", tmp_path / "pipe"), ("last", tmp_path / "file")]
    seen: list[tuple[int, int]] = []
    num_threads = threading.active_count()
    start = time.monotonic()
    found = list(
        preparation.findings(
            read_all,
            calls,
            limits=Limits(timeout_seconds=0.5, workers=1),
            on_file=lambda *given: seen.append(given),
        )
    )
    assert time.monotonic() - start < 20
    assert found == [
        Finding(name="first", verdict="ok", num_frames=4),
        Finding(name="hangs", verdict="no answer in time", reason="no answer within 0.5 seconds"),
        Finding(name="last", verdict="ok", num_frames=4),
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert threading.active_count() <= num_threads


def test_crash_of_the_decoder_costs_one_file(tmp_path: Path) -> None:
    (found,) = preparation.findings(crash, [("bad.avi",)], limits=QUICK)
    assert (found.name, found.verdict) == ("bad.avi", "broken")
    assert found.reason == "the decoder ended its process (exit code -11)"


def test_failure_of_the_machine_ends_the_run() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        list(preparation.findings(fail, [("a.avi",), ("b.avi",)], limits=QUICK))


@pytest.mark.parametrize("given", [{"min_frames": 0}, {"timeout_seconds": 0}, {"workers": 0}])
def test_limits_out_of_range_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"must be at least 1, timeout_seconds \(.*\) above 0"):
        make: Callable[..., Limits] = Limits
        make(**given)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "kinetics", "frames", "windows", "motion"])
def test_help_ends_with_an_example(name: str) -> None:
    done = run(name, "--help")
    assert done.exit_code == 0
    assert f"Example: prepare.py {name} " in done.stdout
