"""libi3d under AddressSanitizer, LeakSanitizer and UBSan, which end a program at the first fault."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from i3d_deploy import artifact
from tests.cpp import native
from tests.cpp.conftest import SOURCE, build, run

ENVIRONMENT = {
    "TBB_ENABLE_SANITIZERS": "1",  # OpenVINO's threads are loaded in a way that sanitizers refuse
    "LSAN_OPTIONS": f"suppressions={SOURCE / 'tests' / 'lsan.supp'}",  # OpenVINO's own, of threads that end
}


@pytest.fixture
def card(tiny_exports: Path, tmp_path: Path) -> Path:
    """A card as a file."""
    path = tmp_path / "card.json"
    path.write_text(artifact.read_card(tiny_exports / "tiny.xml").to_json())
    return path


def test_damaged_cards_are_refused(sanitized: Path, card: Path) -> None:
    printed = run(str(sanitized / "tests" / "mutate_card"), str(card), "100000", environment=ENVIRONMENT)
    match = re.fullmatch(r"(\d+) read, (\d+) refused\n", printed)
    assert match is not None
    read, refused = map(int, match.groups())
    assert read + refused == 100_000
    assert refused > read > 1000  # both ends were reached


def test_damaged_engines_are_refused(sanitized: Path, tiny_exports: Path, tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    xml, weights = ((tiny_exports / f"tiny{suffix}").read_bytes() for suffix in (".xml", ".bin"))
    paths = []
    for number in range(60):
        path = tmp_path / f"{number}.xml"
        damaged = bytearray(xml)
        if number % 3 == 0:
            del damaged[random.randint(len(xml)) :]
        elif number % 3 == 1:
            damaged[random.randint(len(xml))] = random.randint(256)
        path.write_bytes(damaged)
        path.with_suffix(".bin").write_bytes(weights[: random.randint(len(weights))] if number % 3 == 2 else weights)
        paths.append(str(path))
    statuses = [
        int(line.split()[0])
        for line in run(str(sanitized / "tests" / "exercise"), "open", *paths, environment=ENVIRONMENT).splitlines()
    ]
    assert len(statuses) == len(paths)
    assert {native.OK, native.ARTIFACT} <= set(statuses) <= {native.OK, native.CARD, native.ARTIFACT}


def test_threads_with_one_handle_and_with_their_own(sanitized: Path, tiny_exports: Path) -> None:
    engine = tiny_exports / "tiny.xml"
    printed = run(str(sanitized / "tests" / "exercise"), "threads", str(engine), "8", environment=ENVIRONMENT)
    assert printed == "0 of 24 answers differ\n"


def test_one_thread_gives_frames_and_another_takes_windows(sanitized: Path, tiny_exports: Path) -> None:
    engine = tiny_exports / "tiny.xml"
    printed = run(str(sanitized / "tests" / "exercise"), "stream", str(engine), "300", environment=ENVIRONMENT)
    windows, dropped, warnings = map(int, re.findall(r"\d+", printed))
    # 5 s before another size, 2.5 s before a pause and 2.5 s: at 25 a second, of 15 frames each, five apart
    assert windows + dropped == 23 + 10 + 10
    assert warnings == 2


def test_valgrind_finds_nothing(card: Path, tmp_path: Path) -> None:
    """Without sanitizers, which do not go with it."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    build(tmp_path, preset="sanitize", target="mutate_card", I3D_BACKENDS="", I3D_SANITIZE="")
    run(
        "valgrind",
        "--quiet",
        "--leak-check=full",
        "--error-exitcode=9",
        str(tmp_path / "tests" / "mutate_card"),
        str(card),
        "1000",
    )
