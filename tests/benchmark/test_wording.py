"""Figures with their units, and short names."""

from __future__ import annotations

import pytest

from i3d_deploy.benchmark import wording
from tests.benchmark import records


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.042, "0.0420"),
        (0.09996, "0.100"),
        (0.9996, "1.00"),
        (3.3712, "3.37"),
        (99.96, "100"),
        (303.4, "303"),
        (1234.4, "1,234"),
        (-0.02, "-0.0200"),
    ],
)
def test_three_digits_count_and_none_is_an_exponent(value: float, text: str) -> None:
    assert wording.significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 s"), (6e-6, "6.00 µs"), (0.0081, "8.10 ms"), (1, "1.00 s"), (3600, "3,600 s")]
)
def test_a_duration_has_the_unit_that_suits_it(value: float, text: str) -> None:
    assert wording.seconds(value) == text


def test_durations_side_by_side_have_the_unit_of_the_first() -> None:
    assert wording.durations({"median": 0.9, "max": 1.2}) == "median 900, max 1,200 ms"
    assert wording.durations({"median": 3.37, "max": 0.5}) == "median 3.37, max 0.500 s"


@pytest.mark.parametrize(
    ("value", "text"), [(512, "0.500 KiB"), (344 * 2**20, "344 MiB"), (1.5 * 2**30, "1.50 GiB"), (2000, "1.95 KiB")]
)
def test_memory_is_in_powers_of_1024(value: float, text: str) -> None:
    assert wording.memory(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 %"), (0.042, "4.2 %"), (0.1386, "14 %"), (0.998, "99.8 %"), (1.04, "104 %")]
)
def test_a_share_is_in_percent(value: float, text: str) -> None:
    assert wording.percent(value) == text


def test_a_noisy_spread_says_so() -> None:
    assert wording.spread(0.1386, is_noisy=True) == "14 %, noisy"
    assert wording.spread(0.0212, is_noisy=False) == "2.1 %"
    assert wording.spread(None, is_noisy=False) == "one round"


@pytest.mark.parametrize(
    ("value", "precision", "text"),
    [
        (457e9, "fp32", "457 GFLOP/s"),
        (788e12, "bf16", "788 TFLOP/s"),
        (1653e9, "int8", "1.65 TOP/s"),
        (37.6e9, "bytes", "37.6 GB/s"),
    ],
)
def test_a_ceiling_has_the_unit_of_its_work(value: float, precision: str, text: str) -> None:
    assert wording.rate(value, precision) == text


@pytest.mark.parametrize(("value", "text"), [(1.6e-6, "1.6e-6"), (1e-4, "1e-4"), (0.16, "1.6e-1"), (0.0, "0e0")])
def test_a_small_difference_is_written_shortly(value: float, text: str) -> None:
    assert wording.small(value) == text


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert wording.short("i3d_r50_fp32.onnx", 17) == "i3d_r50_fp32.onnx"
    assert wording.short("i3d_r50_channels_last_fp32.onnx", 17) == "i3d_r50_…p32.onnx"


def test_names_that_differ_in_the_middle_still_differ_when_short() -> None:
    names = ("i3d_r50_aaaaaaaaa_fp32.onnx", "i3d_r50_bbbbbbbbb_fp32.onnx", "other.xml")
    assert wording.short_names(names, 17) == ("1: i3d_r5…2.onnx", "2: i3d_r5…2.onnx", "other.xml")


def test_a_name_with_control_characters_stays_on_one_line() -> None:
    assert wording.short("a\nb\x1b[31m", 20) == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m"


def test_the_machine_and_the_protocol_are_told_in_words() -> None:
    record = records.sample_record()
    assert wording.machine(record.machine) == (
        "2 cores of AMD EPYC 9655 96-Core Processor, 24.0 GiB, no GPU, Linux 6.8 x86_64"
    )
    assert wording.views(record.protocol) == "30 views of 32 frames per video (10 clips, 3 crops)"
    assert wording.rounds(record) == "3 rounds"
    assert wording.machine(records.gpu_record().machine) == "16 cores of AMD EPYC 9655, NVIDIA H200, Linux x86_64"
    assert wording.rounds(records.single_record()) == "1 round"
