"""The same answers on a GPU as everywhere: the originals' on golden inputs, the CPU's on real clips.

The CPU's cases run everywhere, those on CUDA are marked ``gpu``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import i3d_deploy as i3d
from i3d_deploy import limits
from i3d_deploy.card import Engine, Precision
from i3d_deploy.fused.choice import ChosenSteps
from i3d_deploy.fused.graphs import on
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.stacking import of_views
from i3d_deploy.preprocessing import Pixels
from i3d_deploy.runners.torch_runner import full_precision
from tests import filled, goldens, narrowed
from tests.on_cuda import on_cuda

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Golden file, network, and its cases from the quickest on.
GOLDENS = [
    ("mmaction_i3d_r50", "i3d_r50", ("a", "b", "c")),
    ("mmaction_i3d_nl_dot_product", "i3d_r50_nl_dot_product", ("a", "b", "c")),
    ("mmaction_i3d_nl_embedded_gaussian", "i3d_r50_nl_embedded_gaussian", ("a", "b", "c")),
    ("mmaction_i3d_nl_gaussian", "i3d_r50_nl_gaussian", ("a", "b", "c")),
    ("inception_i3d_rgb", "i3d_inception_rgb", ("a", "b", "c")),
    ("inception_i3d_flow", "i3d_inception_flow", ("a", "b", "c")),
    ("pytorchvideo_i3d_r50", "i3d_r50_8x8_pytorchvideo", ("a", "b")),
    ("slowfast_i3d_8x8_r50", "i3d_r50_8x8_slowfast", ("a", "b")),
    ("slowfast_i3d_nln_8x8_r50", "i3d_r50_8x8_nl_embedded_gaussian_slowfast", ("a", "b")),
    ("slowfast_i3d_nln_8x8_r50", "i3d_r50_8x8_nl_dot_product_slowfast", ("a_dot", "b_dot")),
]

# In a narrow type most CPUs are slow: one network, the one that overflows soonest.
ON_THE_CPU = [
    *((file, name, cases[0], "fp32", "cpu") for file, name, cases in GOLDENS),
    ("mmaction_i3d_nl_gaussian", "i3d_r50_nl_gaussian", "a", "fp16", "cpu"),
    ("mmaction_i3d_nl_gaussian", "i3d_r50_nl_gaussian", "a", "bf16", "cpu"),
]
ON_A_GPU = [
    on_cuda(file, name, case, precision, "cuda", by="PyTorch")
    for file, name, cases in GOLDENS
    for case in cases
    for precision in DTYPES
]


# Of dot_product, rounding the weights alone takes seven to nine tenths of the limit in fp16.
@pytest.mark.parametrize(("file", "name", "case", "precision", "device"), [*ON_THE_CPU, *ON_A_GPU])
def test_networks_equal_the_originals(file: str, name: str, case: str, precision: Precision, device: str) -> None:
    golden = goldens.load_npz(f"{file}.npz")
    net = filled.network(file, name).to(device, DTYPES[precision])
    clips = filled.inputs_of(golden, case).to(device, DTYPES[precision])
    with torch.inference_mode(), full_precision(torch.device(device)):
        maps = net.features(clips.contiguous(memory_format=torch.channels_last_3d))
        logits = net.classify(maps)
        places = net.fc(net.windows(maps).permute(0, 2, 3, 4, 1))
    # SlowFast's networks give probabilities: the logits are those of each place of the head.
    is_slowfast = file.startswith("slowfast")
    found, expected = (places, golden[f"{case}/proj_f64"]) if is_slowfast else (logits, golden[f"{case}/logits_f64"])
    card = narrowed.card_of(net.network, frames=32, side=256).replaced(engine=Engine(precision=precision))
    limit = limits.logits_limit(card, expected)
    np.testing.assert_allclose(found.double().cpu().numpy(), expected, rtol=0, atol=limit)
    if is_slowfast:
        probabilities = logits.double().softmax(1).cpu().numpy()
        np.testing.assert_allclose(probabilities, golden[f"{case}/out_f64"], rtol=0, atol=limit / 2)


FUSED_ON_THE_CPU = [(file, name, cases[0], "fp32", "cpu") for file, name, cases in GOLDENS[:2] + GOLDENS[4:6]]
FUSED_ON_A_GPU = [
    on_cuda(file, name, case, precision, "cuda", by="PyTorch")
    for file, name, cases in GOLDENS
    for case in cases
    for precision in ("fp16", "bf16")
]


@pytest.mark.parametrize(("file", "name", "case", "precision", "device"), [*FUSED_ON_THE_CPU, *FUSED_ON_A_GPU])
def test_fused_networks_equal_the_originals(file: str, name: str, case: str, precision: Precision, device: str) -> None:
    golden = goldens.load_npz(f"{file}.npz")
    net = filled.network(file, name)
    as_they_are = Pixels(color="rgb", mean=(0.0,) * 3, std=(1.0,) * 3)
    if net.network.in_channels == 2:
        as_they_are = Pixels(color="xy", mean=(0.0,) * 2, std=(1.0,) * 2)
    place = torch.device(device)
    fused = FusedNetwork(net, as_they_are, dtype=DTYPES[precision], device=place)
    clips = filled.inputs_of(golden, case).float().permute(0, 2, 3, 4, 1).contiguous()
    with on(place):
        maps = fused.features(ChosenSteps({}, place), of_views(clips.to(place)))
        logits = net.float().classify(maps.permute(0, 4, 1, 2, 3).float().cpu())
        places = net.fc(net.windows(maps.permute(0, 4, 1, 2, 3).float().cpu()).permute(0, 2, 3, 4, 1))
    is_slowfast = file.startswith("slowfast")
    found, expected = (places, golden[f"{case}/proj_f64"]) if is_slowfast else (logits, golden[f"{case}/logits_f64"])
    card = narrowed.card_of(net.network, frames=32, side=256).replaced(engine=Engine(precision=precision))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=limits.logits_limit(card, expected))


CLIPS = ["arm_wrestling.mp4", "filling_eyebrows.avi", "flipping_pancake.mkv", "corrupted.mp4", "rotation_90.mov"]
ENGINES = [
    ("tiny.onnx", "cpu"),
    on_cuda("tiny.safetensors", "cuda", by="PyTorch"),
    on_cuda("tiny.onnx", "cuda", by="ONNX Runtime"),
]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize(("name", "device"), ENGINES)
def test_real_clips_are_predicted_as_by_pytorch_on_the_cpu(
    tiny_exports: Path, clip: str, name: str, device: str
) -> None:
    path = goldens.shared_file(f"videos/{clip}")
    with i3d.load(tiny_exports / "tiny.safetensors", device="cpu") as reference:
        expected = reference.predict(path)
    with i3d.load(tiny_exports / name, device=device) as engine:
        found = engine.predict(path)
        computed_in = next(known for known in limits.LOGITS_LIMITS if known == engine.info.precision)
        limit = limits.logits_limit(engine.card, expected.logits, computed_in=computed_in)
        assert engine.info.device == {"cpu": "cpu", "cuda": "cuda:0"}[device]
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=limit)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=0, atol=limit / 2)
    assert (found.frames, found.views, found.warnings) == (expected.frames, expected.views, expected.warnings)
    (label, most), (_, next_most) = expected.top(2)
    if most - next_most > limit:
        assert found.top(1)[0][0] == label


PREDICT = """
import sys
import i3d_deploy as i3d
with i3d.load(sys.argv[1], device=sys.argv[2]) as recognizer:
    print(recognizer.info.device, *recognizer.predict(sys.argv[3]).logits.ravel())
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("device", ["cpu", on_cuda("cuda", by="ONNX Runtime")])
def test_an_engine_needs_no_pytorch(tiny_exports: Path, clip: Path, device: str) -> None:
    # PyTorch loads CUDA's libraries, which pip puts where the loader does not look: alone, ONNX Runtime has to.
    device_name, *numbers = output_of(PREDICT, str(tiny_exports / "tiny.onnx"), device, str(clip)).split()
    with i3d.load(tiny_exports / "tiny.safetensors", device="cpu") as reference:
        expected = reference.predict(clip).logits
        limit = limits.logits_limit(reference.card, expected)
    assert device_name == {"cpu": "cpu", "cuda": "cuda:0"}[device]
    np.testing.assert_allclose(np.array(numbers, np.float32), expected.ravel(), rtol=0, atol=limit)


def output_of(program: str, *arguments: str) -> str:
    """What a program prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
