"""Kernels compiled ahead, by all cores at once.

Note [Compiled ahead]
    Triton compiles a kernel anew for each size of tile and each number of channels, a second or two each, and a ResNet
    has more than a hundred of them. One after the other they would take minutes. Compiling needs no GPU, and what was
    compiled is kept in Triton's cache on disk, so other processes compile what this one is about to launch. A kernel
    that they cannot compile is left to this one, which says why.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Hashable, Iterable
from subprocess import DEVNULL, PIPE
from typing import Any

from triton.runtime.errors import OutOfResources

from i3d_deploy import doctor
from i3d_deploy.fused.compiling import instead_of_running
from i3d_deploy.fused.layers import Layer
from i3d_deploy.fused.tiled import Tiled

MAX_PROCESSES = 16

_COMMAND = (sys.executable or "python", "-m", "i3d_deploy.fused.ahead")
_seen: set[tuple[int, Hashable]] = set()
"""What this process has had compiled."""


def compile_ahead(layers: Iterable[Layer], *, arch: int) -> None:
    """Compile the kernels of some layers, each with all tiles that are tried: Note [Compiled ahead].

    Waits until they are in Triton's cache on disk; with one core, or one kernel, nothing is done.

    Args:
        layers: What will be launched.
        arch: Compute capability, 90 for 9.0.
    """
    different = {(arch, _compiled_alike(layer)): layer for layer in layers}
    new = [layer for key, layer in different.items() if key not in _seen]
    _seen.update(different)
    jobs = [(layer.to_json(), vars(tile)) for layer in new for tile in layer.tiles]
    count = min(doctor.usable_cores(), MAX_PROCESSES, len(jobs))
    if count < 2:
        return  # this process does as well
    processes = []
    try:
        for number in range(count):
            process = subprocess.Popen(_COMMAND, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, text=True)
            processes.append(process)
            assert process.stdin is not None, "it is a pipe"
            with process.stdin:
                process.stdin.write(json.dumps({"arch": arch, "jobs": jobs[number::count]}))
    except OSError:
        pass  # a process that cannot run leaves its part to this one
    finally:
        for process in processes:
            process.wait()


def _compiled_alike(layer: Layer) -> Hashable:
    """What is equal of layers whose kernels are the same: Triton looks at sizes for 1 and for multiples of 16."""
    placed = [(*each.sizes, each.pixel, math.prod(each.sizes[:4])) for each in (layer.x, layer.out)]
    sizes = [(size % 16 == 0, size == 1) for each in placed for size in each]
    keeps_sizes = layer.x.sizes[1:4] == layer.out.sizes[1:4]
    rest = (
        layer.tiles,
        layer.x.sizes[4],
        layer.has_shortcut,
        layer.is_rectified,
        layer.dtype,
        layer.out_dtype,
        keeps_sizes,
    )
    return tuple(sizes), layer.window, *rest


def _compile(document: dict[str, Any]) -> None:
    with instead_of_running(document["arch"]):
        for layer, tile in document["jobs"]:
            try:
                Layer.from_json(layer).launch(Tiled(**tile))
            except OutOfResources:
                continue  # the tile needs more than a GPU has


if __name__ == "__main__":
    _compile(json.load(sys.stdin))
