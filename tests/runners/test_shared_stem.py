"""Both forms of an OpenVINO network give the same logits: every view by itself, and the stem once for all of them."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray

from i3d_deploy import builders, export, limits, model, quantize_openvino, to_openvino, views
from i3d_deploy.artifact import read_card
from i3d_deploy.card import Engine, Precision
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError
from i3d_deploy.network import ResNet
from i3d_deploy.predictions import Prediction
from i3d_deploy.preprocessing import Sampling
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.openvino_runner import OpenVINORunner
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.video import Source
from tests.raw_avi import write_avi
from tests.sources import IS_CUT_AT_PROMISE

ALWAYS, NEVER = -math.inf, math.inf
"""Of a runner's ``least_saved``."""

Logits = NDArray[np.float32]

LIMITS = {"fp32": 1e-5, "fp16": 1e-5, "bf16": limits.LOGITS_LIMITS["bf16"], "int8": limits.LOGITS_LIMITS["bf16"] / 4}
"""Of a logit between the forms: 10 times what float32 shows, which fp16 files are computed in on a CPU; for logits of
standard deviation up to 1, what bf16 may differ from float32, and in int8, whose convolutions add up exactly in both
forms, a quarter of that for what is bf16 in between."""


def noise(num_frames: int, height: int = 32, width: int = 44, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


def assert_forms_agree(shared: Logits, plain: Logits, *, precision: Precision = "fp32") -> None:
    scale = max(1.0, float(plain.std())) if precision in ("bf16", "int8") else 1.0
    np.testing.assert_allclose(shared, plain, rtol=0, atol=LIMITS[precision] * scale)


def exported(source: Checkpoint, folder: Path, **options: Any) -> Path:
    (entry,) = export.export(source, targets=["openvino"], output=folder, name="net", **options)
    assert entry.card.parity[0].status == "passed"
    return entry.path


@pytest.fixture(scope="module")
def fp32_file(tiny_exports: Path) -> Path:
    return tiny_exports / "tiny.xml"


def written(model: Any, source: Path, folder: Path, **changes: Any) -> Path:
    """A model with the card of another file, but for some of what that says of the engine."""
    card, path = read_card(source), folder / "net.xml"
    assert card.engine is not None
    to_openvino.write(model, card.model_copy(update={"engine": card.engine.model_copy(update=changes)}), path)
    return path


def read(path: Path) -> Any:
    """A file's model, which every precision but int8 starts from."""
    return openvino.Core().read_model(path)


@pytest.fixture(scope="module")
def fp16_file(fp32_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(read(fp32_file), fp32_file, tmp_path_factory.mktemp("fp16"), precision="fp16")


@pytest.fixture(scope="module")
def bf16_file(fp32_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(read(fp32_file), fp32_file, tmp_path_factory.mktemp("bf16"), precision="bf16")


@pytest.fixture(scope="module")
def int8_file(fp32_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def some_views() -> Iterator[NDArray[np.uint8]]:
        yield from noise(3 * 8, 32, 32).reshape(3, 1, 8, 32, 32, 3)

    quantized = quantize_openvino.quantize(read(fp32_file), some_views, num_views=3)
    return written(quantized, fp32_file, tmp_path_factory.mktemp("int8"), precision="int8")


class Both:
    """One file in both forms."""

    def __init__(self, path: Path) -> None:
        self.shared, self.plain = (OpenVINORunner(path, device="cpu") for _ in range(2))
        self.shared.least_saved, self.plain.least_saved = ALWAYS, NEVER

    def shares(self, video: Source, clips: int | None = None, crops: int | None = None) -> bool:
        return self.shared.shares(views.prepare(video, self.shared.card, clips=clips, crops=crops), size=1)

    @property
    def maps(self) -> int:
        """Maps that there is memory for, none of which is in use."""
        return len(self.shared._shared_stem._unused)

    def logits(self, video: Source, clips: int | None = None, crops: int | None = None) -> tuple[Logits, Logits]:
        """Of the shared and of the plain form."""
        assert self.shares(video, clips=clips, crops=crops)
        shared, plain = (
            Recognizer(runner).predict(video, clips=clips, crops=crops).logits for runner in (self.shared, self.plain)
        )
        return shared, plain


@pytest.fixture(scope="module")
def both(fp32_file: Path) -> Both:
    return Both(fp32_file)


SIZES = [
    (32, 44),  # crops at 0, 12, 6: the center's pool begins at an odd column
    (32, 48),  # 0, 16, 8: all pools at even columns
    (32, 41),  # 0, 8, 4, and a column that no crop has
    (32, 35),  # 0, 2, 1: the center by itself
    (32, 54),  # 0, 22, 11: the outer ones together, the center by itself
    (32, 68),  # 0, 36, 18: the outer ones overlap the center alone, whose pool begins at an odd column
    (32, 72),  # 0, 40, 20: the same with all pools at even columns
    (32, 98),  # 0, 66, 33: no overlap
    (32, 120),  # 0, 88, 44
    (32, 32),  # three times the same
    (44, 32),
    (48, 32),
    (41, 32),
    (35, 32),
    (68, 32),
    (72, 32),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_are_those_of_every_view_by_itself(both: Both, size: tuple[int, int]) -> None:
    shared, plain = both.logits(noise(40, *size))
    assert shared.shape == (6, 7)
    assert_forms_agree(shared, plain)


@pytest.mark.parametrize("num_frames", [1, 5, 15, 16, 17, 31, 61, 200])
@pytest.mark.parametrize("clips", [1, 10])
def test_videos_of_any_length_and_number_of_clips(both: Both, num_frames: int, clips: int) -> None:
    shared, plain = both.logits(noise(num_frames), clips=clips)
    assert_forms_agree(shared, plain)


def test_one_crop_shares_windows(both: Both) -> None:
    shared, plain = both.logits(noise(30), clips=10, crops=1)
    assert shared.shape == (10, 7)
    assert_forms_agree(shared, plain)


def test_logits_are_those_of_pytorch(both: Both, tiny_checkpoint: Checkpoint) -> None:
    shared, _ = both.logits(noise(50))
    expected = Recognizer(TorchRunner(tiny_checkpoint, device="cpu")).predict(noise(50)).logits
    np.testing.assert_allclose(shared, expected, rtol=0, atol=limits.LOGITS_LIMITS["fp32"])


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("size", [(32, 44), (48, 32), (32, 35)], ids=str)
def test_reduced_precisions_differ_by_their_rounding(
    request: pytest.FixtureRequest, precision: Precision, size: tuple[int, int]
) -> None:
    both = Both(request.getfixturevalue(f"{precision}_file"))
    stem = both.shared._stem
    assert stem is not None
    assert (stem.map_levels is not None, stem.pixel_levels is not None) == (precision == "int8",) * 2
    shared, plain = both.logits(noise(60, *size), clips=10)
    assert_forms_agree(shared, plain, precision=precision)


def variant(source: Checkpoint, *, clip_len: int = 8, **numbers: Any) -> Checkpoint:
    """The tiny network with other numbers, new weights and one bottleneck behind its stem."""
    short = {"temporal_kernels": ((3,),), "non_local_mode": None, "non_local_blocks": ()}
    network = ResNet.model_validate({**source.card.network.model_dump(), **short, **numbers})
    net = model.build(network)
    model.randomize(net, seed=5)
    sampling = Sampling(clip_len=clip_len, frame_interval=2, num_clips=2)
    return Checkpoint(model=net, card=source.card.model_copy(update={"network": network, "sampling": sampling}))


@pytest.mark.parametrize(
    "numbers",
    [
        {"stem_stride": 1, "stem_pool_stride": 1},  # five kinds of windows
        {"stem_kernel": 1},
        {"stem_stride": 1, "clip_len": 9},
        {"clip_len": 13},
    ],
    ids=str,
)
def test_other_stems_are_shared_too(tiny_checkpoint: Checkpoint, tmp_path: Path, numbers: dict[str, int]) -> None:
    both = Both(exported(variant(tiny_checkpoint, **numbers), tmp_path))
    shared, plain = both.logits(noise(70), clips=5)
    assert_forms_agree(shared, plain)


@pytest.mark.parametrize(
    "options",
    [
        {"optimization": builders.Optimization(is_on=False)},
        {"optimization": builders.Optimization(layout="2d")},
        {"engine": Engine(input="float32_ncthw")},
    ],
    ids=["a pool with stride in time", "2d", "floats"],
)
def test_other_networks_run_as_before(tiny_checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any]) -> None:
    assert_is_not_shared(exported(variant(tiny_checkpoint), tmp_path, **options))


def test_an_engine_that_never_runs_one_view_runs_as_before(fp32_file: Path, tmp_path: Path) -> None:
    assert_is_not_shared(written(read(fp32_file), fp32_file, tmp_path, profile=(2, 2, 4)))


def assert_is_not_shared(path: Path) -> None:
    both = Both(path)
    assert not both.shares(noise(40))
    shared, plain = (Recognizer(runner).predict(noise(40)).logits for runner in (both.shared, both.plain))
    np.testing.assert_array_equal(shared, plain)


def test_what_saves_little_runs_as_before(fp32_file: Path) -> None:
    # Of 44 columns, 22 + 2 * 7 are computed instead of 3 * 16: a quarter is saved. Of 1 clip no window is shared.
    alone = noise(40)
    # Three times the same crop: two thirds.
    same = noise(40, 32, 32)
    with OpenVINORunner(fp32_file, device="cpu") as runner, OpenVINORunner(fp32_file, device="cpu") as plain:
        plain.least_saved = NEVER
        assert [runner.shares(views.prepare(pixels, runner.card, clips=1), size=1) for pixels in (alone, same)] == [
            False,
            True,
        ]
        found, expected = (Recognizer(one).predict(alone, clips=1).logits for one in (runner, plain))
        np.testing.assert_array_equal(found, expected)
        assert "_shared_stem" not in vars(runner)
        Recognizer(runner).predict(same, clips=1)
        assert "_shared_stem" in vars(runner)


def test_frames_that_are_read_only_are_taken(both: Both) -> None:
    pixels = noise(40, 32, 48)
    pixels.setflags(write=False)
    shared, plain = both.logits(pixels)
    assert_forms_agree(shared, plain)


def test_the_maps_of_one_clip_are_kept_where_clips_do_not_overlap(fp32_file: Path) -> None:
    both = Both(fp32_file)
    both.logits(noise(400), clips=20)  # 2 windows of 3 crops
    assert both.maps == 6
    both.logits(noise(400, 32, 48), clips=20)
    assert both.maps == 6


def test_clips_that_overlap_without_a_window_in_common_keep_the_maps_of_one(fp32_file: Path) -> None:
    both = Both(fp32_file)
    # Of 48 frames, 10 clips are (48 - 16 + 1) / 10 = 3.3 apart and start at 1, 4, 8, 11, 14, 18, 21, 24, 28, 31. Their
    # first windows have zeros before the frames, their second ones none: only of equal starts they would be the same.
    both.logits(noise(48), clips=10)
    assert both.maps == 6


def test_clips_that_overlap_keep_the_windows_that_they_share(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    both = Both(exported(variant(tiny_checkpoint, clip_len=16), tmp_path))
    # Of 71 frames, 10 clips are (71 - 32 + 1) / 10 = 4 apart: every second one has 2 of its 4 windows from the one 8
    # frames before it. So the 4 of a clip are there, and 2 of the one before.
    shared, plain = both.logits(noise(71), clips=10)
    assert_forms_agree(shared, plain)
    assert both.maps == 3 * (4 + 2)


@pytest.mark.parametrize("promised", [0, pytest.param(14, marks=IS_CUT_AT_PROMISE), 30])
def test_a_wrong_count_voids_what_was_computed(both: Both, tmp_path: Path, promised: int) -> None:
    write_avi(tmp_path / "clip.avi", noise(20), promised=promised)
    shared, _ = both.logits(tmp_path / "clip.avi")
    _, plain = both.logits(noise(20))
    assert_forms_agree(shared, plain)


@pytest.mark.parametrize("sizes", [[(32, 32), (32, 44)], [(32, 44), (32, 32)]], ids=str)
def test_every_attempt_is_run_as_suits_it(fp32_file: Path, sizes: list[tuple[int, int]]) -> None:
    both = Both(fp32_file)
    both.shared.least_saved = 0.5  # more than 32x44 saves, a quarter, and less than 32x32, two thirds
    voided, last = (views.prepare(noise(40, *size), both.shared.card) for size in sizes)
    parts = [*itertools.islice(voided.parts(1), 2), *(replace(part, attempt=2) for part in last.parts(1))]
    found = list(both.shared.infer_parts(parts))
    assert [part for part, _ in found] == parts
    expected = np.concatenate(list(last.batches(1)))[last.by_clip()]
    for (_, logits), view in zip(found[2:], expected, strict=True):
        assert_forms_agree(logits, both.plain.infer(view[None]))
    assert both.maps == 6


def test_views_are_counted_one_by_one(both: Both) -> None:
    told: list[tuple[int, int]] = []
    assert both.shares(noise(40))
    Recognizer(both.shared).predict(noise(40), on_views=lambda *numbers: told.append(numbers))
    assert told == [(number, 6) for number in range(1, 7)]


def test_views_that_are_wanted_several_at_a_time_are_run_so(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = both.shared._run

    def noted(inputs: NDArray[np.uint8]) -> Logits:
        sizes.append(len(inputs))
        return run(inputs)

    monkeypatch.setattr(both.shared, "_run", noted)
    several = Recognizer(both.shared).predict(noise(40), batch=4)
    assert sizes == [4, 2]
    alone = Recognizer(both.shared).predict(noise(40), batch=1)
    assert sizes == [4, 2]
    assert_forms_agree(alone.logits, several.logits)


def test_a_video_gives_the_same_answer_first_and_later(bf16_file: Path) -> None:
    sizes = [(32, 44), (48, 32), (32, 44), (32, 120), (32, 36)]
    videos = [noise(40, *size, seed=seed) for seed, size in enumerate(sizes)]
    with OpenVINORunner(bf16_file, device="cpu") as runner:
        runner.least_saved = ALWAYS
        found = [outcome.result for outcome in Recognizer(runner).predict_many(videos)]
        assert len(runner._shared_stem._unused) == 6
    for pixels, later in zip(videos, found, strict=True):
        assert isinstance(later, Prediction)
        with OpenVINORunner(bf16_file, device="cpu") as runner:
            runner.least_saved = ALWAYS
            first = Recognizer(runner).predict(pixels)
        np.testing.assert_array_equal(first.logits, later.logits)


def test_views_can_be_run_by_themselves_after_videos_that_were_shared(fp32_file: Path) -> None:
    both = Both(fp32_file)
    both.logits(noise(40))
    batch = noise(2 * 8, 32, 32).reshape(2, 8, 32, 32, 3)
    assert_forms_agree(both.shared.infer(batch), both.plain.infer(batch))
    shared, plain = both.logits(noise(40))
    assert_forms_agree(shared, plain)


def test_leaving_off_amid_a_video_leaves_the_runner_usable(fp32_file: Path) -> None:
    both = Both(fp32_file)
    begun = both.shared.infer_parts(views.prepare(noise(40), both.shared.card).parts(1))
    next(begun)
    del begun
    shared, plain = both.logits(noise(40))
    assert_forms_agree(shared, plain)
    assert both.maps == 6


def test_two_videos_can_be_run_in_turns(fp32_file: Path) -> None:
    both = Both(fp32_file)
    expected = both.logits(noise(40), clips=3)[1]
    prepared = views.prepare(noise(40), both.shared.card, clips=3)
    begun = both.shared.infer_parts(prepared.parts(1))
    found = [next(begun)]
    shared, plain = both.logits(noise(40, seed=1), clips=3)
    assert_forms_agree(shared, plain)
    found += begun
    for part, logits in found:
        assert_forms_agree(logits, expected[part.numbers])


def test_closing_amid_a_video_ends_it(fp32_file: Path) -> None:
    both = Both(fp32_file)
    for runner in (both.shared, both.plain):
        begun = runner.infer_parts(views.prepare(noise(40), runner.card).parts(1))
        next(begun)
        runner.close()
        with pytest.raises(InputError, match="the runner is closed"):
            next(begun)


def test_closing_after_the_last_view_loses_nothing(fp32_file: Path) -> None:
    both = Both(fp32_file)
    for runner in (both.shared, both.plain):
        done = 0
        for _, logits in runner.infer_parts(views.prepare(noise(40), runner.card).parts(1)):
            done += len(logits)
            if done == 6:
                runner.close()
        assert done == 6
        assert not runner._spare_buffers


def test_a_runner_that_nobody_has_any_more_is_freed_at_once(fp32_file: Path) -> None:
    runner = OpenVINORunner(fp32_file, device="cpu")
    runner.least_saved = ALWAYS
    Recognizer(runner).predict(noise(40))
    assert "_shared_stem" in vars(runner)
    left, left_stem = weakref.ref(runner), weakref.ref(runner._shared_stem)
    gc.disable()
    try:
        del runner
        assert left() is None
        assert left_stem() is None
    finally:
        gc.enable()


def test_a_closed_runner_shares_nothing(fp32_file: Path) -> None:
    both = Both(fp32_file)
    both.logits(noise(40))
    both.shared.close()
    assert not both.shares(noise(40))
    with pytest.raises(InputError, match="the runner is closed"):
        list(both.shared.infer_parts(views.prepare(noise(40), both.shared.card).parts(1)))
