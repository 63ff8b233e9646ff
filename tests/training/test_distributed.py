"""Processes of one run: two real ones against one that sees everything, and devices that are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i3d_deploy.errors import DeviceError, InputError
from i3d_deploy.training import distributed
from i3d_deploy.training.distributed import Process
from tests.training import two_processes

ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"))
ALL = slice(None)

Two = tuple[dict[str, Any], dict[str, Any]]
HalvesAndWhole = tuple[list[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, motion_data: Path) -> Two:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, script, folder, motion_data], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(2))
    return first, second


def test_processes_know_their_number(two: Two) -> None:
    assert [(found["rank"], found["world_size"], found["is_first"]) for found in two] == [(0, 2, True), (1, 2, False)]


def test_all_processes_get_all_values_in_order(two: Two) -> None:
    for found in two:
        assert found["gathered"] == [{"from": 0}, {"from": 1}]


def test_all_processes_get_the_first_ones_value(two: Two) -> None:
    assert [found["shared"] for found in two] == ["first", "first"]


def test_averaged_buffers_are_the_mean_of_both(two: Two) -> None:
    for rank, found in enumerate(two):
        buffers = found["buffers"]["average_buffers"]
        assert buffers["running_mean"].tolist() == [1, 5]  # of (1, 2) and (1, 8)
        assert buffers["running_var"].tolist() == [2, 1]  # of (0, 1) and (4, 1)
        # A count is no statistic.
        assert int(buffers["num_batches_tracked"]) == 5 + rank


def test_shared_buffers_are_the_first_ones(two: Two) -> None:
    for found in two:
        buffers = found["buffers"]["share_buffers"]
        assert buffers["running_mean"].tolist() == [1, 2]
        assert buffers["running_var"].tolist() == [0, 1]
        assert int(buffers["num_batches_tracked"]) == 5


def test_a_validation_in_shares_is_that_of_the_whole_list(two: Two, motion_data: Path) -> None:
    alone = two_processes.validated(ALONE, motion_data)
    assert alone["num_videos"] == 7
    for found in two:
        for name in ("percents", "num_videos", "views_per_video"):
            assert found["validated"][name] == alone[name]
        names = {failure["name"] for failure in found["validated"]["failures"]}
        assert names == {"0.mp4", "1.mp4"}


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Hold float32 against float64: sums over 360 values, through two convolutions."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=[False, True], ids=["moving", "cumulative"])
def halves_and_whole(request: pytest.FixtureRequest, two: Two) -> HalvesAndWhole:
    """The same training in two halves with shared statistics, and by PyTorch's own layer on whole batches."""
    is_cumulative: bool = request.param
    whole = two_processes.trained(two_processes.network().double(), ALL, is_cumulative=is_cumulative)
    return [found["cumulative norms" if is_cumulative else "norms"] for found in two], whole


def test_outputs_of_shared_statistics_are_those_of_the_whole_batch(halves_and_whole: HalvesAndWhole) -> None:
    halves, whole = halves_and_whole
    for step in range(two_processes.NUM_STEPS):
        assert_close(torch.cat([half["outputs"][step] for half in halves]), whole["outputs"][step])


def test_gradients_through_shared_statistics_are_those_of_the_whole_batch(halves_and_whole: HalvesAndWhole) -> None:
    halves, whole = halves_and_whole
    for step in range(two_processes.NUM_STEPS):
        assert_close(torch.cat([half["clips"][step] for half in halves]), whole["clips"][step])
        # Each process has its videos' part of a parameter's gradient.
        parts = zip(*(half["parameters"][step] for half in halves), strict=True)
        for (first, second), expected in zip(parts, whole["parameters"][step], strict=True):
            assert_close(first + second, expected)


def test_running_statistics_are_those_of_the_whole_batch(halves_and_whole: HalvesAndWhole) -> None:
    halves, whole = halves_and_whole
    for half in halves:
        assert half["buffers"].keys() == whole["buffers"].keys()
        for name, expected in whole["buffers"].items():
            if name.endswith("num_batches_tracked"):
                assert int(half["buffers"][name]) == int(expected) == two_processes.NUM_STEPS
            else:
                assert_close(half["buffers"][name], expected)


def test_evaluation_uses_the_running_statistics(halves_and_whole: HalvesAndWhole) -> None:
    halves, whole = halves_and_whole
    assert_close(torch.cat([half["evaluated"] for half in halves]), whole["evaluated"])


def test_statistics_of_one_process_are_pytorchs_own() -> None:
    net = two_processes.network()
    kinds = [type(module) for module in net.modules()]
    assert distributed.synchronize_norms(net, ALONE) is net
    assert [type(module) for module in net.modules()] == kinds


def test_one_process_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined("cpu") as process:
        assert process == ALONE
        assert process.is_first
        assert not torch.distributed.is_initialized()
        assert process.gather("value") == ["value"]
        assert process.share("value") == "value"
        norm = nn.BatchNorm3d(2)
        norm.running_mean = torch.tensor([1.0, 2.0])
        process.average_buffers(norm)
        process.share_buffers(norm)
        assert norm.running_mean.tolist() == [1, 2]
        process.wait()


def test_auto_is_a_gpu_where_there_is_one() -> None:
    with distributed.joined() as process:
        assert process.device == torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with (
        pytest.raises(DeviceError, match=rf"^PyTorch .* cannot use device '{device}': [^\n]+$"),
        distributed.joined(device),
    ):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_not_replaced_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(DeviceError, match="cannot use device 'cuda:3'"), distributed.joined("cuda"):
        pass


def test_several_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="device cuda:1: 2 processes need a GPU each, give cuda"):
        distributed.joined("cuda:1").__enter__()
