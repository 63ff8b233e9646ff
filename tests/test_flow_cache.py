"""Flow out of the cache is the flow that was put, or nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import flow_cache
from i3d_deploy.errors import InputError
from i3d_deploy.flow_cache import FlowCache

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEY = flow_cache.key(SHA256, implementation="OpenCV 5.0.0 DISOpticalFlow medium", height=24, width=32)


def noise(seed: int = 0, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 2)).astype(np.uint8)


def entry(folder: Path) -> Path:
    """The only file of a cache."""
    (found,) = (path for path in folder.rglob("*") if path.is_file())
    return found


@pytest.mark.parametrize("size", [(24, 32), (1, 1), (31, 45), (256, 340)])
def test_entries_are_exact(tmp_path: Path, size: tuple[int, int]) -> None:
    cache = FlowCache(tmp_path / "cache")
    cache.put(KEY, 0, noise(1, *size))
    cache.put(KEY, 123456, noise(2, *size)[::-1, ::-1])
    np.testing.assert_array_equal(cache.get(KEY, 0), noise(1, *size))
    np.testing.assert_array_equal(FlowCache(tmp_path / "cache").get(KEY, 123456), noise(2, *size)[::-1, ::-1])


def test_what_was_not_put_is_not_there(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "cache")
    assert cache.get(KEY, 0) is None
    cache.put(KEY, 0, noise())
    assert cache.get(KEY, 1) is None
    assert cache.get(KEY.replace("0", "1"), 0) is None


def test_all_that_the_flow_depends_on_makes_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        flow_cache.key(SHA256, implementation="a", height=24, width=32),
        flow_cache.key(SHA256[::-1], implementation="a", height=24, width=32),
        flow_cache.key(SHA256, implementation="b", height=24, width=32),
        flow_cache.key(SHA256, implementation="a", height=32, width=24),
    }
    monkeypatch.setattr("cv2.__version__", "4.0.0")
    keys.add(flow_cache.key(SHA256, implementation="a", height=24, width=32))
    assert len(keys) == 5
    assert all(len(key) == 64 for key in keys)


def test_a_later_entry_takes_the_place_of_a_former_one(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path)
    cache.put(KEY, 3, noise(1))
    cache.put(KEY, 3, noise(2))
    np.testing.assert_array_equal(cache.get(KEY, 3), noise(2))
    assert entry(tmp_path).name == "00003.png"


@pytest.mark.parametrize("damage", ["empty", "cut off", "changed", "not an entry", "folder"])
def test_a_damaged_entry_is_not_there_and_can_be_put_again(tmp_path: Path, damage: str) -> None:
    cache = FlowCache(tmp_path)
    cache.put(KEY, 0, noise())
    path = entry(tmp_path)
    data = path.read_bytes()
    middle = len(data) // 2
    if damage == "folder":
        path.unlink()
        path.mkdir()
        assert cache.get(KEY, 0) is None
        return
    path.write_bytes(
        {
            "empty": b"",
            "cut off": data[:middle],
            "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "not an entry": b"notes" * 20,
        }[damage]
    )
    assert cache.get(KEY, 0) is None
    cache.put(KEY, 0, noise())
    np.testing.assert_array_equal(cache.get(KEY, 0), noise())


def test_an_interrupted_write_leaves_the_former_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FlowCache(tmp_path)
    cache.put(KEY, 0, noise(1))

    def interrupted(path: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.put(KEY, 0, noise(2))
    np.testing.assert_array_equal(cache.get(KEY, 0), noise(1))
    assert [path.name for path in entry(tmp_path).parent.iterdir()] == ["00000.png"]


def test_many_may_write_at_once(tmp_path: Path) -> None:
    def write() -> None:
        for index in range(10):
            FlowCache(tmp_path).put(KEY, index, noise(index))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(10):
        np.testing.assert_array_equal(FlowCache(tmp_path).get(KEY, index), noise(index))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="flow is cached in a folder, and this is a file"):
        FlowCache(tmp_path / "file")
    with pytest.raises(
        InputError, match=r"flow must be uint8 of shape \(H, W, 2\), not float32 of shape \(24, 32, 2\)"
    ):
        FlowCache(tmp_path).put(KEY, 0, noise().astype(np.float32))
    with pytest.raises(InputError, match=r"index \(-1\) must be >= 0"):
        FlowCache(tmp_path).put(KEY, -1, noise())
