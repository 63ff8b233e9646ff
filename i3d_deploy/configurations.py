"""What the training configuration that a foreign checkpoint carries says about testing it.

A file that was trained otherwise than the published ones is tested as it was trained. What cannot be done here is an
error, so that no file is tested in a way that it was not made for.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from i3d_deploy.errors import CheckpointError, InputError
from i3d_deploy.network import ResNet
from i3d_deploy.origins import Conventions

# Fields of SlowFast that change what the weights compute or what its tests average, and the one value that is read.
_ONLY = {
    "DATA.REVERSE_INPUT_CHANNEL": "false",
    "DETECTION.ENABLE": "false",
    "MODEL.HEAD_ACT": "softmax",
    "MULTIGRID.SHORT_CYCLE": "false",
    "RESNET.STRIDE_1X1": "false",
}


def mmaction2(zoo: Conventions, text: str, *, is_1x: bool, is_dense: bool) -> Conventions:
    """How mmaction2 tests a network.

    Args:
        zoo: How it tests those of the zoo.
        text: Of the configuration, empty where there is none.
        is_1x: Whether the file is of mmaction2 1.x.
        is_dense: Whether the file's name says that clips are drawn densely; counts where the configuration has no clip.

    Raises:
        CheckpointError: A number is out of range.
    """
    changes: dict[str, Any] = {}
    clip = re.search(r"clip_len=(\d+),\s*frame_interval=(\d+)", text)
    if clip:
        changes |= {"clip_len": int(clip[1]), "frame_interval": int(clip[2])}
    if "DenseSampleFrames" in text or (not clip and is_dense):
        changes["scheme"] = "dense"
    if is_1x:
        changes["formula"] = "mmaction2-1.x"
    try:
        sampling = zoo.sampling.replaced(**changes)
    except InputError as error:
        raise CheckpointError(f"its training configuration is malformed: {error}") from error
    clip_text = "" if clip else f"{sampling.clip_len}x{sampling.frame_interval} "
    return dataclasses.replace(
        zoo,
        sampling=sampling,
        text=f"{clip_text}{sampling.scheme}, formula of {sampling.formula}; as in the zoo, {sampling.num_clips} clips "
        "under three crops of 256, ImageNet mean and std, probabilities averaged",
    )


def slowfast(zoo: Conventions, network: ResNet, text: str) -> tuple[Conventions, ResNet]:
    """How SlowFast tests a network, and the window of its head, which depends on the clips that it was trained on.

    Args:
        zoo: How it tests the published ones; holds for fields that the configuration leaves out.
        network: The numbers of the published one with such entries.
        text: Of the configuration, as ``cfg.dump()`` writes it; empty where there is none.

    Raises:
        CheckpointError: A field has a value that is not read here, or that does not go with the others.

    Source:
        SlowFast config/defaults.py; models/video_model_builder.py ``ResNet`` (the ``pool_size`` of its head) and
        ``_POOL1``; datasets/kinetics.py ``__getitem__`` (the sizes in mode "test").
    """
    fields = _SlowFastFields(text)
    fields.check_only()
    crop_size, num_crops = fields.number("DATA.TEST_CROP_SIZE", 256), fields.number("TEST.NUM_SPATIAL_CROPS", 3)
    smallest_size = fields.numbers("DATA.TRAIN_JITTER_SCALES", (256, 320))[0]
    trained_frames, trained_size = fields.number("DATA.NUM_FRAMES", 8), fields.number("DATA.TRAIN_CROP_SIZE", 224)
    window = (trained_frames // 2, trained_size // 32, trained_size // 32)
    if min(window) < 1:
        raise CheckpointError(
            f"DATA.NUM_FRAMES ({trained_frames}) must be 2 or more, DATA.TRAIN_CROP_SIZE ({trained_size}) 32 or more"
        )
    try:
        sampling = zoo.sampling.replaced(
            clip_len=trained_frames,
            frame_interval=fields.number("DATA.SAMPLING_RATE", 8),
            num_clips=fields.number("TEST.NUM_ENSEMBLE_VIEWS", 10),
            frames_per_second=fields.numbers("DATA.TARGET_FPS", (30.0,))[0],
        )
        spatial = zoo.spatial.replaced(
            crop_size=crop_size, num_crops=num_crops, short_side=crop_size if num_crops == 3 else smallest_size
        )
        mean, std = fields.numbers("DATA.MEAN", (0.45,) * 3), fields.numbers("DATA.STD", (0.225,) * 3)
        # (x / 255 - mean) / std
        pixels = zoo.pixels.replaced(mean=tuple(value * 255 for value in mean), std=tuple(value * 255 for value in std))
    except InputError as error:
        raise CheckpointError(f"its training configuration is malformed: {error}") from error
    trained = network.model_copy(update={"head_window": window})
    problem = trained.what_is_too_small(sampling.clip_len, spatial.crop_size)
    if problem is not None:
        raise CheckpointError(f"its training configuration does not go with itself: {problem}")
    conventions = dataclasses.replace(
        zoo,
        sampling=sampling,
        spatial=spatial,
        pixels=pixels,
        text=f"{sampling.num_clips} windows of {sampling.clip_len * sampling.frame_interval} frames at "
        f"{sampling.frames_per_second:g} per second, {sampling.clip_len} frames of each, under "
        f"{'three crops' if num_crops == 3 else 'the center crop'} of {crop_size} as SlowFast cuts them, "
        f"mean {_listed(mean)} and std {_listed(std)}, probabilities averaged",
    )
    return conventions, trained


class _SlowFastFields:
    """The fields of a configuration by name, such as ``DATA.NUM_FRAMES``."""

    def __init__(self, text: str) -> None:
        self._text = text + "\n"

    def check_only(self) -> None:
        for name, read in _ONLY.items():
            found = self._find(name)
            if found is not None and found.lower() != read:
                raise CheckpointError(f"its training configuration has {name} {found}: only {read} is read here")

    def numbers(self, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
        found = self._find(name)
        if found is None:
            return usual
        values = re.findall(r"-?\d[\d.e+-]*", found)
        try:
            return tuple(float(value) for value in values or [found])
        except ValueError as error:
            raise CheckpointError(
                f"its training configuration has {name} {found}: numbers are read, such as {_listed(usual)}"
            ) from error

    def number(self, name: str, usual: int) -> int:
        values = self.numbers(name, (usual,))
        if len(values) != 1 or not float(values[0]).is_integer():
            raise CheckpointError(f"its training configuration has {name} {self._find(name)}: a whole number is read")
        return int(values[0])

    def _find(self, name: str) -> str | None:
        """The value of a field as it is written: YAML, in which lists are in brackets or have a line for each item."""
        section, _, field = name.partition(".")
        lines = re.search(rf"^{section}:\n((?:[ -].*\n)*)", self._text, re.MULTILINE)
        found = re.search(rf"^  {field}:(.*(?:\n  - .*)*)", lines[1] if lines else "", re.MULTILINE)
        return " ".join(found[1].split()) if found else None


def _listed(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{value:g}" for value in values)
