"""Foreign networks as they are at home: every network and test pipeline against the original's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from i3d_deploy import checkpoint, labels, network, origins, resizing, views
from i3d_deploy.card import Card, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.predictions import average_views
from i3d_deploy.preprocessing import Sampling, Spatial, normalize
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners import TwoStreamRunner
from i3d_deploy.runners.torch_runner import TorchRunner
from tests import filled, goldens

PIPELINE = goldens.load_npz("slowfast_pipeline.npz")
WHOLE = goldens.load_npz("inception_pipeline.npz")


# Case c is 64 frames; the flow of 40 frames is added to a pair below.
@pytest.mark.parametrize(("kind", "case"), [("rgb", "b"), ("rgb", "c"), ("flow", "a"), ("flow", "b")])
def test_inception_equals_the_original(kind: str, case: str) -> None:
    golden = goldens.load_npz(f"inception_i3d_{kind}.npz")
    net = filled.network(f"inception_i3d_{kind}", f"i3d_inception_{kind}")
    x = filled.inputs_of(golden, case)
    with torch.no_grad():
        maps = net.features(x)
        windows, logits = net.windows(maps), net.classify(maps)
        places = torch.stack([net.fc(window.flatten(1)) for window in windows.unbind(2)], 2)
    np.testing.assert_allclose(windows.numpy(), golden[f"{case}/features_f32"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(places.numpy(), golden[f"{case}/logits_per_step_f32"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits.numpy(), golden[f"{case}/logits_f32"], rtol=0, atol=1e-5)


def test_inception_equals_the_original_in_float64() -> None:
    # Odd sizes: every axis is padded otherwise than the even sizes of the other cases.
    golden = goldens.load_npz("inception_i3d_rgb.npz")
    net = filled.network("inception_i3d_rgb", "i3d_inception_rgb").double()
    with torch.no_grad():
        logits = net(filled.inputs_of(golden, "b").double())
    np.testing.assert_allclose(logits.numpy(), golden["b/logits_f64"], rtol=0, atol=1e-9)


def runner_of_clips(kind: str, clip_len: int) -> TorchRunner:
    """A filled stream of clips of 224 pixels."""
    net = filled.network(f"inception_i3d_{kind}", f"i3d_inception_{kind}")
    conventions = origins.usual_conventions(net.network)
    card = Card(
        network=net.network,
        label_set="kinetics400",
        labels=labels.for_count(400)[1],
        provenance=Provenance(origin="pytorch-i3d"),
        **{**conventions.parts, "sampling": Sampling(clip_len=clip_len, frame_interval=1, num_clips=1)},
    )
    return TorchRunner(Checkpoint(model=net, card=card), device="cpu")


def test_two_streams_with_the_goldens_weights_add_up_their_logits() -> None:
    key = "flow/synth_240x320_s7_40"
    random = np.random.RandomState(7)  # the golden's rule is in README.md
    cells = random.randint(0, 256, (40, 9, 11, 2)).astype(np.uint8)
    video = cells.repeat(27, 1).repeat(30, 2)[:, :240, :320].astype(np.int64) * 7 // 8
    video = (video + random.randint(0, 32, video.shape)).astype(np.uint8)
    np.testing.assert_array_equal(video.ravel()[:16], WHOLE[f"{key}/raw_first16"])
    top, left = WHOLE[f"{key}/top_left"]
    resized = np.stack([resizing.by_short_side(frame, short_side=256) for frame in video])
    motion = resized[None, :, top : top + 224, left : left + 224]
    frames = np.random.RandomState(8).randint(0, 256, (1, 40, 224, 224, 3)).astype(np.uint8)
    rgb, flow = runner_of_clips("rgb", 40), runner_of_clips("flow", 40)
    with torch.no_grad():
        inputs = torch.from_numpy(frames.astype(np.float32)).permute(0, 4, 1, 2, 3) / 255 * 2 - 1
        of_rgb = filled.network("inception_i3d_rgb", "i3d_inception_rgb")(inputs).numpy()
    with TwoStreamRunner(rgb, flow) as pair:
        logits = pair.infer(np.concatenate([frames, motion], axis=4))
    np.testing.assert_allclose(logits, of_rgb + WHOLE[f"{key}/logits_f32"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["a", "b"])
def test_pytorchvideo_equals_the_original(case: str) -> None:
    golden = goldens.load_npz("pytorchvideo_i3d_r50.npz")
    net = filled.network("pytorchvideo_i3d_r50", "i3d_r50_8x8_pytorchvideo")
    with torch.no_grad():
        logits = net(filled.inputs_of(golden, case))
    np.testing.assert_allclose(logits.numpy(), golden[f"{case}/logits_f32"], rtol=0, atol=1e-5)


SLOWFAST = [
    ("slowfast_i3d_8x8_r50", "i3d_r50_8x8_slowfast", "a"),
    ("slowfast_i3d_8x8_r50", "i3d_r50_8x8_slowfast", "b"),
    ("slowfast_i3d_nln_8x8_r50", "i3d_r50_8x8_nl_embedded_gaussian_slowfast", "a"),
    ("slowfast_i3d_nln_8x8_r50", "i3d_r50_8x8_nl_embedded_gaussian_slowfast", "b"),
    ("slowfast_i3d_nln_8x8_r50", "i3d_r50_8x8_nl_dot_product_slowfast", "b_dot"),
]


@pytest.mark.parametrize(("file", "name", "case"), SLOWFAST)
def test_slowfast_equals_the_original(file: str, name: str, case: str) -> None:
    # Its networks give probabilities, ours their logarithms. The dot product's logits are of the order of 50.
    golden = goldens.load_npz(f"{file}.npz")
    net = filled.network(file, name)
    with torch.no_grad():
        maps = net.features(filled.inputs_of(golden, case))
        logits = net.classify(maps)
        places = net.fc(net.windows(maps).permute(0, 2, 3, 4, 1))
    atol = 1e-3 if "dot" in case else 1e-4
    np.testing.assert_allclose(places.numpy(), golden[f"{case}/proj_f32"], rtol=0, atol=atol)
    np.testing.assert_allclose(logits.softmax(1).numpy(), golden[f"{case}/out_f32"], rtol=0, atol=1e-6)


SAMPLED = sorted(key.rpartition("/")[0] for key in PIPELINE if key.endswith("/inds"))


@pytest.mark.parametrize("case", SAMPLED)
def test_slowfast_frames_equal_the_original(case: str) -> None:
    sampling = Sampling(formula="slowfast", clip_len=8, frame_interval=8, frames_per_second=30.0)
    found = sampling.frame_indices(int(PIPELINE[f"{case}/total_frames"]), float(PIPELINE[f"{case}/fps"]))
    np.testing.assert_array_equal(found, PIPELINE[f"{case}/inds"])


def blocks(shape: tuple[int, ...], seed: int) -> goldens.Array:
    """The random video of the goldens: coarse blocks and noise; its recipe is in tests/README.md."""
    frames, height, width, channels = shape
    random = np.random.RandomState(seed)
    small = random.randint(0, 256, (frames, 9, 11, channels)).astype(np.uint8)
    rows = np.repeat(small, -(-height // 9), axis=1)[:, :height]
    coarse = np.repeat(rows, -(-width // 11), axis=2)[:, :, :width]
    noise = random.randint(0, 32, shape)
    return np.asarray(coarse.astype(np.int64) * 7 // 8 + noise).astype(np.uint8)


SPATIAL = sorted({key.split("/")[1] for key in PIPELINE if key.startswith("spatial/")})


@pytest.mark.parametrize("case", SPATIAL)
def test_slowfast_pixels_equal_the_original(case: str) -> None:
    size, seed = case.removeprefix("synth_").split("_s")
    height, width = (int(side) for side in size.split("x"))
    frames = blocks((8, height, width, 3), int(seed))
    prefix = f"spatial/{case}"
    np.testing.assert_array_equal(frames.ravel()[:16], PIPELINE[f"{prefix}/raw_first16"])
    prepared = views.cut(
        frames, sampling=Sampling(clip_len=8, frame_interval=1, num_clips=1), spatial=Spatial(formula="slowfast")
    )
    pixels = origins.ORIGINS["slowfast"].conventions(network.i3d_r50_8x8_slowfast()).pixels
    found = normalize(next(prepared.batches(3)), pixels)
    assert found.shape == tuple(PIPELINE[f"{prefix}/shape"])
    frames_step, rows, columns = PIPELINE[f"{prefix}/strides"]
    # OpenCV and PyTorch work out source positions in float32 in different ways.
    np.testing.assert_allclose(
        found[:, :, ::frames_step, ::rows, ::columns], PIPELINE[f"{prefix}/sample"], rtol=0, atol=2e-4
    )
    np.testing.assert_allclose(found.mean((1, 2, 3, 4), np.float64), PIPELINE[f"{prefix}/view_mean"], rtol=0, atol=1e-6)


def at_home(keys: str, origin: str, name: str, folder: Path) -> Recognizer:
    """A recognizer of a filled file, with nothing said about it."""
    tensors = filled.state(keys)
    path = folder / ("a.pt" if origin == "pytorch-i3d" else "a.pyth")
    torch.save(tensors if origin == "pytorch-i3d" else {"model_state": tensors}, path)
    found = checkpoint.load(path)
    assert found.card.network.name == name
    return Recognizer(TorchRunner(found, device="cpu"))


CLIPS = {"arm_wrestling": "videos/arm_wrestling.mp4", "filling_eyebrows": "videos/filling_eyebrows.avi"}


CHOSEN = [(0, 0), (1, 9), (2, 0)]
"""Three of thirty views, by crop and clip: every crop, the first and the last clip."""


def logits_of_chosen(recognizer: Recognizer, path: Path) -> goldens.Array:
    """Logits of these, (3, K)."""
    prepared = views.prepare(path, recognizer.card)
    batch = np.empty((1, *prepared.view_shape), prepared.dtype)
    return np.concatenate([recognizer.infer(prepared.fill(batch, [10 * crop + clip])) for crop, clip in CHOSEN])


def theirs_of_chosen(key: str) -> goldens.Array:
    """The same of a golden, whose views are 3 * clip + crop."""
    return PIPELINE[key].reshape(30, 400)[[3 * clip + crop for crop, clip in CHOSEN]]


def test_slowfast_predicts_as_at_home(tmp_path: Path) -> None:
    paths = {clip: goldens.shared_file(name) for clip, name in CLIPS.items()}
    with at_home("slowfast_i3d_8x8_r50", "slowfast", "i3d_r50_8x8_slowfast", tmp_path) as recognizer:
        for clip, path in paths.items():
            prefix = f"end_to_end/{clip}"
            prepared = views.prepare(path, recognizer.card)
            np.testing.assert_array_equal(prepared.indices, PIPELINE[f"{prefix}/frame_inds"])
            ours = np.exp(logits_of_chosen(recognizer, path))
            theirs = theirs_of_chosen(f"{prefix}/slowfast_i3d_8x8_r50/probs_per_view")
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_pytorchvideo_predicts_as_at_home(tmp_path: Path) -> None:
    path = goldens.shared_file(CLIPS["arm_wrestling"])
    with at_home("pytorchvideo_i3d_r50", "pytorchvideo", "i3d_r50_8x8_pytorchvideo", tmp_path) as recognizer:
        ours = logits_of_chosen(recognizer, path)
    theirs = theirs_of_chosen("end_to_end/arm_wrestling/pytorchvideo_i3d_r50/logits_per_view")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("network_name", ["slowfast_i3d_8x8_r50", "pytorchvideo_i3d_r50"])
def test_views_are_averaged_as_at_home(network_name: str) -> None:
    prefix = f"end_to_end/arm_wrestling/{network_name}"
    is_slowfast = network_name.startswith("slowfast")
    rows = PIPELINE[f"{prefix}/{'probs' if is_slowfast else 'logits'}_per_view"]
    logits = np.log(rows) if is_slowfast else rows
    found = average_views(logits, over="probabilities")
    np.testing.assert_allclose(found, PIPELINE[f"{prefix}/prob"], rtol=0, atol=1e-6)


def test_inception_takes_a_whole_video_as_at_home(tmp_path: Path) -> None:
    # The original was given all 164 frames, which are 25 a second.
    path = goldens.shared_file(CLIPS["filling_eyebrows"])
    with at_home("inception_i3d_rgb", "pytorch-i3d", "i3d_inception_rgb", tmp_path) as recognizer:
        prediction = recognizer.predict(path)
    assert prediction.logits.shape == (1, 400)
    np.testing.assert_allclose(prediction.logits, WHOLE["rgb/filling_eyebrows_164/logits_f32"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        prediction.probabilities, WHOLE["rgb/filling_eyebrows_164/prob_f32"].ravel(), rtol=0, atol=1e-6
    )
