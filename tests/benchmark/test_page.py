"""The HTML page of a record."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import pytest

from i3d_deploy.benchmark import page, wording
from i3d_deploy.benchmark.record import Record
from i3d_deploy.errors import MissingExtraError
from tests.benchmark import records

VOID = {"br", "meta"}


class Outline(HTMLParser):
    """What a browser would see: that every element is closed, the texts, ids and references."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.references += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        # The JSON at the end has every figure: what must be seen must be seen without it.
        if not {"pre", "style", "text"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


RECORDS = {
    **{f"{count}": records.sample_record(artifacts=count) for count in range(1, 7)},
    "single": records.single_record(),
    "gpu": records.gpu_record(),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_the_page_is_well_formed_and_stands_alone(record: Record) -> None:
    document = page.render(record)
    outline = Outline(document)
    assert document.startswith("<!DOCTYPE html>")
    assert len(outline.ids) == len(set(outline.ids))
    assert all(found.startswith("#") and found[1:] in outline.ids for found in outline.references)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(outline.tags)
    assert "@import" not in document
    assert set(re.findall(r"https?://[^\s\"'<]*", document)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_equal_records_give_equal_bytes() -> None:
    assert page.render(records.sample_record()) == page.render(records.sample_record())


def test_names_are_escaped() -> None:
    document = page.render(records.sample_record())
    assert "<kinetics400>" not in document
    assert "<bows>" not in document
    assert "<fp8>" not in document
    assert "i3d_r50_32x2x1_100e_&lt;kinetics400&gt;_rgb &amp; flow" in document
    text = Outline(document).text
    assert records.LONG_NAME in text
    assert "archery & <bows>.mp4, 300 frames" in text


def test_a_hostile_name_stays_text() -> None:
    name = "\"'><script>alert(1)</script>{{ 7 * 7 }}\x00\udcff\n.onnx"
    record = records.single_record()
    document = page.render(record.replaced(results=(records.plain_result(name, rounds=((1.0,),)),)))
    assert "<script" not in document
    assert document.encode("utf-8")
    assert "<script>alert(1)</script>{{ 7 * 7 }}" in Outline(document).text


def test_the_headline_is_the_fastest_with_machine_and_protocol() -> None:
    text = Outline(page.render(records.sample_record())).text
    assert (
        "0.585 videos/s i3d_r50_int8.xml The fastest of 6 artifacts, by openvino 2026.4.1 in int8, model only" in text
    )
    assert "on 2 cores of AMD EPYC 9655 96-Core Processor, 24.0 GiB, no GPU, Linux 6.8 x86_64" in text
    assert "30 views of 32 frames per video (10 clips, 3 crops), median of 9 videos in 3 rounds." in text
    # 18.9 s against 1.71 s
    assert "11.1 times as fast as i3d_r50.safetensors" in text


def test_every_figure_of_the_record_is_in_sight() -> None:
    text = Outline(page.render(records.sample_record())).text
    # The fourth: 6.18 s at the median; rounds of 6.18, 6.21 and 6.15 s, each with -0.6 % and +1.1 %.
    figures = {
        "model": "4 i3d_r50_fp32.xml 0.162 3.07 6.18 s 0.97 % 6.25 s 6.27 s 6.28 s 6.11 s 6.28 s",
        "usage": f"4 i3d_r50_fp32.xml 402 MiB {wording.DASH} 4.85 9 in 3 rounds 3 97 % 42.8 J",
        "noisy": "…ch.onnx export 0.107 2.05 noisy 9.31 s 14 % noisy 10.5 s 10.5 s 10.5 s 9.10 s 10.6 s",
        # 0.154 + 0.223 + 1.71 = 2.087 s against a prediction of 1.92 s; the first took 1.21 times as long.
        "end to end": "6 i3d_r50_int8.xml 0.521 1.37 s 2.32 s 154 ms 223 ms 0 s 1.71 s 2.09 s 1.09",
        # 2 x 43.269 GMAC x 30 = 2.596 TOP; at 1.653 TOP/s 1.57 s; 86.54 GOP / 406 MB = 213.
        "roofline": "6 i3d_r50_int8.xml 92 % 1.52 TOP/s 1.65 TOP/s 1.57 s compute 43.269 387 MiB 213",
        "ceiling": "memory copy 37.6 GB/s numpy 2.4.6 on cpu",
        "lower ceiling": "fp32 matmul 175 GFLOP/s torch 2.13.0 on cpu",
        "sweep": "18,000 12.5 s 3.0 % 695 µs 263 MiB",
        "noisy sweep": "3,000 3.51 s 7.0 % noisy 1.17 ms 235 MiB",
        "fit": "Fitted: 600 µs per frame + 1.71 s, 1.95 KiB per frame.",
        "layer": "backbone.conv1<stem>/Conv Conv 54.0 ms 26 %",
        "failure": "i3d_r50_<fp8>.engine built for TensorRT-RTX 1.7; no NVIDIA driver was found",
        "wrong": "i3d_r50_old.onnx wrong answer it answers otherwise: a logit differs by 0.37",
        "failures on top": "2 not timed i3d_r50_<fp8>.engine, i3d_r50_old.onnx: why",
        "runner": "5 i3d_r50_bf16.xml openvino 2026.4.1 CPU cpu bf16 2 2 6.9e-3 of 1.6e-1",
        "card": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
        "note": "fp16 weights are computed in fp32: this processor has no fp16",
        "clock": "42.8 J 3712 MHz",
        "instructions": "avx512f, avx512_vnni, avx512_bf16",
        "version": "onnxruntime 1.32.0 openvino 2026.4.1 torch 2.13.0",
        "length": "at least 3 rounds and 30.0 s per artifact; 3 rounds were run",
        "energy": "of the whole device, by RAPL, package 0",
        "how to read": "from uint8 views in host memory to averaged probabilities in host memory",
    }
    missing = {name: figure for name, figure in figures.items() if figure not in text}
    assert not missing


def test_every_pair_has_its_ratio() -> None:
    text = Outline(page.render(records.sample_record())).text
    # 18.9 / 6.18 and so on, median of three rounds; the spread of 6 against 1 is 0.5 %.
    assert "6 i3d_r50_int8.xml 11.1 ± 0.24 % 5.41 noisy ± 7.6 % 4.05 ± 0.87 % 3.60 ± 1.1 % 1.96 ± 1.3 %" in text


def test_a_gpu_is_described_and_its_memory_shown() -> None:
    text = Outline(page.render(records.gpu_record())).text
    assert "NVIDIA H200, 140 GiB, driver 580.95.05, up to 1980 MHz" in text
    assert "3.25 GiB" in text
    assert "1,500 in 50 rounds" in text


def test_a_record_of_one_artifact_has_no_empty_parts() -> None:
    text = Outline(page.render(records.single_record())).text
    assert "0.160 videos/s only.onnx The one artifact, by onnxruntime 1.32.0 in fp32" in text
    assert "one round" in text
    for absent in (
        "Not timed",
        "How many times",
        "From the video file to",
        "How cost grows",
        "Slowest",
        "How far from",
    ):
        assert absent not in text


def test_the_record_itself_is_in_the_page() -> None:
    record = records.sample_record()

    class Pre(Outline):
        def handle_data(self, data: str) -> None:
            if "pre" in self.open:
                self.texts.append(data)

    assert "".join(Pre(page.render(record)).texts) == record.to_json()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_a_package_the_pip_command_is_told(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"^{package} is not installed: pip install 'i3d-deploy\[report\]'$"):
        page.render(records.single_record())
