"""The charts of a record, read back from their SVG."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import matplotlib
import pytest

from i3d_deploy.benchmark import charts, drawing
from i3d_deploy.benchmark.record import Record
from i3d_deploy.errors import MissingExtraError
from tests.benchmark import records

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """The texts of a drawing, in order."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own


def drawn(record: Record) -> dict[str, str]:
    """SVG by the name of the chart."""
    return {chart.name: chart.svg for chart in charts.draw(record)}


def of_two(first: float, second: float, *, rounds: int = 1) -> Record:
    """A record of two artifacts that took so many seconds."""
    results = tuple(
        records.plain_result(name, rounds=[(seconds,)] * rounds)
        for name, seconds in (("a.onnx", first), ("b.xml", second))
    )
    return records.single_record().replaced(results=results)


def test_a_chart_without_data_is_left_out() -> None:
    everything = ["throughput", "latency", "stages", "roofline", "sweep-batch", "sweep-clips", "sweep-frames"]
    assert list(drawn(records.sample_record())) == everything
    assert list(drawn(records.gpu_record())) == ["throughput", "latency"]
    assert list(drawn(records.single_record())) == ["throughput"]


@pytest.mark.parametrize("artifacts", range(1, 7))
def test_every_number_of_artifacts_can_be_drawn(artifacts: int) -> None:
    for svg in drawn(records.sample_record(artifacts=artifacts)).values():
        assert ElementTree.fromstring(svg).tag == f"{SVG}svg"  # noqa: S314 - our own


def test_equal_records_give_equal_bytes_and_others_do_not() -> None:
    assert charts.draw(records.sample_record()) == charts.draw(records.sample_record())
    assert drawn(of_two(1.0, 2.0)) != drawn(of_two(1.0, 3.0))


def test_a_readers_settings_of_matplotlib_change_nothing_and_are_kept() -> None:
    usual = drawn(records.sample_record(artifacts=2))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.usetex": True}):
        assert drawn(records.sample_record(artifacts=2)) == usual
        assert matplotlib.rcParams["font.size"] == 30


def test_bars_are_as_long_as_videos_per_second() -> None:
    svg = charts.throughput(of_two(1.0, 4.0))
    lengths = []
    for color in drawing.PALETTE[:2]:
        path = re.search(rf'<path d="([^"]*)"[^>]*style="fill: {color}', svg)
        assert path is not None
        across = [float(x) for x in re.findall(r"[ML] (\S+) ", path[1])]
        lengths.append(max(across) - min(across))
    assert lengths[0] / lengths[1] == pytest.approx(4)


def test_only_the_noisy_bar_is_hatched_and_told_so() -> None:
    # (10.44 - 9.15) / 9.31 = 0.139
    svg = drawn(records.sample_record())["throughput"]
    assert len(re.findall(r"fill: url\(#throughput-", svg)) == 1
    assert [text for text in texts(svg) if "noisy" in text] == ["0.107  (noisy, 14 %)"]


def test_text_stays_text_and_nothing_comes_from_outside() -> None:
    for name, svg in drawn(records.sample_record()).items():
        assert "i3d_r50_int8.xml" in " ".join(texts(svg))
        outside = set(re.findall(r'(?:href|src)="([^#][^"]*)"|url\(([^#][^)]*)\)', svg))
        assert not outside
        assert all(found.startswith(f"{name}-") for found in re.findall(r' id="([^"]*)"', svg))
        assert all(found.startswith(f"{name}-") for found in re.findall(r'(?:href="#|url\(#)([^")]*)', svg))


def test_names_are_no_formulas_and_no_markup() -> None:
    result = records.plain_result("$x_1$ <b> & 日本.onnx", rounds=((1.0,), (1.1,)))
    for svg in drawn(records.single_record().replaced(results=(result,))).values():
        assert "$x_1$ <b> & 日本.onnx" in texts(svg)


def test_thousands_of_videos_are_drawn_as_one_shape() -> None:
    few, many = records.sample_record(artifacts=2), records.gpu_record()
    assert len(drawn(many)["latency"]) < 2 * len(drawn(few)["latency"])
    assert drawn(few)["latency"].count("<use") > 18  # two artifacts of nine videos


def test_one_slow_video_in_thousands_does_not_press_the_others_together() -> None:
    # The slowest took 1.3 times the median, nearly all within 2 % of it.
    ticks = [float(text) for text in texts(drawn(records.gpu_record())["latency"]) if re.fullmatch(r"\d\.\d+", text)]
    assert max(ticks) < 1.1


def test_the_roofline_has_the_highest_ceiling_of_each_precision_and_the_share_of_each_artifact() -> None:
    found = texts(drawn(records.sample_record())["roofline"])
    assert {"fp32 457 GFLOP/s", "bf16 876 GFLOP/s", "int8 1.65 TOP/s", "37.6 GB/s"} <= set(found)
    assert not [text for text in found if "175" in text]
    # 2.596 TOP per video in 1.71 s is 1.518 TOP/s, of 1.653 it is 92 %.
    assert "6 i3d_r50_int8.xml: 92 %" in found


def test_a_roofline_without_a_measured_copy_has_no_slope() -> None:
    record = records.sample_record()
    without = record.replaced(ceilings=[ceiling for ceiling in record.ceilings if ceiling.work != "copy"])
    assert not [text for text in texts(drawn(without)["roofline"]) if "memory" in text]


def test_a_sweep_tells_the_fitted_line() -> None:
    found = texts(drawn(records.sample_record())["sweep-frames"])
    assert "600 µs per frame + 1.71 s, 1.95 KiB per frame" in found


def test_a_sweep_of_one_size_has_no_line() -> None:
    record = records.sample_record()
    first = record.sweeps[0]
    short = first.replaced(points=first.points[:1], fixed_seconds=None, seconds_per_unit=None, bytes_per_unit=None)
    svg = drawn(record.replaced(sweeps=(short,)))["sweep-batch"]
    assert "no line through one size" in texts(svg)
    assert "stroke-dasharray" not in svg


def test_every_artifact_keeps_its_color() -> None:
    record = records.sample_record()
    color = charts.colors(record)["i3d_r50_int8.xml"]
    assert all(color in svg for svg in drawn(record).values())
    assert len(set(charts.colors(record).values())) == 6


def test_texts_are_moved_apart_upwards_as_far_as_there_is_room() -> None:
    assert drawing.spread_apart([1.0, 0.0, 0.1, 5.0], 0.5) == [1.0, 0.0, 0.5, 5.0]
    assert drawing.spread_apart([0.0, 0.0, 0.0], 0.5) == [0.0, 0.5, 1.0]
    assert drawing.spread_apart([0.0, 0.9, 1.0], 0.5, limit=1.0) == [0.0, 0.5, 1.0]


def test_without_matplotlib_the_pip_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"^matplotlib is not installed: pip install 'i3d-deploy\[report\]'$"):
        charts.draw(records.single_record())
