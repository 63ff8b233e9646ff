"""libi3d against the Python runtime, on the same engines and frames."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino.opset15 as opset
import pytest
from numpy.typing import NDArray

import i3d_deploy as i3d
from i3d_deploy import artifact, files, model, to_onnx, to_openvino, video_files, views
from i3d_deploy.card import Card, Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.openvino_core import CORE, openvino
from i3d_deploy.preprocessing import Sampling, Spatial
from tests import narrowed
from tests.cpp import native
from tests.cpp.conftest import run
from tests.cpp.native import Library, NativeError, frames_of
from tests.raw_avi import write_avi
from tests.sources import noise

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "export" / "cpp" / "example"
HEADERS = ROOT / "i3d_deploy" / "include"
VIDEOS = ROOT.parent / "shared" / "videos"
LOGITS, PROBABILITIES = 1e-4, 1e-6

SAMPLINGS: dict[str, dict[str, Any]] = {
    "uniform-0.x": {},
    "uniform-0.x-repeat": {"out_of_bound": "repeat_last", "frame_interval": 3, "num_clips": 3},
    "uniform-1.x": {"formula": "mmaction2-1.x", "num_clips": 7},
    "uniform-1.x-one": {"formula": "mmaction2-1.x", "num_clips": 1},
    "slowfast": {"formula": "slowfast", "num_clips": 10, "frames_per_second": 30.0},
    "slowfast-one": {"formula": "slowfast", "num_clips": 1},
    "dense": {"scheme": "dense", "num_clips": 10, "sample_range": 37},
    "dense-one": {"scheme": "dense", "num_clips": 1},
    "at-rate": {"num_clips": 4, "frames_per_second": 25.0},
}
LENGTHS = (1, 2, 7, 8, 15, 16, 17, 40, 63, 64, 65, 100, 281, 1000, 18001)
RATES = (None, 23.976, 25.0, 29.97, 60.0, 7.5, 0.1, 1000.0)


@pytest.fixture(scope="module")
def engine(tiny_exports: Path) -> Path:
    """An engine of views of 8x32x32."""
    return tiny_exports / "tiny.xml"


def with_card(engine: Path, folder: Path, **parts: Any) -> tuple[Path, Card]:
    """A copy of an engine whose card has other parts, which the engine takes as well."""
    copy = folder / engine.name
    for suffix in (".xml", ".bin"):
        shutil.copy(engine.with_suffix(suffix), folder)
    card = artifact.read_card(copy).replaced(**parts)
    to_openvino.rewrite(card, copy)
    return copy, card


@pytest.mark.parametrize("name", SAMPLINGS)
def test_frame_indices_are_those_of_python(library: Library, engine: Path, tmp_path: Path, name: str) -> None:
    sampling = Sampling(clip_len=8).replaced(**SAMPLINGS[name])
    path, _ = with_card(engine, tmp_path, sampling=sampling)
    with library.recognizer(path) as handle:
        for num_frames in LENGTHS:
            for rate in RATES:
                expected = sampling.frame_indices(num_frames, rate)
                np.testing.assert_array_equal(handle.indices(num_frames, rate), expected, f"{num_frames} at {rate}")
        np.testing.assert_array_equal(handle.indices(100, clips=5), sampling.frame_indices(100, num_clips=5))


SIZES = [(32, 32), (64, 64), (64, 98), (48, 33), (33, 48), (240, 320), (31, 43), (16, 16), (1080, 1920), (200, 32)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
def test_views_are_bit_identical(library: Library, engine: Path, size: tuple[int, int]) -> None:
    frames, card = noise(9, *size), artifact.read_card(engine)
    with library.recognizer(engine) as handle:
        for crops in (1, 3):
            expected = np.concatenate(list(views.prepare(frames, card, crops=crops).batches(3)))
            np.testing.assert_array_equal(handle.views(frames_of(frames), crops=crops), expected)


def test_frames_may_be_bgr_with_gaps_and_upside_down(library: Library, engine: Path) -> None:
    frames, card = noise(9, 50, 70), artifact.read_card(engine)
    expected = np.concatenate(list(views.prepare(frames, card).batches(6)))
    padded = np.zeros((9, 52, 80, 3), np.uint8)
    padded[:, 1:51, 4:74] = frames[..., ::-1]
    upside_down = np.ascontiguousarray(frames[:, ::-1])[:, ::-1]
    assert upside_down.strides[1] < 0
    with library.recognizer(engine) as handle:
        np.testing.assert_array_equal(handle.views(frames_of(padded[:, 1:51, 4:74], color=native.BGR)), expected)
        np.testing.assert_array_equal(handle.views(frames_of(upside_down)), expected)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of pixels that are not rounded, of floats, and of whole videos."""
    folder = tmp_path_factory.mktemp("others")
    for name in ("i3d_r50_8x8_slowfast", "i3d_inception_rgb"):
        numbers = narrowed.small(name, 5)
        card = narrowed.card_of(numbers, frames=8, side=32)
        if name == "i3d_inception_rgb":
            sampling = Sampling(scheme="whole", clip_len=16, frame_interval=1, num_clips=1, frames_per_second=25.0)
            card = card.replaced(sampling=sampling.replaced(min_clip_len=9))
        else:
            card = card.replaced(spatial=Spatial(formula="slowfast", short_side=32, crop_size=32))
        net = model.build(numbers)
        model.randomize(net, seed=1)
        spec = Engine(input="float32_nthwc" if card.spatial.dtype == "float32" else "uint8_nthwc")
        graph = to_onnx.convert(net, card, spec)
        to_openvino.write(to_openvino.convert(graph), card.replaced(engine=spec), folder / f"{name}.xml")
    return folder


def test_pixels_that_are_not_rounded(library: Library, others: Path) -> None:
    path, frames = others / "i3d_r50_8x8_slowfast.xml", noise(30, 48, 70)
    card = artifact.read_card(path)
    expected = np.concatenate(list(views.prepare(frames, card).batches(30)))
    with library.recognizer(path) as handle:
        found = handle.views(frames_of(frames))
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # of 255; OpenCV's own builds differ by as much
    check_prediction(library, path, frames)


def test_whole_videos_have_any_length(library: Library, others: Path) -> None:
    path = others / "i3d_inception_rgb.xml"
    for num_frames in (9, 24, 5, 33):
        check_prediction(library, path, noise(num_frames, 40, 48), rate=25.0)
    with library.recognizer(path) as handle, pytest.raises(NativeError, match="2000 frames are too many") as error:
        handle.indices(2000, 25.0)
    assert error.value.status == native.VIDEO


def check_prediction(
    library: Library, path: Path, frames: NDArray[np.uint8], *, rate: float = 0, **options: int
) -> native.NativePrediction:
    """Hold a prediction of the library against Python's."""
    with i3d.load(path, threads=1) as recognizer, library.recognizer(path) as handle:
        expected = recognizer.predict(frames, **options)  # type: ignore[arg-type]
        found = handle.run(frames_of(frames, rate=rate), **options)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=LOGITS)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=0, atol=PROBABILITIES)
    assert found.top == expected.top_indices(len(expected.labels))
    assert found.frames == expected.frames
    return found


def test_predictions_are_those_of_python(library: Library, engine: Path, tmp_path: Path) -> None:
    frames = noise(40, 48, 64)
    for options in ({}, {"batch": 4}, {"clips": 5, "crops": 1}, {"clips": 1, "crops": 3, "batch": 30}):
        check_prediction(library, engine, frames, **options)
    path, _ = with_card(engine, tmp_path, averaging="logits")
    check_prediction(library, path, frames)


def test_a_short_video_of_unknown_rate_is_noted_as_in_python(library: Library, engine: Path, tmp_path: Path) -> None:
    sampling = Sampling(clip_len=8, frames_per_second=25.0)
    path, card = with_card(engine, tmp_path, sampling=sampling)
    frames = noise(5, 48, 64)
    with library.recognizer(path) as handle:
        assert handle.run(frames_of(frames)).warnings == views.prepare(frames, card).warnings
        single = noise(1, 48, 64)
        assert handle.run(frames_of(single)).warnings == views.prepare(single, card).warnings
        assert len(handle.run(frames_of(frames, rate=25.0)).warnings) == 1
        assert handle.run(frames_of(noise(60, 48, 64), rate=25.0)).warnings == ()


def test_a_rate_that_no_video_has_is_unknown(library: Library, engine: Path, tmp_path: Path) -> None:
    if not library.c.i3d_reads_files():
        pytest.skip("libi3d was built without OpenCV")
    path, card = with_card(engine, tmp_path, sampling=Sampling(clip_len=8, frames_per_second=25.0))
    write_avi(tmp_path / "clip.avi", noise(20, 48, 64), rate=(1, 11))
    with library.recognizer(path) as handle:
        assert handle.run_file(tmp_path / "clip.avi").warnings == views.prepare(tmp_path / "clip.avi", card).warnings


def test_a_reader_is_asked_for_what_is_needed_alone(library: Library, engine: Path) -> None:
    frames = noise(300, 48, 64)
    asked: list[int] = []

    def read(index: int) -> NDArray[np.uint8]:
        asked.append(index)
        return np.ascontiguousarray(frames[index, ..., ::-1])

    with library.recognizer(engine) as handle:
        found = handle.run_reader(read, len(frames), clips=3)
        np.testing.assert_array_equal(found.logits, handle.run(frames_of(frames), clips=3).logits)
        assert asked == sorted(set(handle.indices(len(frames), clips=3).ravel().tolist()))
        with pytest.raises(NativeError, match=r"frame \d+ could not be read: reader.read gave 7") as error:
            handle.run_reader(lambda index: 7, 20)
        with pytest.raises(NativeError, match=r"frame \d+: reader.read gave 0 and set no data$"):
            handle.run_reader(lambda index: 0, 20)
        assert error.value.status == native.VIDEO
        with pytest.raises(NativeError, match="the frames have different sizes"):
            handle.run_reader(lambda index: noise(1, 48 + index, 64)[0], 20)


def test_description_and_labels(library: Library, engine: Path) -> None:
    card = artifact.read_card(engine)
    with library.recognizer(engine) as handle:
        assert tuple(handle.labels()) == card.labels
        description = handle.describe()
        assert description.clip_len == card.sampling.clip_len
        assert description.frame_interval == card.sampling.frame_interval
        assert (description.num_clips, description.num_crops, description.crop_size) == (2, 3, 32)
        assert description.frames_per_second == 0
        assert description.network == b"tiny"
        assert description.precision == b"fp32"
        assert description.device == b"cpu"
        assert description.backend.startswith(b"openvino 20")
        assert json.loads(description.card) == json.loads(card.to_json())


def test_a_caller_of_a_newer_header_is_told_so(library: Library, engine: Path) -> None:
    description = native.sized(native.Description)
    known, description.size = description.size, description.size + 8
    with library.recognizer(engine) as handle, pytest.raises(NativeError) as error:
        handle.describe(description)
    assert error.value.status == native.INPUT
    message = rf"i3d_description.size \({known + 8}\) is more than the {known} that this libi3d, .*, knows: run with a "
    assert re.match(message, str(error.value))


def test_many_threads_share_a_handle(library: Library, engine: Path) -> None:
    videos = [noise(20 + 3 * number, 40 + number, 70 - number, seed=number) for number in range(8)]
    with library.recognizer(engine) as handle:
        expected = [handle.run(frames_of(frames)).logits for frames in videos]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda frames: handle.run(frames_of(frames)).logits, videos * 3))
    for number, logits in enumerate(found):
        np.testing.assert_array_equal(logits, expected[number % 8])


BAD_FRAMES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no data": ({"data": None}, native.INPUT, "NULL"),
    "no frame": ({"num_frames": 0}, native.VIDEO, "num_frames"),
    "negative": ({"num_frames": -5}, native.VIDEO, "num_frames"),
    "huge": ({"num_frames": 1 << 62}, native.VIDEO, "num_frames"),
    "no height": ({"height": 0}, native.INPUT, "sides must be"),
    "wide": ({"width": 1 << 30}, native.INPUT, "sides must be"),
    "narrow": ({"height": 2, "width": 60, "row_stride": 0, "frame_stride": 0}, native.VIDEO, "narrower than 1:16"),
    "color": ({"color": 2}, native.INPUT, "color"),
    "stride": ({"row_stride": 100}, native.INPUT, "row_stride"),
    "frame stride": ({"frame_stride": 1 << 62}, native.INPUT, "frame_stride"),
    "stride of the least number": ({"frame_stride": -(1 << 63)}, native.INPUT, "frame_stride"),
    "rate": ({"frames_per_second": -1.0}, native.INPUT, "frames_per_second"),
    "huge rate": ({"frames_per_second": 1000.5}, native.INPUT, "frames_per_second"),
    "tiny rate": ({"frames_per_second": 0.099}, native.INPUT, "must be from 0.1 to 1000, or 0 where it is not known"),
    "endless rate": ({"frames_per_second": float("inf")}, native.INPUT, "frames_per_second"),
    "not a rate": ({"frames_per_second": float("nan")}, native.INPUT, "frames_per_second"),
    "size": ({"size": 3}, native.INPUT, "size"),
    "newer": ({"size": 4096}, native.INPUT, "size"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_frames_that_cannot_be(library: Library, engine: Path, name: str) -> None:
    changes, status, words = BAD_FRAMES[name]
    array = noise(9, 48, 64)
    frames = frames_of(array)
    for field, value in changes.items():
        setattr(frames, field, value)
    with library.recognizer(engine) as handle, pytest.raises(NativeError, match=words) as error:
        handle.run(frames)
    assert error.value.status == status
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"clips": -1}, "clips"), ({"clips": 1001}, "clips"), ({"crops": 2}, "crops"), ({"batch": -1}, "batch")],
    ids=str,
)
def test_options_that_cannot_be(library: Library, engine: Path, options: dict[str, int], words: str) -> None:
    array = noise(9, 48, 64)
    with library.recognizer(engine) as handle, pytest.raises(NativeError, match=words) as error:
        handle.run(frames_of(array), **options)
    assert error.value.status == native.INPUT


def bad_engines(engine: Path, folder: Path) -> Iterator[tuple[Path, int, str]]:
    """Files that are no engine, with the status and words that tell why."""
    text, weights = engine.read_text(), engine.with_suffix(".bin").read_bytes()

    def written(name: str, xml: str, beside: bytes | None = weights) -> Path:
        path = folder / f"{name}.xml"
        path.write_text(xml)
        if beside is not None:
            path.with_suffix(".bin").write_bytes(beside)
        return path

    yield folder / "missing.xml", native.ARTIFACT, "no such file"
    yield folder, native.ARTIFACT, "not a regular file"
    yield written("empty", ""), native.ARTIFACT, "the file is empty"
    yield written("no-weights", text, None), native.ARTIFACT, "with the weights is not beside it"
    yield written("cut", text[: len(text) // 2]), native.ARTIFACT, "OpenVINO cannot load it"
    yield written("few-weights", text, weights[:100]), native.ARTIFACT, "OpenVINO cannot load it"
    yield written("no-card", text.replace("i3d_card", "another")), native.CARD, "carries no card"
    unknown = text.replace("&quot;averaging&quot;", "&quot;averaging_over&quot;")
    yield written("unknown", unknown), native.CARD, "averaging_over is unknown to this library"
    yield written("newer", text.replace("&quot;version&quot;: 1", "&quot;version&quot;: 2")), native.CARD, "version 2"
    yield (
        written("damaged", text.replace("&quot;clip_len&quot;", "&quot;clip&quot;")),
        native.CARD,
        "clip is unknown to this library",
    )
    wider = text.replace("&quot;clip_len&quot;: 8", "&quot;clip_len&quot;: 16")
    yield written("other-card", wider), native.ARTIFACT, "the input of the engine is uint8 of shape"
    checkpoint = folder / "model.pth"
    checkpoint.write_bytes(b"x")
    yield checkpoint, native.ARTIFACT, "unknown kind of file"
    onnx = folder / "model.onnx"
    onnx.write_bytes(b"x")
    yield onnx, native.BACKEND, "built without onnxruntime"


def test_files_that_are_no_engine(library: Library, engine: Path, tmp_path: Path) -> None:
    for path, status, words in bad_engines(engine, tmp_path):
        with pytest.raises(NativeError, match=words) as error, library.recognizer(path):
            pass
        assert error.value.status == status, path


def test_a_plan_is_checked_before_it_is_loaded(library: Library, engine: Path, tmp_path: Path) -> None:
    plan, note = tmp_path / "model.engine", tmp_path / "model.engine.json"
    plan.write_bytes(b"a plan")
    with pytest.raises(NativeError, match=r"model.engine.json is missing") as error, library.recognizer(plan):
        pass
    assert error.value.status == native.CARD
    card = json.loads(artifact.read_card(engine).to_json())
    document = {"card": card, "sha256": files.sha256(plan), "flavor": "tensorrt", "version": "11.1.0"}
    note.write_text(json.dumps(document))
    with pytest.raises(NativeError, match="built without tensorrt") as error, library.recognizer(plan):
        pass
    assert error.value.status == native.BACKEND
    plan.write_bytes(b"a plot")
    with pytest.raises(NativeError, match="the plan was altered") as error, library.recognizer(plan):
        pass
    assert error.value.status == native.ARTIFACT
    note.write_text('{"card": ' + "[" * 3_000_000)
    with pytest.raises(NativeError, match="levels deep") as error, library.recognizer(plan):
        pass
    assert error.value.status == native.CARD
    note.write_text(json.dumps({**document, "flavor": "../../evil"}))
    with pytest.raises(NativeError, match="flavor must be") as error, library.recognizer(plan):
        pass
    assert error.value.status == native.CARD


def test_unknown_devices_are_refused(library: Library, engine: Path) -> None:
    with pytest.raises(NativeError, match="has no device") as error, library.recognizer(engine, device="abacus"):
        pass
    assert error.value.status == native.DEVICE


def test_rates_and_lengths_that_no_video_has(library: Library, engine: Path, tmp_path: Path) -> None:
    path, _ = with_card(engine, tmp_path, sampling=Sampling(clip_len=8, frames_per_second=25.0))
    with library.recognizer(path) as handle:
        for num_frames, rate in (
            (100, float("inf")),
            (100, float("nan")),
            (100, -5.0),
            ((1 << 63) - 1, 25.0),
            (0, 25.0),
        ):
            with pytest.raises(NativeError, match=r"must be"):
                handle.indices(num_frames, rate)


def test_an_older_caller_has_smaller_structures(library: Library, engine: Path) -> None:
    array = noise(20, 48, 64)
    with library.recognizer(engine) as handle:
        expected = handle.run(frames_of(array)).logits
        older = frames_of(array)
        older.size = native.Frames.frames_per_second.offset
        older.frames_per_second = float("nan")  # what lies behind the older structure is not read
        np.testing.assert_array_equal(handle.run(older).logits, expected)


def test_engines_of_floats_and_of_a_smallest_batch(
    library: Library, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    engine = Engine(input="float32_ncthw", profile=(4, 4, 8))
    graph = to_openvino.convert(to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, engine))
    to_openvino.write(graph, tiny_checkpoint.card.replaced(engine=engine), tmp_path / "floats.xml")
    check_prediction(library, tmp_path / "floats.xml", noise(40, 48, 64), clips=3, crops=3)


def test_logits_of_another_number_of_views_are_no_answer(library: Library, engine: Path, tmp_path: Path) -> None:
    model = CORE.read_model(engine)
    logits = model.output(0).node.input_value(0)
    twice = opset.concat([logits, logits], axis=0)
    repeated = openvino.Model([twice], model.get_parameters(), "repeated")
    to_openvino.write(repeated, artifact.read_card(engine), tmp_path / "repeated.xml")
    array = noise(20, 48, 64)
    with (
        library.recognizer(tmp_path / "repeated.xml") as handle,
        pytest.raises(NativeError, match="another shape") as error,
    ):
        handle.run(frames_of(array))
    assert error.value.status == native.ARTIFACT


def test_modules_are_found_from_another_folder(built: Path) -> None:
    program = """
import ctypes, os
c = ctypes.CDLL("./libi3d.so")
os.chdir("/")
c.i3d_last_error.restype = ctypes.c_char_p
print(c.i3d_check_backend(b"openvino"), c.i3d_last_error().decode())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=built, capture_output=True, text=True, check=True)
    assert done.stdout == "0 \n"


def test_the_program_says_what_python_says(built: Path, engine: Path, tmp_path: Path) -> None:
    frames = noise(40, 48, 64)
    raw = tmp_path / "frames.rgb"
    raw.write_bytes(frames.tobytes())
    printed = run(str(built / "i3d_predict_cpp"), str(raw), str(engine), "--raw", "64x48", "--top", "3")
    with i3d.load(engine) as recognizer:
        expected = recognizer.predict(frames).top(3)
    assert printed == "".join(f"{probability:.6f}  {label}\n" for label, probability in expected)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["a"], "1 names given"),
        (["a", "b", "--top", "x"], "--top x: it takes a whole number from 1 to 65536"),
        (["a", "b", "--clips", "1001"], "--clips 1001: it takes a whole number from 1 to 1000"),
        (["a", "b", "--crops", "2"], "--crops 2: it takes 1 or 3"),
        (["a", "b", "--raw", "9"], "--raw 9: it takes WIDTHxHEIGHT, such as 340x256"),
        (["a", "b", "--top"], "--top has no value: it takes a whole number"),
        (["a", "b", "--bogus", "1"], "--bogus: no such option"),
        (["a", "b", "-t", "1"], "-t: no such option"),
        (["a.onnx", "b.mp4"], "a.onnx is an ARTIFACT, and comes second: i3d_predict_cpp b.mp4 a.onnx"),
        (["a", "b", "--rate", "25"], "--rate goes with --raw"),
        (["-", "b"], "- takes --raw WIDTHxHEIGHT"),
    ],
    ids=str,
)
def test_wrong_words_are_named_below_the_usage(built: Path, words: list[str], wrong: str) -> None:
    done = subprocess.run([built / "i3d_predict_cpp", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: i3d_predict_cpp VIDEO ARTIFACT")
    assert done.stderr.splitlines()[-1].startswith(f"error: {wrong}")


def test_the_comparison_with_python_runs(built: Path, engine: Path, clip: Path, tmp_path: Path) -> None:
    script, record = ROOT / "bench" / "cpp.py", tmp_path / "record.json"
    options = ["--program", str(built / "i3d_predict_cpp"), "--rounds", "1", "--repeats", "1", "--json", str(record)]
    printed = run(sys.executable, "-W", "error", str(script), str(engine), str(clip), *options)
    assert printed.endswith("same answer to six digits\n")
    results = json.loads(record.read_text())["results"]
    assert [len(results[name][0]["seconds"]) for name in ("C++", "Python")] == [1, 1]


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of an installation that was moved."""
    prefix = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", str(built), "--prefix", str(prefix / "before"))
    return (prefix / "before").rename(prefix / "after")


def test_an_application_outside_the_tree(installed: Path, engine: Path, tmp_path: Path) -> None:
    run("cmake", "-S", str(EXAMPLE), "-B", str(tmp_path), f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", str(tmp_path))
    check_example(tmp_path / "example", engine)


def test_an_application_without_cmake(installed: Path, engine: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not installed")
    (folder,) = installed.rglob("pkgconfig")
    asked = run("pkg-config", "--cflags", "--libs", "i3d", environment={"PKG_CONFIG_PATH": str(folder)})
    program, source = tmp_path / "example", EXAMPLE / "main.cpp"
    run("c++", "-std=c++17", str(source), *asked.split(), f"-Wl,-rpath,{folder.parent}", "-o", str(program))
    check_example(program, engine)


def test_pkg_config_finds_folders_that_are_absolute(tmp_path: Path) -> None:
    if None in (shutil.which("pkg-config"), shutil.which("cmake"), shutil.which("c++")):
        pytest.skip("pkg-config, CMake and a C++ compiler are not installed")
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    folders = {"INCLUDEDIR": prefix / "headers", "LIBDIR": prefix / "lib" / "native"}
    absolute = [f"-DCMAKE_INSTALL_{name}={folder}" for name, folder in folders.items()]
    options = ["-DI3D_BACKENDS=", "-DI3D_WITH_OPENCV=OFF", f"-DPython3_EXECUTABLE={sys.executable}"]
    sources = ROOT / "export" / "cpp"
    run("cmake", "-S", str(sources), "-B", str(build), f"-DCMAKE_INSTALL_PREFIX={prefix}", *absolute, *options)
    installed = folders["LIBDIR"] / "pkgconfig"
    installed.mkdir(parents=True)
    shutil.copy(build / "i3d.pc", installed)
    for name, folder in folders.items():
        asked = run("pkg-config", f"--variable={name.lower()}", "i3d", environment={"PKG_CONFIG_PATH": str(installed)})
        assert Path(asked.strip()).resolve() == folder


def check_example(program: Path, engine: Path) -> None:
    lines = run(str(program), str(engine)).splitlines()
    labels = artifact.read_card(engine).labels
    assert len(lines) == 3
    assert all(line.partition("  ")[2] in labels for line in lines)


SNIPPET = """
#include <cstdint>
{includes}
void snippet(const std::uint8_t* pixels, std::int64_t num_frames, int height, int width,
             const i3d::Recognizer::Read& read_frame, const i3d_image& image, double seconds);
void snippet(const std::uint8_t* pixels, std::int64_t num_frames, int height, int width,
             const i3d::Recognizer::Read& read_frame, const i3d_image& image, double seconds) {{
    (void)pixels, (void)num_frames, (void)height, (void)width, (void)read_frame, (void)image, (void)seconds;
    {code}
}}
"""


@pytest.mark.parametrize("page", ["README.md", "export/cpp/README.md"])
def test_snippets_of_the_pages_compile(page: str) -> None:
    (block,) = re.findall(r"```cpp\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    includes = [line for line in block.splitlines() if line.startswith("#include")]
    code = block.replace("\n".join(includes), "")
    text = SNIPPET.format(includes="\n".join(["#include <iostream>", *includes]), code=code)
    if shutil.which("c++") is None:
        pytest.skip("a C++ compiler is not installed")
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{HEADERS}", "-xc++", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not VIDEOS.exists(), reason="the real clips are not here")
def test_real_clips_are_predicted_as_in_python(library: Library, engine: Path) -> None:
    clips = sorted(path for path in VIDEOS.iterdir() if path.suffix in video_files.SUFFIXES)
    assert clips
    card = artifact.read_card(engine)
    for clip in clips:
        frames = np.stack(list(video_files.read(clip)))
        prepared = views.prepare(frames, card)
        with library.recognizer(engine) as handle:
            np.testing.assert_array_equal(handle.indices(len(frames)), prepared.indices)
            np.testing.assert_array_equal(handle.views(frames_of(frames)), np.concatenate(list(prepared.batches(6))))
        check_prediction(library, engine, frames)
