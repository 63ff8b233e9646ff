"""What this machine can run, what is broken, and what to install.

Facts are gathered first, then judged by pure functions. Packages are imported in processes of their own: one that is
broken, or crashes, is a finding and not the end. Nothing in a report names a user, a host or a folder, since reports
are pasted into issues.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from i3d_deploy import __version__

State = Literal["installed", "missing", "too old", "broken"]

PACKAGES: dict[str, tuple[str, ...]] = {
    "numpy": ("numpy",),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "skimage": ("scikit-image",),
    "torch": ("torch",),
    "safetensors": ("safetensors",),
    "onnx": ("onnx",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "openvino": ("openvino",),
    "nncf": ("nncf",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx",),
    "pycuda": ("pycuda",),
    "cuda.bindings": ("cuda-python", "cuda-bindings"),
    "triton": ("triton",),
}
"""Import name of each package that matters, and the distributions that bring it."""

ONE_FOLDER = frozenset(["cv2", "onnxruntime"])
"""Packages whose distributions install into the same folder: of two, the later one overwrote the earlier."""

_EXPORT = ("torch", "safetensors", "onnx", "onnxscript")
_IMPORT_TIMEOUT_SECONDS = 120
_CPU_FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimddp", "bf16", "i8mm", "sve"),
)

# Imports one package and prints what it offers as the last line; run with the import name as argument.
_PROBE = """
import importlib, json, os, sys

def offers(name, module):
    if name == "torch":
        cuda = module.version.cuda
        return ["CPU build"] if cuda is None else [f"CUDA {cuda} build"] + ["GPU"] * module.cuda.is_available()
    if name == "onnxruntime":
        return list(module.get_available_providers())
    if name == "openvino":
        return list(module.Core().available_devices)
    return []

name = sys.argv[1]
sys.modules["openvino_telemetry"] = None  # openvino and nncf then report nothing over the network
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nor does onnxruntime
module = importlib.import_module("cuda.bindings.driver" if name == "cuda.bindings" else name)
if name == "pycuda":
    importlib.import_module("pycuda.driver")
version = getattr(module, "__version__", None)
print("\\n" + json.dumps({"version": version and str(version), "offers": offers(name, module)}))
"""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: Such as "NVIDIA L4".
        compute_capability: Such as "8.9".
        memory: Such as "24.0 GiB".
        driver: Version of the driver.
    """

    name: str
    compute_capability: str
    memory: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the programs run on.

    Attributes:
        i3d_deploy: Version of this library.
        python: Version of Python and its implementation.
        system: Operating system, processor architecture and C library.
        cpu: Name of the processor.
        cores: Cores that this process may use.
        cpu_features: Those of its features that speed up networks.
        memory_gib: Memory that this process may use.
        gpus: NVIDIA GPUs that the driver shows.
    """

    i3d_deploy: str
    python: str
    system: str
    cpu: str
    cores: int
    cpu_features: tuple[str, ...]
    memory_gib: float
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, kw_only=True)
class Package:
    """One Python package.

    Attributes:
        name: What is imported.
        state: Whether it can be used.
        version: Its version; None where it is missing.
        distributions: What pip calls the distributions that bring it, those that are installed.
        offers: Execution providers, devices, or the kind of build.
        reason: Why it cannot be used.
    """

    name: str
    state: State
    version: str | None = None
    distributions: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is installed and wrong.

    Attributes:
        what: The finding.
        mend: Commands, one per entry.
    """

    what: str
    mend: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ability:
    """Something that this library does.

    Attributes:
        name: Such as "run .onnx".
        works: Whether this machine can.
        how: With what; or why not, and the command that brings it.
    """

    name: str
    works: bool
    how: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole examination.

    Attributes:
        machine: What the programs run on.
        packages: Every package that matters, installed or not.
        problems: What is installed and wrong.
        abilities: What this machine can do.
    """

    machine: Machine
    packages: tuple[Package, ...]
    problems: tuple[Problem, ...]
    abilities: tuple[Ability, ...]


def examine() -> Report:
    """Look at this machine and at the installed packages; takes as long as importing PyTorch."""
    machine = look_at_machine()
    # Each import waits for its own process, so threads are enough.
    with ThreadPoolExecutor() as pool:
        packages = tuple(pool.map(look_at_package, PACKAGES))
    return Report(
        machine=machine,
        packages=packages,
        problems=find_problems(packages, machine.gpus),
        abilities=find_abilities(packages, machine.gpus),
    )


def find_problems(packages: Iterable[Package], gpus: tuple[Gpu, ...]) -> tuple[Problem, ...]:
    """Judge what is installed and wrong.

    Args:
        packages: From :func:`look_at_package`.
        gpus: From :func:`look_at_machine`.
    """
    problems = []
    for package in packages:
        if package.name in ONE_FOLDER and len(package.distributions) > 1:
            problems.append(_conflict(package, gpus))
        elif package.state == "broken":
            problems.append(_broken(package))
        elif "onnxruntime-gpu" in package.distributions and "CUDAExecutionProvider" not in package.offers:
            what = "onnxruntime-gpu is installed but offers no CUDA: another distribution overwrote its files"
            problems.append(Problem(what=what, mend=_reinstall(package.distributions, "'i3d-deploy[gpu]'")))
    return tuple(problems)


def _conflict(package: Package, gpus: tuple[Gpu, ...]) -> Problem:
    if package.name == "cv2":
        wanted = "'opencv-python>=4.10,<6'"
    else:
        wanted = "'i3d-deploy[gpu]'" if gpus else "'i3d-deploy[cpu]'"
    what = f"{' and '.join(package.distributions)} are both installed and overwrite each other's files"
    return Problem(what=what, mend=_reinstall(package.distributions, wanted))


def _reinstall(distributions: Iterable[str], wanted: str) -> tuple[str, str]:
    return f"pip uninstall -y {' '.join(distributions)}", f"pip install {wanted}"


def _broken(package: Package) -> Problem:
    what = f"{package.name} cannot be imported: {package.reason}"
    if package.name == "cv2" and "libGL" in (package.reason or ""):
        # opencv-python links the libraries of a desktop; servers and containers lack them.
        return Problem(what=what, mend=("apt-get install -y libgl1 libglib2.0-0",))
    name = next(iter(package.distributions), PACKAGES[package.name][0])
    return Problem(what=what, mend=(f"pip install --force-reinstall {name}",))


def find_abilities(packages: Iterable[Package], gpus: tuple[Gpu, ...]) -> tuple[Ability, ...]:
    """Judge what this machine can do.

    Args:
        packages: From :func:`look_at_package`, one for each entry of :data:`PACKAGES`.
        gpus: From :func:`look_at_machine`.
    """
    by_name = {package.name: package for package in packages}
    return (
        _needs(by_name, "read videos", ("numpy", "cv2"), extras=""),
        _needs(by_name, "compute TV-L1 flow", ("cv2", "skimage"), extras="flow"),
        _needs(by_name, "export to onnx", _EXPORT, extras="export"),
        _needs(by_name, "export to openvino", (*_EXPORT, "openvino"), extras="export,openvino"),
        _needs(by_name, "quantize for openvino", (*_EXPORT, "openvino", "nncf"), extras="export,openvino,quant"),
        _export_to_tensorrt(by_name, gpus),
        _run_onnx(by_name, gpus),
        _needs(by_name, "run .xml", ("openvino",), extras="openvino"),
        _run_engine(by_name, gpus),
        _needs(by_name, "run .pth/.safetensors", ("torch", "safetensors"), extras="train"),
        *_run_fused(by_name, gpus),
    )


def _needs(packages: Mapping[str, Package], ability: str, names: tuple[str, ...], *, extras: str) -> Ability:
    lacking = [packages[name] for name in names if packages[name].state != "installed"]
    if not lacking:
        return Ability(name=ability, works=True, how=", ".join(_described(packages[name]) for name in names))
    what = ", ".join(f"{package.name} is {package.state}" for package in lacking)
    return Ability(name=ability, works=False, how=f"{what}: {_pip(extras)}")


def _described(package: Package) -> str:
    offers = f" ({', '.join(package.offers)})" if package.offers else ""
    return f"{package.name} {package.version}{offers}"


def _pip(extras: str) -> str:
    return f"pip install 'i3d-deploy[{extras}]'" if extras else "pip install --force-reinstall i3d-deploy"


def _export_to_tensorrt(packages: Mapping[str, Package], gpus: tuple[Gpu, ...]) -> Ability:
    # tensorrt builds on the GPU that will run the engine; tensorrt_rtx builds anywhere.
    has_full = packages["tensorrt"].state == "installed"
    has_rtx = packages["tensorrt_rtx"].state == "installed"
    if gpus and (has_full or not has_rtx):
        return _needs(packages, "export to tensorrt", (*_EXPORT, "tensorrt"), extras="export,tensorrt")
    ability = _needs(packages, "export to tensorrt", (*_EXPORT, "tensorrt_rtx"), extras="export,tensorrt-rtx")
    if ability.works or not has_full:
        return ability
    how = f"tensorrt builds only on the NVIDIA GPU that will run the engine; without one: {_pip('export,tensorrt-rtx')}"
    return Ability(name=ability.name, works=False, how=how)


def _run_onnx(packages: Mapping[str, Package], gpus: tuple[Gpu, ...]) -> Ability:
    return _needs(packages, "run .onnx", ("onnxruntime",), extras="gpu" if gpus else "cpu")


def _run_engine(packages: Mapping[str, Package], gpus: tuple[Gpu, ...]) -> Ability:
    if not gpus:
        return Ability(name="run .engine", works=False, how="no NVIDIA GPU, or no driver for it, on this machine")
    flavor = _first_installed(packages, ("tensorrt", "tensorrt_rtx"))
    memory = _first_installed(packages, ("pycuda", "cuda.bindings"), otherwise="cuda.bindings")
    extras = f"{flavor.replace('_', '-')},{'pycuda' if memory == 'pycuda' else 'cuda-python'}"
    return _needs(packages, "run .engine", (flavor, memory), extras=extras)


def _run_fused(packages: Mapping[str, Package], gpus: tuple[Gpu, ...]) -> tuple[Ability, ...]:
    """Checkpoints in half precision, on a machine with a GPU."""
    if not gpus:
        return ()
    name = "run .pth/.safetensors on the GPU"
    ability = _needs(packages, name, ("torch", "safetensors", "triton"), extras="export,kernels")
    if ability.works and "GPU" not in packages["torch"].offers:
        how = f"torch {packages['torch'].version} does not use the GPU: install PyTorch for CUDA, see pytorch.org"
        return (Ability(name=name, works=False, how=how),)
    # Triton builds what starts its kernels.
    if ability.works and not any(shutil.which(compiler) for compiler in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return (Ability(name=name, works=False, how="Triton needs a C compiler: apt-get install -y gcc"),)
    return (ability,)


def _first_installed(packages: Mapping[str, Package], names: tuple[str, ...], *, otherwise: str | None = None) -> str:
    installed = (name for name in names if packages[name].state == "installed")
    return next(installed, otherwise or names[0])


def look_at_package(name: str) -> Package:
    """Find out whether a package is there and can be imported.

    Args:
        name: One of :data:`PACKAGES`.
    """
    listed = {distribution: _installed_version(distribution) for distribution in PACKAGES[name]}
    versions = {distribution: version for distribution, version in listed.items() if version is not None}
    distributions = tuple(versions)
    version = next(iter(versions.values()), None)
    if not _has_module(name):
        if version is None:
            return Package(name=name, state="missing")
        reason = "its files are gone, though pip lists it as installed"
        return Package(name=name, state="broken", version=version, distributions=distributions, reason=reason)
    offers, imported_version, why_broken = _import_apart(name)
    version = version or imported_version
    if why_broken is not None:
        return Package(name=name, state="broken", version=version, distributions=distributions, reason=why_broken)
    wanted = _required_version(distributions)
    is_too_old = wanted is not None and version is not None and _numbers(version) < _numbers(wanted)
    return Package(
        name=name,
        state="too old" if is_too_old else "installed",
        version=version,
        distributions=distributions,
        offers=offers,
        reason=f"i3d-deploy needs {wanted} or newer" if is_too_old else None,
    )


def installed_versions() -> dict[str, str]:
    """Versions of the distributions of :data:`PACKAGES` that pip lists as installed; none is imported."""
    found = {name: _installed_version(name) for names in PACKAGES.values() for name in names}
    return {name: version for name, version in found.items() if version is not None}


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # a broken parent package may raise anything
        return False
    # A folder that lost its __init__.py, as an uninstallation leaves it, is found without an origin.
    return spec is not None and spec.origin is not None


def _import_apart(name: str) -> tuple[tuple[str, ...], str | None, str | None]:
    """What a package offers and its version; or, third, why it cannot be imported."""
    # -P keeps the current folder from being searched, where a user's onnx.py would come first.
    command = [sys.executable, "-P", "-c", _PROBE, name]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_IMPORT_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return (), None, f"the import does not end within {_IMPORT_TIMEOUT_SECONDS} seconds"
    if result.returncode < 0:
        return (), None, f"the import ends the process with signal {-result.returncode}"
    if result.returncode > 0:
        lines = result.stderr.strip().splitlines()
        return (), None, without_places(lines[-1]) if lines else f"the import ends with code {result.returncode}"
    found = json.loads(result.stdout.splitlines()[-1])
    return tuple(found["offers"]), found["version"], None


def without_places(text: str) -> str:
    """Drop folders, the user's name and the host's from a message; file names stay."""
    places = {sys.prefix, sys.base_prefix, str(Path.home()), str(Path.cwd()), *filter(None, sys.path)}
    for place in sorted(places - {"/"}, key=len, reverse=True):
        text = text.replace(place, "")
    text = re.sub(r"(?:\w:)?[\\/](?:[^\\/:'\"()]*[\\/])+", "", text)
    for name in (_user_name(), platform.node()):
        # Shorter names are words too.
        if len(name) > 2:
            text = re.sub(rf"\b{re.escape(name)}\b", "...", text)
    return text


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _required_version(distributions: Iterable[str]) -> str | None:
    """The oldest version that i3d-deploy takes of any of these, from its own metadata."""
    try:
        requirements = importlib.metadata.requires("i3d-deploy") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return None
    names = {_normalized(distribution) for distribution in distributions}
    matches = (re.match(r"([\w.-]+)[^;]*>=([\d.]+)", requirement) for requirement in requirements)
    return next((match[2] for match in matches if match and _normalized(match[1]) in names), None)


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def look_at_machine() -> Machine:
    """Find out what the programs run on."""
    cpu, features = _cpu()
    return Machine(
        i3d_deploy=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=_system(),
        cpu=cpu,
        cores=usable_cores(),
        cpu_features=features,
        memory_gib=_usable_memory_gib(),
        gpus=_gpus(),
    )


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = f"{platform.system()} {platform.release()}"
    library = " ".join(platform.libc_ver()).strip()
    return ", ".join(part for part in (name, platform.machine(), library) if part)


def _cpu() -> tuple[str, tuple[str, ...]]:
    """Name and features; of Linux alone."""
    fields: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = set(fields.get("flags", fields.get("features", "")).split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, tuple(feature for feature in _CPU_FEATURES if feature in flags)


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Of a container: microseconds per period, and the period.
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():
        return max(1, min(allowed, int(quota) // int(period)))
    return allowed


def _usable_memory_gib() -> float:
    size_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdecimal():
        size_bytes = min(size_bytes, int(limit))
    return round(size_bytes / 2**30, 1)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    try:
        result = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_gpus(result.stdout) if result.returncode == 0 else ()


def parse_gpus(table: str) -> tuple[Gpu, ...]:
    """Read what ``nvidia-smi`` lists: name, compute capability, MiB of memory and driver of one GPU a line."""
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    return tuple(
        Gpu(
            name=row[0],
            compute_capability=row[1],
            # Some GPUs share the memory of the machine and answer "[N/A]".
            memory=f"{int(row[2]) / 1024:.1f} GiB" if row[2].isdecimal() else "shared memory",
            driver=row[3],
        )
        for row in rows
        if len(row) == 4
    )
