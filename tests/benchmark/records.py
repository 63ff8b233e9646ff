"""Records made by hand, with figures as two cores and a GPU gave them; timed by nobody."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from i3d_deploy.benchmark.record import (
    Ceiling,
    EndToEnd,
    Failure,
    Gpu,
    Layer,
    Machine,
    Protocol,
    Ratio,
    Record,
    Result,
    Roofline,
    Stages,
    Sweep,
    SweepPoint,
    Timing,
)

VIEWS = 30
MACS_PER_VIEW = 43_269_259_264
"""I3D R50, 32x256x256: the reference table of costs."""

LONG_NAME = "i3d_r50_32x2x1_100e_<kinetics400>_rgb & flow_channels_last_stem4_two_dimensional_fp32.onnx"
NOISY_NAME = "peer: onnxruntime, plain torch.onnx export"

# Artifact, backend, provider, precision, batch, seconds of three rounds, peak MiB, bytes per view, ceiling in GFLOP/s.
_ARTIFACTS = (
    ("i3d_r50.safetensors", "torch 2.13.0", "eager", "fp32", 1, (19.1, 18.7, 18.9), 1043, 1.62e9, 457),
    (NOISY_NAME, "onnxruntime 1.32.0", "CPUExecutionProvider", "fp32", 1, (9.31, 10.44, 9.15), 512, 1.62e9, 457),
    (LONG_NAME, "onnxruntime 1.32.0", "CPUExecutionProvider", "fp32", 1, (6.93, 6.85, 7.01), 484, 1.62e9, 457),
    ("i3d_r50_fp32.xml", "openvino 2026.4.1", "CPU", "fp32", 2, (6.18, 6.21, 6.15), 402, 1.62e9, 457),
    ("i3d_r50_bf16.xml", "openvino 2026.4.1", "CPU", "bf16", 2, (3.37, 3.40, 3.35), 344, 8.1e8, 876),
    ("i3d_r50_int8.xml", "openvino 2026.4.1", "CPU", "int8", 4, (1.72, 1.69, 1.71), 229, 4.06e8, 1653),
)

# Of a logit: measured, allowed.
_DIFFERENCES = {"fp32": (1.1e-6, 1e-4), "bf16": (6.9e-3, 0.16), "int8": (4.1e-2, 0.4)}


def sample_record(*, artifacts: int = 6) -> Record:
    """A record with everything in it.

    Args:
        artifacts: 1 to 6. The second is noisy, the third has a long name with ``<``, ``&`` and ``>``.
    """
    results = tuple(_result(place) for place in range(artifacts))
    return Record(
        i3d_deploy="0.4.0",
        date="2026-11-25",
        machine=_machine(),
        versions={"numpy": "2.4.6", "onnxruntime": "1.32.0", "openvino": "2026.4.1", "torch": "2.13.0"},
        protocol=protocol(),
        videos_per_second=max(result.videos_per_second for result in results),
        results=results,
        ratios=ratios(results),
        failures=(
            Failure(artifact="i3d_r50_<fp8>.engine", reason="built for TensorRT-RTX 1.7; no NVIDIA driver was found"),
            Failure(
                artifact="i3d_r50_old.onnx",
                reason="it answers otherwise: a logit differs by 0.37 from the first artifact's, 0.0001 is allowed",
                is_wrong=True,
            ),
        ),
        ceilings=_ceilings(),
        sweeps=tuple(_sweeps(results)),
    )


def single_record() -> Record:
    """A record of one artifact, one video, and nothing else."""
    result = plain_result("only.onnx", rounds=((6.25,),))
    return Record(
        i3d_deploy="0.4.0",
        date="2026-11-25",
        machine=Machine(cpu="AMD EPYC 9655", cores=1, system="Linux x86_64", python="3.11.9"),
        versions={"onnxruntime": "1.32.0"},
        protocol=protocol(),
        videos_per_second=result.videos_per_second,
        results=(result,),
    )


def gpu_record() -> Record:
    """A record of two fast artifacts with 1,500 videos each, a few of them slow."""
    results = []
    for name, precision, usual in (("i3d_r50_fp16.engine", "fp16", 0.0081), ("i3d_r50_fp32.engine", "fp32", 0.0302)):
        # 50 rounds of 30 videos, spread like noise of 0.8 % without chance; one video in 300 takes 30 % longer.
        noise = statistics.NormalDist(usual, 0.008 * usual)
        seconds = [noise.inv_cdf(0.001 + 0.998 * (0.618034 * video % 1)) for video in range(1500)]
        seconds = [1.3 * value if video % 300 == 299 else value for video, value in enumerate(seconds)]
        rounds = tuple(tuple(seconds[start : start + 30]) for start in range(0, 1500, 30))
        result = plain_result(name, rounds=rounds, precision=precision)
        results.append(
            result.replaced(
                backend="tensorrt 10.14.1",
                provider="TensorRT",
                device="cuda:0",
                runner=f"tensorrt 10.14.1 TensorRT on cuda:0, {precision}",
                batch=30,
                peak_device_bytes=3_489_660_928,
            )
        )
    gpu = Gpu(name="NVIDIA H200", driver="580.95.05", memory_bytes=150_754_820_096, max_clock_mhz=1980)
    found = single_record()
    return found.replaced(
        machine=found.machine.replaced(gpus=(gpu,), cores=16),
        results=tuple(results),
        ratios=ratios(results),
        videos_per_second=results[0].videos_per_second,
    )


def protocol() -> Protocol:
    """The 320x3-frame protocol."""
    return Protocol(name="320x3", clips=10, clip_len=32, crops=3, min_rounds=3, min_seconds=30.0)


def timing(rounds: Sequence[Sequence[float]], *, joules: float | None = None) -> Timing:
    """The figures of these seconds; for videos of 30 views."""
    seconds = [value for turn in rounds for value in turn]
    medians = [statistics.median(turn) for turn in rounds]
    median = statistics.median(seconds)
    spread = (max(medians) - min(medians)) / statistics.median(medians) if len(medians) > 1 else None
    return Timing(
        rounds=tuple(tuple(turn) for turn in rounds),
        videos=len(seconds),
        videos_per_second=1 / median,
        views_per_second=VIEWS / median,
        median=median,
        p90=float(np.percentile(seconds, 90)),
        p95=float(np.percentile(seconds, 95)),
        p99=float(np.percentile(seconds, 99)),
        fastest=min(seconds),
        slowest=max(seconds),
        spread=spread,
        is_noisy=spread is not None and spread > 0.05,
        warmup_videos=3,
        is_warm=True,
        cpu_utilisation=0.973,
        joules_per_video=joules,
        energy_source=None if joules is None else "RAPL, package 0",
        clock_mhz=3712.0,
    )


def plain_result(name: str, *, rounds: Sequence[Sequence[float]], precision: str = "fp32") -> Result:
    """A result of an ONNX artifact without anything that is optional."""
    timed = timing(rounds)
    return Result(
        artifact=name,
        runner=f"onnxruntime 1.32.0 CPUExecutionProvider on cpu, {precision}, 2 threads",
        backend="onnxruntime 1.32.0",
        provider="CPUExecutionProvider",
        device="cpu",
        precision=precision,
        threads=2,
        batch=1,
        network="i3d_r50",
        card_sha256="5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
        difference=None,
        difference_allowed=None,
        videos_per_second=timed.videos_per_second,
        model=timed,
        peak_host_bytes=507_510_784,
    )


def ratios(results: Sequence[Result]) -> tuple[Ratio, ...]:
    """Of every pair, both ways."""
    pairs = [(one, other) for one in results for other in results if one is not other]
    return tuple(_ratio(one, other) for one, other in pairs)


def _ratio(one: Result, other: Result) -> Ratio:
    turns = zip(one.model.rounds, other.model.rounds, strict=True)
    each = [statistics.median(theirs) / statistics.median(ours) for ours, theirs in turns]
    middle = statistics.median(each)
    spread = (max(each) - min(each)) / middle if len(each) > 1 else None
    is_noisy = spread is not None and spread > 0.05
    return Ratio(artifact=one.artifact, against=other.artifact, ratio=middle, spread=spread, is_noisy=is_noisy)


def _result(place: int) -> Result:
    name, backend, provider, precision, batch, medians, peak_mib, bytes_per_view, ceiling = _ARTIFACTS[place]
    # Three videos a round: one at the round's median, one 0.6 % faster, one 1.1 % slower.
    rounds = tuple((median, 0.994 * median, 1.011 * median) for median in medians)
    result = plain_result(name, rounds=rounds, precision=precision)
    is_reference = place == 0
    return result.replaced(
        backend=backend,
        provider=provider,
        runner=f"{backend} {provider} on cpu, {precision}, 2 threads",
        batch=batch,
        difference=None if is_reference else _DIFFERENCES[precision][0],
        difference_allowed=None if is_reference else _DIFFERENCES[precision][1],
        model=timing(rounds, joules=171.0 / (1 + place)),
        end_to_end=_end_to_end(rounds),
        peak_host_bytes=peak_mib * 2**20,
        roofline=_roofline(result.model.median, precision, int(bytes_per_view), ceiling * 1e9),
        slowest_layers=_layers(result.model.median / VIEWS) if place in (2, 3) else (),
        notes=("fp16 weights are computed in fp32: this processor has no fp16",) if place == 3 else (),
    )


def _end_to_end(rounds: Sequence[Sequence[float]]) -> EndToEnd:
    predictions = tuple(tuple(value + 0.21 for value in turn) for turn in rounds)
    timed = timing(predictions)
    compute = statistics.median(value for turn in rounds for value in turn)
    stages = Stages(decode=0.154, views=0.223, transfer=0.0, compute=compute)
    return EndToEnd(
        video="archery & <bows>.mp4",
        frames=300,
        open=1.37,
        first=timed.median * 1.21,
        timing=timed,
        stages=stages,
        overlap=stages.total / timed.median,
    )


def _roofline(median: float, precision: str, bytes_per_view: int, ceiling: float) -> Roofline:
    operations = 2 * MACS_PER_VIEW * VIEWS
    return Roofline(
        macs_per_view=MACS_PER_VIEW,
        bytes_per_view=bytes_per_view,
        operations_per_second=operations / median,
        ceiling=ceiling,
        ceiling_of=f"{precision} convolution, openvino 2026.4.1 on cpu",
        share=operations / median / ceiling,
        floor_seconds=operations / ceiling,
        bound="compute",
    )


def _layers(seconds: float) -> tuple[Layer, ...]:
    shares = (
        ("backbone.conv1<stem>/Conv", "Conv", 0.262),
        ("layer1.0.conv1 & bias", "Conv", 0.071),
        ("pool", "MaxPool", 0.034),
    )
    return tuple(Layer(name=name, kind=kind, seconds=share * seconds, share=share) for name, kind, share in shares)


def _machine() -> Machine:
    return Machine(
        cpu="AMD EPYC 9655 96-Core Processor",
        cores=2,
        cpu_features=("avx512f", "avx512_vnni", "avx512_bf16"),
        memory_bytes=24 * 2**30,
        system="Linux 6.8 x86_64",
        python="3.11.9",
    )


def _ceilings() -> tuple[Ceiling, ...]:
    openvino = "openvino 2026.4.1 on cpu"
    return (
        Ceiling(precision="fp32", work="matmul", backend="torch 2.13.0 on cpu", per_second=175e9),
        Ceiling(precision="fp32", work="convolution", backend=openvino, per_second=457e9),
        Ceiling(precision="bf16", work="convolution", backend=openvino, per_second=876e9),
        Ceiling(precision="int8", work="convolution", backend=openvino, per_second=1653e9),
        Ceiling(precision="bytes", work="copy", backend="numpy 2.4.6 on cpu", per_second=37.6e9),
    )


def _sweeps(results: Sequence[Result]) -> list[Sweep]:
    """Batches and clips of the last two artifacts, and the length of the video of the last."""
    last = results[-2:]
    batches = [_sweep(result, "batch", (1, 2, 4, 8), result.model.median / VIEWS, 0.012, 24e6) for result in last]
    clips = [_sweep(result, "clips", (1, 2, 5, 10), result.model.median / 10, 0.031, 19e6) for result in last]
    return [*batches, *clips, _sweep(last[-1], "frames", (300, 3000, 18000), 0.0006, last[-1].model.median, 2e3)]


def _sweep(result: Result, over: str, sizes: Sequence[int], slope: float, fixed: float, growth: float) -> Sweep:
    points = []
    for number, size in enumerate(sizes):
        middle = fixed + slope * size
        is_noisy = number == 1
        seconds = (0.97 * middle, middle, 1.04 * middle) if is_noisy else (0.99 * middle, middle, 1.02 * middle)
        points.append(
            SweepPoint(
                size=size,
                seconds=seconds,
                median=middle,
                spread=0.07 if is_noisy else 0.03,
                is_noisy=is_noisy,
                peak_host_bytes=int(result.peak_host_bytes + growth * size),
            )
        )
    document = {"artifact": result.artifact, "over": over, "points": points}
    fit = {"fixed_seconds": fixed, "seconds_per_unit": slope, "bytes_per_unit": growth}
    return Sweep.model_validate({**document, **fit})
