"""The record of one run: what ``i3d-bench --json`` writes and ``--baseline`` reads.

The models below are the schema; ``i3d-bench --schema`` prints it as JSON Schema. Times are in seconds, memory in bytes,
shares between 0 and 1. Nothing in a record names a user, a host or a folder.

A **video** is V views; a **round** gives every artifact one turn of one or more videos, so that a drift of the machine
meets all of them alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, computed_field, model_validator

from i3d_deploy import files
from i3d_deploy.document import Part, first_problem
from i3d_deploy.errors import InputError

VERSION = 2
"""Version of this document's form; records of version 1 are not read."""

NOISY_SPREAD = 0.05
"""Above this spread a measurement is marked as noisy."""

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Crops = Literal[1, 3]
Over = Literal["batch", "clips", "frames"]


class Protocol(Part):
    """What was measured.

    Attributes:
        name: "320x3" and so on: frames of all clips, times crops.
        clips: Clips per video.
        clip_len: Frames per clip.
        crops: Crops per clip.
        views: clips x crops.
        batch: Views per run of the engine, where it was asked for; None: what suits each runner.
        min_rounds: Rounds at least.
        min_seconds: Timed seconds per artifact at least.
        max_warmup: Turns of warm-up at most.
    """

    name: str
    clips: Positive
    clip_len: Positive
    crops: Crops
    batch: Positive | None = None
    min_rounds: Positive
    min_seconds: Seconds
    max_warmup: Positive | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def views(self) -> int:
        """Views per video."""
        return self.clips * self.crops


class Gpu(Part):
    """A GPU.

    Attributes:
        name: Such as "NVIDIA H200".
        driver: Version of the driver.
        memory_bytes: Its memory.
        max_clock_mhz: Highest clock of its multiprocessors.
    """

    name: str
    driver: str
    memory_bytes: int
    max_clock_mhz: int | None = None


class Machine(Part):
    """The machine in words.

    Attributes:
        cpu: Name of the processor.
        cores: Cores that the run might use.
        cpu_features: Those that matter to networks, such as "avx512_bf16".
        memory_bytes: Memory that the run might use.
        system: Operating system and architecture.
        python: Version.
        gpus: NVIDIA GPUs.
    """

    cpu: str
    cores: int
    cpu_features: tuple[str, ...] = ()
    memory_bytes: int | None = None
    system: str
    python: str
    gpus: tuple[Gpu, ...] = ()


class Timing(Part):
    """Seconds per video of one artifact under one protocol, and what they come to.

    Attributes:
        rounds: Per round, the seconds of each video of the turn.
        videos: Videos timed.
        videos_per_second: At the median.
        views_per_second: At the median.
        median: Median seconds of a video.
        p90: Nine of ten videos took no longer; interpolated, so of few videos p90, p95 and p99 say little.
        p95: As above.
        p99: As above.
        fastest: The least.
        slowest: The most.
        spread: (slowest - fastest) / median of the rounds' medians; None of one round.
        is_noisy: The spread is above 5 %.
        warmup_videos: Videos before the first timed one.
        is_warm: The medians of the last two turns of them differed by less than 5 %.
        cpu_utilisation: Share of the cores' time that the process used.
        others_utilisation: Share of the cores' time that all other processes used meanwhile, where the system tells.
        joules_per_video: Energy, where the device reports it: of the whole GPU or processor package.
        energy_source: What reported it.
        clock_mhz: Median over the turns of the clock at their end: of the GPU, or the mean of the cores; None where the
            system does not tell.
    """

    rounds: tuple[tuple[Seconds, ...], ...]
    videos: Positive
    videos_per_second: float
    views_per_second: float
    median: Seconds
    p90: Seconds
    p95: Seconds
    p99: Seconds
    fastest: Seconds
    slowest: Seconds
    spread: float | None
    is_noisy: bool
    warmup_videos: int
    is_warm: bool
    cpu_utilisation: float
    others_utilisation: float | None = None
    joules_per_video: float | None = None
    energy_source: str | None = None
    clock_mhz: float | None = None


class Stages(Part):
    """Median seconds of a video's stages, each run alone.

    Attributes:
        decode: File to RGB frames.
        views: Resizing the unique frames and cutting the views; where views share work, they are cut in ``compute``.
        transfer: Views to the device; 0 on a CPU, where there is none.
        compute: The network, logits back in host memory, and averaging.
    """

    decode: Seconds
    views: Seconds
    transfer: Seconds
    compute: Seconds

    @property
    def total(self) -> float:
        """Seconds of all, one after the other."""
        return self.decode + self.views + self.transfer + self.compute


class EndToEnd(Part):
    """From the video file to probabilities.

    Attributes:
        video: Name of the file, without folder.
        frames: Its frames.
        open: Seconds until the artifact was loaded, in a fresh process.
        first: Seconds of the first prediction after that: cold.
        timing: Predictions as the product runs them, stages overlapped where it overlaps them.
        stages: The same, stage by stage.
        overlap: Sum of the stages over the time of a prediction; clearly above 1, stages ran at the same time. A little
            to either side is noise.
    """

    video: str
    frames: Positive
    open: Seconds
    first: Seconds
    timing: Timing
    stages: Stages
    overlap: float


class Ceiling(Part):
    """The most that this machine did of one kind of work, measured in the same run.

    Attributes:
        precision: "fp32", "tf32", "fp16", "bf16" or "int8"; of the memory copy "bytes".
        work: "matmul", "convolution" or "copy".
        backend: Package, version and device that did it.
        per_second: Operations (two per multiply-accumulate) per second; of the copy bytes read and written.
    """

    precision: str
    work: Literal["matmul", "convolution", "copy"]
    backend: str
    per_second: float


class Roofline(Part):
    """How far an artifact is from what the machine can do.

    Attributes:
        macs_per_view: Multiply-accumulates of the graph: Conv, Gemm and MatMul.
        bytes_per_view: Inputs, weights and outputs of those layers, each once, in the artifact's precision.
        operations_per_second: Achieved, two per multiply-accumulate.
        ceiling: Highest :class:`Ceiling` of that precision.
        ceiling_of: Its precision, work and backend in words.
        share: Achieved over ceiling.
        floor_seconds: Time of a video at the ceiling; the limit of memory counts too.
        bound: What sets the floor.
    """

    macs_per_view: int
    bytes_per_view: int
    operations_per_second: float
    ceiling: float
    ceiling_of: str
    share: float
    floor_seconds: Seconds
    bound: Literal["compute", "memory"]

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return 2 * self.macs_per_view / self.bytes_per_view


class Layer(Part):
    """One layer in a profile.

    Attributes:
        name: The backend's name for it.
        kind: Its operation, in the backend's word.
        seconds: Per run of the engine.
        share: Of the sum of all layers.
    """

    name: str
    kind: str
    seconds: Seconds
    share: float


class Result(Part):
    """One artifact.

    Attributes:
        artifact: Name of the file, without folder; of a peer its name.
        runner: What really ran it: backend, provider, device, precision, threads.
        backend: Package and version.
        provider: Execution provider or plug-in.
        device: "cpu" or "cuda:0".
        precision: What was computed in.
        threads: CPU threads; 0: the backend decides.
        batch: Views per run of the engine.
        network: Name of the network on the card.
        card_sha256: SHA-256 of the card's JSON.
        is_comparable: Same weights, same views: its logits must be those of the first such artifact. What is not, such
            as another program's own network, is no candidate for the headline.
        difference: Largest difference of a logit from the first artifact's on the same views; None of the first itself.
        difference_allowed: The limit it was held against.
        videos_per_second: The headline: model only, at the median.
        model: Model only, from uint8 views in host memory to probabilities in host memory.
        end_to_end: From the file, where a video was given.
        peak_host_bytes: Peak resident memory of a fresh process that loads it and runs one video, the views included.
        peak_device_bytes: GPU memory that this process holds after the video; allocators keep what they once needed.
        roofline: None where the ceiling or the work is not known.
        slowest_layers: With ``--profile``.
        notes: What a reader must know, such as a fallback.
    """

    artifact: str
    runner: str
    backend: str
    provider: str
    device: str
    precision: str
    threads: int
    batch: Positive
    network: str
    card_sha256: str
    is_comparable: bool = True
    difference: float | None
    difference_allowed: float | None
    videos_per_second: float
    model: Timing
    end_to_end: EndToEnd | None = None
    peak_host_bytes: int
    peak_device_bytes: int | None = None
    roofline: Roofline | None = None
    slowest_layers: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()


class Failure(Part):
    """An artifact that was not timed.

    Attributes:
        artifact: Name of the file, without folder; of a peer its name.
        reason: "it answers otherwise", or why it does not run here.
        is_wrong: It ran and its answer is not the first artifact's.
    """

    artifact: str
    reason: str
    is_wrong: bool = False


class Ratio(Part):
    """How many times as fast one artifact is as another, round by round, so that drift cancels.

    Attributes:
        artifact: The one.
        against: The other.
        ratio: Median over the rounds of (median seconds of ``against`` / median seconds of ``artifact``).
        spread: (largest - smallest) / median of the rounds' ratios; None of one round.
        is_noisy: The spread is above 5 %.
    """

    artifact: str
    against: str
    ratio: float
    spread: float | None
    is_noisy: bool


class SweepPoint(Part):
    """One size.

    Attributes:
        size: Views per run, clips per video, or frames of the video.
        seconds: One per round.
        median: Of them.
        spread: As for :class:`Timing`.
        is_noisy: The spread is above 5 %.
        peak_host_bytes: Peak resident memory of a fresh process at this size.
        peak_device_bytes: GPU memory that it holds afterwards.
    """

    size: Positive
    seconds: tuple[Seconds, ...]
    median: Seconds
    spread: float | None
    is_noisy: bool
    peak_host_bytes: int
    peak_device_bytes: int | None = None


class Sweep(Part):
    """How one artifact's cost grows.

    Attributes:
        artifact: Name of the file, without folder.
        over: "batch": views per run of the engine, seconds of a run; "clips": clips per video, seconds of a video;
            "frames": frames of a generated video, seconds from the file to probabilities.
        points: By ascending size.
        fixed_seconds: What the fitted line gives at size 0.
        seconds_per_unit: Slope of the line through the medians (least squares).
        bytes_per_unit: Slope of peak memory.
    """

    artifact: str
    over: Over
    points: tuple[SweepPoint, ...]
    fixed_seconds: float | None
    seconds_per_unit: float | None
    bytes_per_unit: float | None


class Record(Part):
    """One run of ``i3d-bench``.

    Attributes:
        version: Of this document's form.
        i3d_deploy: Version of this library.
        date: Day of the run, ISO 8601.
        machine: The machine in words.
        versions: Of the packages in use.
        protocol: What was measured.
        videos_per_second: Of the fastest artifact with the weights of the first, model only.
        results: One per artifact that was timed, in the order given; the first is what ratios refer to.
        ratios: Of every pair.
        failures: Artifacts that were not timed.
        ceilings: What the machine can do.
        sweeps: How cost grows.
        notes: What a reader must know about the run as a whole.
    """

    version: Literal[2] = 2
    i3d_deploy: str
    date: str
    machine: Machine
    versions: dict[str, str]
    protocol: Protocol
    videos_per_second: float
    results: Annotated[tuple[Result, ...], Field(min_length=1)]
    ratios: tuple[Ratio, ...] = ()
    failures: tuple[Failure, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Record:
        names = [result.artifact for result in self.results]
        if len(set(names)) < len(names):
            raise ValueError("two results have the same name, so that a ratio between them means nothing")
        return self

    def to_json(self) -> str:
        """The record as JSON, two spaces deep, with a last line break."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """Write the record as JSON; the file is replaced as a whole."""
        with files.replacing(path) as (target,):
            target.write_text(self.to_json(), encoding="utf-8")


def read(path: Path) -> Record:
    """Read a record that ``i3d-bench --json`` wrote.

    Raises:
        InputError: It is no such file, of another version, or damaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of UTF-8 as well
        raise InputError(f"{path}: no JSON document: {error}") from error
    version = document.get("version") if isinstance(document, dict) else None
    if version != VERSION or "results" not in document:
        raise InputError(
            f"{path}: not a record of i3d-bench that can be read here (version {version}, not {VERSION}): "
            "measure again with i3d-bench --json"
        )
    try:
        return Record.model_validate(_without_computed(document))
    except ValidationError as error:
        raise InputError(f"{path}: malformed record: {first_problem(error)}") from error


def _without_computed(document: dict[str, object]) -> dict[str, object]:
    """Without what is written for readers and follows from the rest."""
    protocol = document.get("protocol")
    if not isinstance(protocol, dict):
        return document
    return {**document, "protocol": {name: value for name, value in protocol.items() if name != "views"}}
