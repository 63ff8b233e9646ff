"""Steps of the learner against the same steps in plain PyTorch, most of them in float64 on a copy of the network."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from i3d_deploy import model
from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Pixels, normalize
from i3d_deploy.resnet import I3DResNet
from i3d_deploy.training.dataset import ClipBatch
from i3d_deploy.training.distributed import Process
from i3d_deploy.training.learner import ClipsToLogits, Learner
from i3d_deploy.training.recipe import Compute, Data, Norm, Optimizer, Recipe
from tests import narrowed

ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"))
NUM_CLASSES = 5
SEED = 11
LR = 0.1
# On a step that no weight was moved by, the assertions would hold whatever the learner did.
SMALLEST_MOVE = 5e-4
FIRST_SCALE = 65536.0  # torch.amp.GradScaler's documented init_scale
FROZEN = Norm(freeze=True)

RECIPE = Recipe(
    network=ResNet(
        name="tiny", num_classes=NUM_CLASSES, width=8, temporal_kernels=((3,), (1,)), stem_kernel=1, stem_pool_stride=1
    ),
    data=Data(train_list="train.txt", val_list="val.txt", test_list="test.txt"),
    optimizer=Optimizer(weight_decay=0.05),
    dropout=0.0,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small convolutions: threads wait for each other longer than they compute; and the learner seeds PyTorch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def network() -> I3DResNet:
    """The tiny network; its running statistics are not those of any batch."""
    net = narrowed.resnet(model.build(RECIPE.network))
    model.randomize(net, seed=4)
    return net


def batch_of(count: int = 4, *, seed: int = 0, brightest: int = 256, targets: Tensor | None = None) -> ClipBatch:
    """Random clips of 8 frames of 32x32, of different classes."""
    colors = np.random.default_rng(seed).integers(0, brightest, (count, 8, 32, 32, 3), dtype=np.uint8)
    targets = (torch.arange(count) + seed) % NUM_CLASSES if targets is None else targets
    return ClipBatch(clips=torch.from_numpy(colors), targets=targets, names=["video"] * count, failures=[])


def learner_of(network: I3DResNet, recipe: Recipe = RECIPE, **changes: Any) -> Learner:
    return Learner(network, recipe.replaced(**changes) if changes else recipe, process=ALONE, seed=SEED)


def scaled(batch: ClipBatch) -> Tensor:
    """(N, 3, T, H, W) float64, as the Pixels docstring has it: (value - mean) / std."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (RECIPE.pixels.mean, RECIPE.pixels.std))
    return ((batch.clips.double() - mean) / std).permute(0, 4, 1, 2, 3).contiguous()


def plain(network: nn.Module, *, is_training: bool) -> nn.Module:
    """A float64 copy of the network in one of its modes, without dropout."""
    net = copy.deepcopy(network).double().train(is_training)
    net.get_submodule("dropout").eval()
    return net


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def buffers_of(network: nn.Module) -> dict[str, Tensor]:
    """The running statistics, without the counters of batches."""
    return {name: buffer.clone() for name, buffer in network.named_buffers() if buffer.is_floating_point()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """The smallest over all parameters of the largest change of a weight."""
    return min(float((after[name].double() - before[name].double()).abs().max()) for name in before)


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], *, rtol: float = 1e-5, atol: float = 2e-5
) -> None:
    """Hold float32 values against float64 ones; weights are of order one, and move by some thousandths at least."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name].double(), rtol=rtol, atol=atol)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def outputs_of(module: nn.Module) -> list[Tensor]:
    """What the module gives from now on, one entry a call."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach()))
    return outputs


# Input


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_network_gets_what_the_card_says(network: I3DResNet, channels_last: bool) -> None:
    pixels = Pixels(mean=(1.5, 100.25, 254.0), std=(3.0, 57.12, 0.7))
    batch = batch_of(2)
    received: list[Tensor] = []
    network.register_forward_pre_hook(lambda _module, inputs: received.append(inputs[0]))
    learner_of(network, pixels=pixels, compute=Compute(channels_last=channels_last)).step([batch], step=0, lr=LR)
    expected = normalize(batch.clips.numpy(), pixels)
    assert received[0].shape == (2, 3, 8, 32, 32)
    assert received[0].dtype == torch.float32
    assert received[0].is_contiguous(memory_format=torch.channels_last_3d) == channels_last
    assert received[0].is_contiguous() == (not channels_last)
    # One rounding of a float32.
    np.testing.assert_allclose(received[0].numpy(), expected, rtol=2**-23, atol=0)


# The step


def by_hand(network: nn.Module, batches: list[ClipBatch], optimizer: Optimizer) -> tuple[dict[str, Tensor], float]:
    """SGD as in the documentation of torch.optim.SGD; also gives the first step's gradient norm."""
    net = plain(network, is_training=True)
    weights = dict(net.named_parameters())
    velocities: dict[str, Tensor] = {}
    norms = []
    for batch in batches:
        log_p = net(scaled(batch)).log_softmax(1)
        loss = -log_p[torch.arange(len(batch.targets)), batch.targets].mean()
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()))
        assert optimizer.clip_norm is not None
        share = min(1.0, optimizer.clip_norm / norms[-1])
        for name, weight in weights.items():
            # Weight decay comes after clipping, and acts on biases and normalisations as well.
            slope = share * gradients[name] + optimizer.weight_decay * weight.detach()
            velocities[name] = optimizer.momentum * velocities[name] + slope if name in velocities else slope
            weight.data = weight.data - LR * velocities[name]
    return weights_of(net), norms[0]


@pytest.mark.parametrize(("clip_norm", "is_clipped"), [(40.0, False), (0.5, True)])
def test_two_steps_equal_those_by_hand(network: I3DResNet, clip_norm: float, is_clipped: bool) -> None:
    # Two, since momentum does nothing to the first.
    optimizer = Optimizer(weight_decay=0.05, momentum=0.9, clip_norm=clip_norm)
    batches = [batch_of(seed=1), batch_of(seed=2)]
    before = weights_of(network)
    expected, norm = by_hand(network, batches, optimizer)
    learner = learner_of(network, optimizer=optimizer)
    for number, batch in enumerate(batches):
        learner.step([batch], step=number, lr=LR)
    assert (norm > clip_norm) == is_clipped
    assert moved(before, expected) > SMALLEST_MOVE
    assert_close(weights_of(network), expected)


def test_two_slices_equal_one_of_both(network: I3DResNet) -> None:
    # Frozen, since statistics of a batch are not those of its halves.
    whole = batch_of(4)
    halves = [
        ClipBatch(clips=whole.clips[part], targets=whole.targets[part], names=[], failures=[])
        for part in (slice(0, 2), slice(2, 4))
    ]
    other = copy.deepcopy(network)
    before = weights_of(network)
    at_once = learner_of(network, norm=FROZEN).step([whole], step=0, lr=LR)
    in_two = learner_of(other, norm=FROZEN).step(halves, step=0, lr=LR)
    assert moved(before, weights_of(network)) > SMALLEST_MOVE
    assert_close(weights_of(other), weights_of(network))
    assert len(in_two) == 2
    torch.testing.assert_close((in_two[0].loss + in_two[1].loss) / 2, at_once[0].loss)


def test_the_gradients_of_a_step_are_gone_in_the_next(network: I3DResNet) -> None:
    # Without momentum, a step at rate 0 leaves no trace.
    optimizer = Optimizer(momentum=0.0)
    other = copy.deepcopy(network)
    learner, fresh = (learner_of(net, norm=FROZEN, optimizer=optimizer) for net in (network, other))
    learner.step([batch_of(seed=1)], step=0, lr=0.0)
    for each in (learner, fresh):
        each.step([batch_of(seed=2)], step=1, lr=LR)
    assert_equal(weights_of(network), weights_of(other))


# The loss


def test_smoothed_loss_equals_that_by_hand(network: I3DResNet) -> None:
    batch = batch_of(4)
    with torch.no_grad():
        network.fc.bias[1] = 3.0  # surer than the smoothed targets are
    logits = outputs_of(network)
    (found,) = learner_of(network, label_smoothing=0.1).step([batch], step=0, lr=LR)
    log_p = logits[0].double() - logits[0].double().exp().sum(1, keepdim=True).log()
    of_class = log_p[torch.arange(4), batch.targets]
    expected = (-(1 - 0.1) * of_class - 0.1 / NUM_CLASSES * log_p.sum(1)).mean()
    torch.testing.assert_close(found.loss.double(), expected, rtol=1e-6, atol=0)
    assert abs(float(expected + of_class.mean())) > 0.01  # the plain loss is another one


def test_loss_of_several_classes_equals_that_by_hand(network: I3DResNet) -> None:
    # mmaction2 0.24.1 CrossEntropyLoss with soft labels: -(label * log_softmax).sum(1).mean(), labels as they are.
    targets = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 1, 1]], dtype=torch.float32)
    logits = outputs_of(network)
    (found,) = learner_of(network).step([batch_of(4, targets=targets)], step=0, lr=LR)
    log_p = logits[0].double() - logits[0].double().exp().sum(1, keepdim=True).log()
    torch.testing.assert_close(found.loss.double(), -(targets * log_p).sum(1).mean(), rtol=1e-6, atol=0)


# The bias alone decides: class 2 is the most probable one of every video.
@pytest.mark.parametrize(
    ("targets", "correct"),
    [
        (torch.tensor([2, 0, 2, 4]), 2),
        (torch.tensor([[0, 0, 1, 0, 1], [1, 1, 0, 1, 1], [0, 0, 1, 0, 0], [1, 0, 1, 0, 0]], dtype=torch.float32), 3),
    ],
    ids=["one class", "several classes"],
)
def test_correct_videos_are_counted(network: I3DResNet, targets: Tensor, correct: int) -> None:
    with torch.no_grad():
        network.fc.bias[2] = 50.0
    (found,) = learner_of(network).step([batch_of(4, targets=targets)], step=0, lr=LR)
    assert int(found.correct) == correct


# Normalisation


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_statistics_are_used_and_left_alone(network: I3DResNet, freeze: bool) -> None:
    batch = batch_of(4)
    before = buffers_of(network)
    with torch.no_grad():
        of_running, of_batch = (
            functional.cross_entropy(plain(network, is_training=is_training)(scaled(batch)), batch.targets)
            for is_training in (False, True)
        )
    (found,) = learner_of(network, norm=Norm(freeze=freeze)).step([batch], step=0, lr=LR)
    assert abs(float(of_running - of_batch)) > 0.01
    expected = of_running if freeze else of_batch
    torch.testing.assert_close(found.loss.double(), expected, rtol=1e-5, atol=0)
    after = buffers_of(network)
    if freeze:
        assert_equal(after, before)
    else:
        assert moved(before, after) > SMALLEST_MOVE


@pytest.mark.parametrize("ema", [None, 0.8])
def test_measured_statistics_are_the_mean_over_batches(network: I3DResNet, ema: float | None) -> None:
    # torch.optim.swa_utils.update_bn: momentum None, "cumulative moving average (i.e. simple average)" of the batches'
    # statistics. Batches of unequal size and brightness, since the mean over all clips would be another one.
    batches = [batch_of(4, seed=1), batch_of(2, seed=2, brightest=60), batch_of(3, seed=3, brightest=130)]
    learner = learner_of(network, ema=ema)
    for step in range(2):
        learner.step([batch_of(seed=7 + step)], step=step, lr=LR)
    before = buffers_of(network)
    evaluated = learner.evaluated.network
    assert isinstance(evaluated, I3DResNet)
    learner.measure_norms(batches)
    stem = evaluated.conv1.weight.detach().double()
    maps = [functional.conv3d(scaled(batch), stem, stride=(2, 2, 2), padding=(0, 3, 3)) for batch in batches]
    means = torch.stack([found.mean((0, 2, 3, 4)) for found in maps])
    variances = torch.stack([found.transpose(0, 1).flatten(1).var(1, correction=1) for found in maps])
    expected = {"running_mean": means.mean(0), "running_var": variances.mean(0)}
    assert_close(buffers_of(evaluated.bn1), expected, rtol=1e-4, atol=1e-5)
    if ema is not None:
        assert_equal(buffers_of(network), before)


# The average


def test_average_equals_that_by_hand(network: I3DResNet) -> None:
    # torch.optim.swa_utils: "When update_parameters is called for the first time the parameters of model are copied";
    # then W_EMA = decay * W_EMA + (1 - decay) * W; with use_buffers "averages for both the parameters and the buffers".
    learner = learner_of(network, ema=0.8)
    after = []
    for step in range(3):
        learner.step([batch_of(seed=step)], step=step, lr=LR)
        after.append({**weights_of(network), **buffers_of(network)})
    first, second, third = after
    expected = {name: 0.8 * (0.8 * first[name] + 0.2 * second[name]) + 0.2 * third[name] for name in first}
    averaged = learner.evaluated.network
    assert moved(third, expected) > SMALLEST_MOVE
    assert_close({**weights_of(averaged), **buffers_of(averaged)}, expected, rtol=1e-6, atol=1e-6)


def test_without_an_average_the_weights_are_evaluated(network: I3DResNet) -> None:
    assert learner_of(network).evaluated.network is network


# Types and layouts


@pytest.mark.parametrize(
    ("autocast", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_convolutions_are_of_the_recipes_type(network: I3DResNet, autocast: str, dtype: torch.dtype) -> None:
    learner = learner_of(network, compute={"autocast": autocast})
    convolutions = [outputs_of(module) for module in network.modules() if isinstance(module, nn.Conv3d)]
    logits = outputs_of(learner.evaluated)
    (found,) = learner.step([batch_of(2)], step=0, lr=LR)
    assert {outputs[0].dtype for outputs in convolutions} == {dtype}
    assert (logits[0].dtype, found.loss.dtype) == (torch.float32, torch.float32)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("channels_last", [True, False])
def test_convolutions_have_the_recipes_layout(network: I3DResNet, channels_last: bool) -> None:
    learner = learner_of(network, compute=Compute(channels_last=channels_last))
    # On one thread, PyTorch has kernels of their own for convolutions of one pixel, which give contiguous outputs.
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    spatial = [outputs_of(module) for module in convolutions if module.kernel_size[2] > 1]
    learner.step([batch_of(2)], step=0, lr=LR)
    assert len(spatial) == 3
    for (output,) in spatial:
        assert min(output.shape) > 1  # else the layouts are the same
        assert output.is_contiguous(memory_format=torch.channels_last_3d) == channels_last
        assert output.is_contiguous() == (not channels_last)


# Loss scaling


@pytest.fixture
def overflowing(network: I3DResNet) -> I3DResNet:
    """A network that is sure of class 1; on one video of class 0 the gradient of logit 0 is -1.

    The first scale makes that -65536, beyond the 65504 of fp16; half of it is well within.
    """
    with torch.no_grad():
        network.fc.bias[1] = 30.0
        for block in (network.get_submodule("layer1.0"), network.get_submodule("layer2.0")):
            for norm in (block.get_submodule("bn3"), block.get_submodule("downsample.1")):
                for parameter in norm.parameters():
                    parameter.mul_(0.25)  # so that gradients of the classifier, which are features, stay small
    return network


def scale_of(learner: Learner) -> float:
    return float(learner.state()["scaler"]["scale"])


def test_a_scaled_step_equals_an_unscaled_one(network: I3DResNet) -> None:
    # Clipped, since the norm is that of the unscaled gradients.
    optimizer = Optimizer(weight_decay=0.05, clip_norm=0.5)
    batch = batch_of(8)
    before = weights_of(network)
    expected, norm = by_hand(network, [batch], optimizer)
    learner = learner_of(network, optimizer=optimizer, compute=Compute(autocast="fp16"))
    learner.step([batch], step=0, lr=LR)
    after = weights_of(network)
    assert norm > 0.5
    assert scale_of(learner) == FIRST_SCALE
    assert moved(before, after) > SMALLEST_MOVE
    for name in before:
        found_move, move = after[name].double() - before[name], expected[name] - before[name]
        # fp16 has 11 bits, and gradients over noise are small sums of large terms. Scaling gone wrong is off by 65536.
        assert float((found_move - move).norm() / move.norm()) < 0.15, name


def test_a_step_that_overflows_is_skipped(overflowing: I3DResNet) -> None:
    batch = batch_of(1, targets=torch.tensor([0]))
    learner = learner_of(overflowing, compute=Compute(autocast="fp16"))
    before = weights_of(overflowing)
    learner.step([batch], step=0, lr=LR)
    assert_equal(weights_of(overflowing), before)
    assert scale_of(learner) == FIRST_SCALE / 2
    learner.step([batch], step=1, lr=LR)
    assert moved(before, weights_of(overflowing)) > SMALLEST_MOVE
    assert scale_of(learner) == FIRST_SCALE / 2


# Going on


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize(
    ("kind", "autocast", "scale"),
    [("sgd", "fp32", None), ("adamw", "fp32", None), ("sgd", "bf16", None), ("sgd", "fp16", FIRST_SCALE / 2)],
)
def test_a_loaded_learner_goes_on_as_the_first(
    overflowing: I3DResNet, kind: str, autocast: str, scale: float | None
) -> None:
    recipe = RECIPE.replaced(ema=0.8, dropout=0.5, optimizer={"kind": kind}, compute={"autocast": autocast})
    first = learner_of(overflowing, recipe)
    first.step([batch_of(1, targets=torch.tensor([0]))], step=0, lr=LR)  # halves the scale of fp16
    first.step([batch_of(8, seed=1)], step=1, lr=LR)
    second = learner_of(narrowed.resnet(model.build(RECIPE.network)), recipe)
    second.load(through_a_file(first.state()))
    before = weights_of(overflowing)
    # Two steps, since a lost momentum shows in any, but what a step leaves in it only in the next.
    for learner in (first, second):
        for step in (2, 3):
            learner.step([batch_of(8, seed=step), batch_of(8, seed=9 + step)], step=step, lr=LR)
    ours, theirs = first.state(), second.state()
    assert moved(before, weights_of(overflowing)) > SMALLEST_MOVE
    assert_equal(theirs["state_dict"], ours["state_dict"])
    assert_equal(theirs["ema"], ours["ema"])
    assert (theirs["ema_updates"], ours["ema_updates"]) == (4, 4)
    assert theirs["scaler"] == ours["scaler"]
    assert ours["scaler"].get("scale") == scale


# Dropout


def dropped_loss(network: nn.Module, batch: ClipBatch, *, step: int, number: int) -> Tensor:
    """The loss under the dropout of a slice: its seed is that of the run, the step and the slice."""
    net = plain(network, is_training=False)
    assert isinstance(net, I3DResNet)
    features = net.pool(net.features(scaled(batch)))
    torch.manual_seed(int(np.random.SeedSequence([SEED, step, number]).generate_state(1)[0]))
    kept = functional.dropout(torch.ones(features.shape), 0.5).double()
    return functional.cross_entropy(net.fc(features * kept), batch.targets)


@pytest.mark.parametrize("earlier", [[], [0, 1, 4]], ids=["no earlier step", "three earlier steps"])
def test_dropout_depends_on_step_and_slice_alone(network: I3DResNet, earlier: list[int]) -> None:
    # The earlier steps leave the weights as they are, but draw from the generator.
    learner = learner_of(network, dropout=0.5, norm=FROZEN)
    for step in earlier:
        learner.step([batch_of(3)], step=step, lr=0.0)
    batch = batch_of(4)
    with torch.no_grad():
        expected = torch.stack([dropped_loss(network, batch, step=5, number=number) for number in range(3)])
    found = learner.step([batch] * 3, step=5, lr=LR)
    assert len({round(float(loss), 3) for loss in expected}) == 3
    torch.testing.assert_close(torch.stack([each.loss for each in found]).double(), expected, rtol=1e-5, atol=0)


def test_no_dropout_where_a_network_is_evaluated(network: I3DResNet) -> None:
    learner = learner_of(network, dropout=0.5)
    assert isinstance(learner.evaluated, ClipsToLogits)
    learner.evaluated.eval()
    with torch.no_grad():
        found = learner.evaluated(batch_of(2).clips)
        expected = plain(network, is_training=False)(scaled(batch_of(2)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
