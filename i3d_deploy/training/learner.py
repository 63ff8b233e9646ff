"""The network that learns: a step of the optimiser, and the state that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from i3d_deploy.fused import self_test
from i3d_deploy.head import I3D
from i3d_deploy.preprocessing import Pixels
from i3d_deploy.runners.torch_runner import full_precision
from i3d_deploy.training import distributed, optimization
from i3d_deploy.training.clips import seed_of
from i3d_deploy.training.dataset import ClipBatch
from i3d_deploy.training.distributed import Process
from i3d_deploy.training.recipe import Recipe
from i3d_deploy.training.snapshots import State

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What one forward pass gave; on the device, so that nothing waits for it.

    Attributes:
        loss: (), mean over the videos.
        correct: (), videos whose most probable class is theirs.
        gradient_norm: (), L2 norm of the step's gradients before they are clipped; None where a loss scale is in use,
            which takes no step where they are not finite.
    """

    loss: Tensor
    correct: Tensor
    gradient_norm: Tensor | None = None


class ClipsToLogits(nn.Module):
    """A network from uint8 clips on, so that a quarter of the bytes travels to the device.

    Args:
        network: The network.
        pixels: The scaling of colour values.
        autocast: Type of the convolutions: "fp32", "bf16" or "fp16".
        channels_last: Layout of the activations.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, pixels: Pixels, *, autocast: str, channels_last: bool) -> None:
        super().__init__()
        self.network = network
        self.dtype = _DTYPES.get(autocast)
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        scale = 1 / torch.tensor(pixels.std, dtype=torch.float64)
        self.register_buffer("mean", torch.tensor(pixels.mean), persistent=False)
        self.register_buffer("scale", scale.float(), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Map (N, T, H, W, C) uint8 to logits (N, K) float32."""
        # What is permuted is channels last already.
        scaled = ((clips.float() - self.mean) * self.scale).permute(0, 4, 1, 2, 3)  # N C T H W
        scaled = scaled.contiguous(memory_format=self.memory_format)
        with torch.autocast(clips.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            logits: Tensor = self.network(scaled)
        return logits.float()


class Learner:
    """A network with its optimiser and the average of its weights.

    Args:
        network: With its initial weights; changed in place.
        recipe: How to train it.
        process: This process.
        seed: Of the run; the dropout of a step is a function of it.

    Raises:
        DeviceError: PyTorch convolves wrong on the GPU.
    """

    def __init__(self, network: I3D, recipe: Recipe, *, process: Process, seed: int) -> None:
        self._recipe = recipe
        self._process = process
        self._seed = seed
        network.dropout.p = recipe.dropout
        if recipe.norm.sync:
            distributed.synchronize_norms(network, process)
        if recipe.compute.channels_last:
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._network = ClipsToLogits(
            network, recipe.pixels, autocast=recipe.compute.autocast, channels_last=recipe.compute.channels_last
        ).to(process.device)
        with full_precision(process.device):
            self_test.check(process.device, self._network.dtype or torch.float32)
        self._average = None
        if recipe.ema is not None:
            mean = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(self._network, multi_avg_fn=mean, use_buffers=True)
        if recipe.compute.compile:
            network.compile()
        self._wrapped: nn.Module = self._network
        if process.world_size > 1:
            device_ids = [process.device] if process.device.type == "cuda" else None
            self._wrapped = DistributedDataParallel(self._network, device_ids=device_ids)
        self._optimizer = optimization.make_optimizer(network.parameters(), recipe.optimizer)
        self._scaler = torch.amp.GradScaler(process.device.type, enabled=recipe.compute.autocast == "fp16")

    @property
    def evaluated(self) -> ClipsToLogits:
        """The network to validate and publish: the average, where one is kept."""
        averaged = self._network if self._average is None else self._average.module
        assert isinstance(averaged, ClipsToLogits)
        return averaged

    def step(self, batches: Sequence[ClipBatch], *, step: int, lr: float) -> list[Slice]:
        """Take one step of the optimiser.

        Args:
            batches: This process's slices of the step.
            step: Its number, from 0.
            lr: Its learning rate.

        Returns:
            What each slice gave.
        """
        optimization.set_lr(self._optimizer, lr)
        self._train_mode()
        slices = []
        for number, batch in enumerate(batches):
            # The same dropout whatever happened before, and whichever process takes the slice.
            torch.manual_seed(seed_of(self._seed, step, number * self._process.world_size + self._process.rank))
            with self._gradients_shared(number == len(batches) - 1):
                found = self._forward(batch)
                self._scaler.scale(found.loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            slices.append(Slice(loss=found.loss.detach(), correct=found.correct))
        self._scaler.unscale_(self._optimizer)
        norm = optimization.clip_gradients(self._network.parameters(), self._recipe.optimizer.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update_parameters(self._network)
        return slices if self._scaler.is_enabled() else [replace(entry, gradient_norm=norm) for entry in slices]

    def measure_norms(self, batches: Iterable[ClipBatch]) -> None:
        """Measure the running statistics of the evaluated network anew.

        Args:
            batches: What to measure them on.
        """
        clips = (batch.clips for batch in batches)
        update_bn(clips, self.evaluated, device=self._process.device)
        self._process.average_buffers(self.evaluated)

    def share_norms(self) -> None:
        """Give all processes the first one's running statistics."""
        self._process.share_buffers(self.evaluated)

    def state(self) -> State:
        """Everything that the next step depends on: tensors and plain values."""
        return {
            "state_dict": self._network.network.state_dict(),
            "ema": None if self._average is None else self.evaluated.network.state_dict(),
            "ema_updates": 0 if self._average is None else int(self._average.n_averaged),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, state: State) -> None:
        """Go on from a state that :meth:`state` gave."""
        self._network.network.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self.evaluated.network.load_state_dict(state["ema"])
            self._average.n_averaged.fill_(state["ema_updates"])

    def _train_mode(self) -> None:
        self._wrapped.train()
        if self._recipe.norm.freeze:
            for module in self._network.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()

    def _gradients_shared(self, is_last: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients once a step, after its last slice."""
        if isinstance(self._wrapped, DistributedDataParallel) and not is_last:
            unshared: AbstractContextManager[None] = self._wrapped.no_sync()
            return unshared
        return nullcontext()

    def _forward(self, batch: ClipBatch) -> Slice:
        clips = batch.clips.to(self._process.device, non_blocking=True)
        targets = batch.targets.to(self._process.device, non_blocking=True)
        logits = self._wrapped(clips)
        loss = functional.cross_entropy(logits, targets, label_smoothing=self._recipe.label_smoothing)
        best = logits.argmax(1)
        is_correct = best == targets if targets.dim() == 1 else targets.gather(1, best[:, None]) > 0
        return Slice(loss=loss, correct=is_correct.sum())
