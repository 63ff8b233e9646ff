"""The stem once for all views of a video that overlap: maps of windows, kept for as long as a view needs them.

Note [Worth sharing]
    From the file to probabilities, I3D R50 with 30 views on two cores (bench/shared_stem.py,
    bench/records/2026-11-25_shared_stem_2_cores.json):

    ===================================================== ====== ===== ===== =====
    video                                                 saved  fp32  bf16  int8
    ===================================================== ====== ===== ===== =====
    300 frames of 340x256: 52 of 80 windows, and crops     70 %  1.11  1.19  1.17
    1000 frames of 340x256: crops alone                    52 %  1.08  1.09  1.14
    300 frames of 454x256: windows, and crops hardly       40 %  1.07  1.09  1.14
    ===================================================== ====== ===== ===== =====

    Maps that are written, kept and put together cost what a smaller saving would win. The first video waits for the
    trunk to be compiled (0.5 s), and the first of a size for its stems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.openvino_core import openvino
from i3d_deploy.runners import stem_windows
from i3d_deploy.runners.stem_graphs import Stem, stem_of_window, trunk
from i3d_deploy.runners.stem_windows import Shape, Window
from i3d_deploy.views import Part, Views

LEAST_SAVED = 0.4
"""Share of the stem's work: Note [Worth sharing]."""
_MAX_STEMS = 8
"""Of several sizes of frames, and two or more kinds of windows for each; a stream of videos may have many."""

Compile = Callable[[Any], Any]
Maps = list[Any]
"""An ``openvino.Tensor`` for each crop."""


class SharedStem:
    """A network in two parts.

    Args:
        model: The network with static shapes for one view, as another reading of its file; it is taken apart.
        stem: What :func:`i3d_deploy.runners.stem_graphs.find_stem` found in it.
        compile_model: Makes a compiled model of an ``openvino.Model``.
        is_bf16: Keep maps that are no bytes in bf16, because the network is computed in it.
    """

    def __init__(self, model: Any, stem: Stem, *, compile_model: Compile, is_bf16: bool) -> None:
        self._stem, self._compile = stem, compile_model
        floats = openvino.Type.bf16 if is_bf16 else openvino.Type.f32
        self._type = floats if stem.map_levels is None else openvino.Type.u8
        self._trunk = self._compile(self._with_inputs(trunk(model, stem))).create_infer_request()
        self._stems: dict[tuple[Shape, int, int], Any] = {}
        self._unused: list[Any] = []

    def infer(
        self, parts: Iterable[Part], *, turn: Callable[[], AbstractContextManager[None]]
    ) -> Iterator[tuple[Part, NDArray[np.float32]]]:
        """Run the views of one video; those of others may be run in between, in this thread and in others.

        Args:
            parts: One view each, whose frames are there; every view of the video comes once.
            turn: Gives the calling thread the network for itself.

        Yields:
            Each part with its logits, (1, K) float32, owned by the caller.
        """
        held: _Held | None = None
        try:
            for part in parts:
                held = held or _Held(part.views, self._stem)
                (number,) = part.numbers
                with turn():
                    logits = self._infer_view(part.views, number, held)
                yield part, logits
        finally:
            # Without a turn, since the garbage collector may close this amid another's: lists do one thing at a time.
            if held is not None:
                self._unused.extend(of_crop for maps in held.maps.values() for of_crop in maps)
                del self._unused[held.usual_maps :]

    def _infer_view(self, views: Views, number: int, held: _Held) -> NDArray[np.float32]:
        crop, clip = divmod(number, len(views.indices))
        windows = held.windows[clip]
        for place, window in enumerate(windows):
            if window not in held.maps:
                held.maps[window] = self._maps(views, window, held.shape)
            self._trunk.set_input_tensor(place, held.maps[window][crop])
        self._trunk.infer()
        for window in held.no_longer_needed(clip):
            self._unused.extend(held.maps.pop(window))
        return np.array(self._trunk.get_output_tensor(0).data, np.float32)

    def _maps(self, views: Views, window: Window, shape: Shape) -> Maps:
        """Run the stem over one window."""
        request = self._stem_request(shape, window)
        (top, left), (height, width) = shape.origin, shape.size
        maps = [self._a_map() for _ in shape.spans]
        frames = [views.by_index[index][None, top : top + height, left : left + width] for index in window.frames]
        # Most are taken as they are; OpenVINO takes no array that is read-only or has gaps.
        frames = [np.require(frame, requirements=["C", "W"]) for frame in frames]
        for place, frame in enumerate(frames):
            request.set_input_tensor(place, openvino.Tensor(frame, shared_memory=True))
        for place, of_crop in enumerate(maps):
            request.set_output_tensor(place, of_crop)
        request.infer()
        return maps

    def _a_map(self) -> Any:
        try:
            return self._unused.pop()
        except IndexError:
            return openvino.Tensor(self._type, openvino.Shape([1, *self._stem.map_shape]))

    def _stem_request(self, shape: Shape, window: Window) -> Any:
        key = (shape, window.first, len(window.frames))
        request = self._stems.pop(key, None)
        if request is None:
            model = self._with_outputs(stem_of_window(self._stem, shape, window))
            request = self._compile(model).create_infer_request()
        self._stems[key] = request
        while len(self._stems) > _MAX_STEMS:
            del self._stems[next(iter(self._stems))]  # the one used longest ago
        return request

    def _with_outputs(self, model: Any) -> Any:
        """A stem whose maps come out in the type they are kept in."""
        preparation = openvino.preprocess.PrePostProcessor(model)
        for number in range(len(model.outputs)):
            preparation.output(number).tensor().set_element_type(self._type)
        return preparation.build()

    def _with_inputs(self, model: Any) -> Any:
        """A trunk that takes maps in the type they are kept in."""
        preparation = openvino.preprocess.PrePostProcessor(model)
        for number in range(len(model.inputs)):
            preparation.input(number).tensor().set_element_type(self._type)
        return preparation.build()


class _Held:
    """What a video needs, and the maps it has.

    Args:
        views: All of it.
        stem: The network's.
    """

    def __init__(self, views: Views, stem: Stem) -> None:
        shape = stem_windows.shape_of(views.boxes)
        assert shape is not None, "only videos that can be shared come here"
        self.shape = shape
        self.windows = [stem.temporal.windows(clip) for clip in views.indices.tolist()]
        self.maps: dict[Window, Maps] = {}
        self._views_left = Counter(window for windows in self.windows for window in set(windows) for _ in shape.spans)

    @property
    def usual_maps(self) -> int:
        """Maps of two clips: what most videos have at a time."""
        return 2 * len(self.windows[0]) * len(self.shape.spans)

    def no_longer_needed(self, clip: int) -> list[Window]:
        """Note that a view of a clip is done: the windows that no view to come has."""
        windows = set(self.windows[clip])
        self._views_left.subtract(windows)
        return [window for window in windows if self._views_left[window] == 0]
