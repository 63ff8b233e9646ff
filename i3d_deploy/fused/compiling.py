"""Kernels compiled for a GPU that is not there, to read what became of them.

Note [Launches that only compile]
    Triton's launches ask a driver for the device and give it the machine code. Here the driver names a GPU of choice,
    keeps the machine code and launches nothing. So kernels are specialised just as they are where they run, from the
    same calls; tensors may be of the device "meta".
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from i3d_deploy.errors import MissingExtraError

try:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
except ImportError as error:
    raise MissingExtraError("triton", extra="kernels", cause=error) from error

SHARED_BYTES = 227 * 1024
"""What a block can have of an H100's or H200's shared memory: all but what is reserved for each block."""
RESERVED_BYTES = 1024
REGISTERS = 64 * 1024
"""Of one multiprocessor."""
MAX_WARPS = 64
"""On one multiprocessor."""

_DEVICES = itertools.count(-1, -1)
"""No devices' numbers: Triton keeps what it compiled by those."""
_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A kernel's machine code.

    Attributes:
        name: Of the function.
        code: A cubin.
        warps: Of 32 threads each, in one block.
        shared_bytes: Shared memory of one block.
    """

    name: str
    code: bytes
    warps: int
    shared_bytes: int

    @cached_property
    def listing(self) -> str:
        """The disassembly."""
        return _dumped(self.code, "-sass")

    @cached_property
    def instructions(self) -> Counter[str]:
        """How often each instruction is there, with its suffixes."""
        return Counter(name for _, name, _ in self._lines)

    @cached_property
    def main_loop(self) -> Counter[str]:
        """Likewise in the smallest loop that multiplies matrices; empty where there is none."""
        loops = []
        for address, name, operands in self._lines:
            target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
            if target and int(target[1], 16) < address:
                loops.append([name for at, name, _ in self._lines if int(target[1], 16) <= at <= address])
        multiplying = sorted((loop for loop in loops if any("MMA" in name for name in loop)), key=len)
        return Counter(multiplying[0] if multiplying else [])

    @cached_property
    def registers(self) -> int:
        """Of one thread."""
        return self._used("REG")

    @cached_property
    def spilled_bytes(self) -> int:
        """What one thread keeps in memory for want of registers."""
        return max(self._used("STACK"), self._used("LOCAL"))

    @property
    def blocks(self) -> int:
        """How many fit on one multiprocessor."""
        a_warp = -(-self.registers * 32 // 256) * 256  # as it is handed out
        by_shared = (SHARED_BYTES + RESERVED_BYTES) // (self.shared_bytes + RESERVED_BYTES)
        return min(REGISTERS // (a_warp * self.warps), by_shared, MAX_WARPS // self.warps)

    @cached_property
    def _lines(self) -> list[tuple[int, str, str]]:
        """Address, instruction and operands."""
        pattern = r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)([^;]*);"
        return [(int(at, 16), name, rest) for at, name, rest in re.findall(pattern, self.listing, re.MULTILINE)]

    def count(self, prefix: str) -> int:
        """How many instructions begin so."""
        return sum(number for name, number in self.instructions.items() if name.startswith(prefix))

    def _used(self, what: str) -> int:
        found = re.search(rf"{what}:(\d+)", self._usage)
        assert found, f"cuobjdump lists {what}"
        return int(found[1])

    @cached_property
    def _usage(self) -> str:
        return _dumped(self.code, "--dump-resource-usage")


@cache
def _dumped(code: bytes, option: str) -> str:
    """What cuobjdump says of a cubin; once for the many layers that have one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        return subprocess.run([_TOOL, option, file.name], capture_output=True, text=True, check=True).stdout


class _Driver:
    """Of a GPU that is not there: Note [Launches that only compile]."""

    def __init__(self, arch: int) -> None:
        self._arch = arch
        self._device = next(_DEVICES)
        self.kept: list[Compiled] = []
        self.utils = self
        self._warps = 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._arch, 32)

    def get_current_device(self) -> int:
        return self._device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_BYTES}

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        self._warps = metadata.num_warps
        return lambda *arguments: None

    def load_binary(self, name: str, code: bytes, shared: int, device: int) -> tuple[str, None, int, int, int]:
        self.kept.append(Compiled(name=name, code=code, warps=self._warps, shared_bytes=shared))
        return name, None, 0, 0, 1024  # the name as the module: where there is none, each launch loads it again


@contextmanager
def instead_of_running(arch: int = 90) -> Iterator[list[Compiled]]:
    """Compile the kernels that are launched, and run none: Note [Launches that only compile].

    Args:
        arch: Compute capability, as in 90 for 9.0.

    Yields:
        What was compiled until now, each specialisation once.

    Raises:
        OutOfResources: Triton's: a kernel needs more shared memory than a block can have.
    """
    stand_in, before = _Driver(arch), driver._active
    driver.set_active(stand_in)
    try:
        yield stand_in.kept
    finally:
        driver._active = before
