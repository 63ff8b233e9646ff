"""Flow out of the cache is the flow that was put, or nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import flow, flow_cache
from i3d_deploy.errors import InputError
from i3d_deploy.flow_cache import FlowCache

KEYS = [f"{number:02x}" + 31 * "5e" for number in range(10)]
KEY = KEYS[0]


def noise(seed: int = 0, height: int = 24, width: int = 32, channels: int = 2) -> NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, (height, width, channels)).astype(np.uint8)


def frame(seed: int = 0, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return noise(seed, height, width, channels=3)


def entry(folder: Path) -> Path:
    """The only file of a cache."""
    (found,) = (path for path in folder.rglob("*") if path.is_file())
    return found


@pytest.mark.parametrize("size", [(24, 32), (1, 1), (31, 45), (256, 340)])
def test_entries_are_exact(tmp_path: Path, size: tuple[int, int]) -> None:
    cache = FlowCache(tmp_path / "cache")
    cache.put(KEYS[0], noise(1, *size))
    cache.put(KEYS[1], noise(2, *size)[::-1, ::-1])
    np.testing.assert_array_equal(cache.get(KEYS[0]), noise(1, *size))
    np.testing.assert_array_equal(FlowCache(tmp_path / "cache").get(KEYS[1]), noise(2, *size)[::-1, ::-1])


def test_what_was_not_put_is_not_there(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "cache")
    assert cache.get(KEYS[0]) is None
    cache.put(KEYS[0], noise())
    assert cache.get(KEYS[1]) is None


def test_all_that_the_flow_depends_on_makes_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = frame(1)
    changed[23, 31, 2] ^= 1
    keys = [
        flow_cache.key(first, second, implementation=implementation)
        for first, second, implementation in (
            (frame(0), frame(1), "a"),
            (frame(1), frame(0), "a"),
            (frame(0), frame(1), "b"),
            (frame(0), changed, "a"),
            (frame(0).reshape(32, 24, 3), frame(1).reshape(32, 24, 3), "a"),
        )
    ]
    monkeypatch.setattr("cv2.__version__", "4.0.0")
    keys.append(flow_cache.key(frame(0), frame(1), implementation="a"))
    assert len(set(keys)) == 6
    assert all(len(key) == 64 for key in keys)


def test_a_key_is_of_what_frames_show_wherever_they_lie() -> None:
    wide = np.zeros((24, 64, 3), np.uint8)
    wide[:, ::2] = frame(0)
    assert flow_cache.key(wide[:, ::2], frame(1), implementation="a") == flow_cache.key(
        frame(0), frame(1), implementation="a"
    )


def test_flow_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = flow.to_uint8(flow.compute(frame(0), frame(1), method="dis"))
    cache = FlowCache(tmp_path)
    first = flow_cache.compute(frame(0), frame(1), method="dis", cache=cache)
    monkeypatch.setattr(flow, "compute", None)
    second = flow_cache.compute(frame(0), frame(1), method="dis", cache=FlowCache(tmp_path))
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)
    with pytest.raises(TypeError, match="not callable"):  # of two other frames it would be computed
        flow_cache.compute(frame(1), frame(0), method="dis", cache=cache)


def test_a_later_entry_takes_the_place_of_a_former_one(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path)
    cache.put(KEY, noise(1))
    cache.put(KEY, noise(2))
    np.testing.assert_array_equal(cache.get(KEY), noise(2))
    assert entry(tmp_path).relative_to(tmp_path) == Path(KEY[:2], f"{KEY[2:]}.png")


@pytest.mark.parametrize("damage", ["empty", "cut off", "changed", "not an entry", "folder"])
def test_a_damaged_entry_is_not_there_and_can_be_put_again(tmp_path: Path, damage: str) -> None:
    cache = FlowCache(tmp_path)
    cache.put(KEY, noise())
    path = entry(tmp_path)
    data = path.read_bytes()
    middle = len(data) // 2
    if damage == "folder":
        path.unlink()
        path.mkdir()
        assert cache.get(KEY) is None
        return
    path.write_bytes(
        {
            "empty": b"",
            "cut off": data[:middle],
            "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "not an entry": b"notes" * 20,
        }[damage]
    )
    assert cache.get(KEY) is None
    cache.put(KEY, noise())
    np.testing.assert_array_equal(cache.get(KEY), noise())


def test_an_interrupted_write_leaves_the_former_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FlowCache(tmp_path)
    cache.put(KEY, noise(1))

    def interrupted(path: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.put(KEY, noise(2))
    np.testing.assert_array_equal(cache.get(KEY), noise(1))
    assert len(list(entry(tmp_path).parent.iterdir())) == 1


def test_many_may_write_at_once(tmp_path: Path) -> None:
    def write() -> None:
        for seed, key in enumerate(KEYS):
            FlowCache(tmp_path).put(key, noise(seed))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, key in enumerate(KEYS):
        np.testing.assert_array_equal(FlowCache(tmp_path).get(key), noise(seed))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="flow is cached in a folder, and this is a file"):
        FlowCache(tmp_path / "file")
    with pytest.raises(
        InputError, match=r"flow must be uint8 of shape \(H, W, 2\), not float32 of shape \(24, 32, 2\)"
    ):
        FlowCache(tmp_path).put(KEY, noise().astype(np.float32))


def test_pairs_are_computed_in_order_and_few_are_asked_for_ahead() -> None:
    asked: list[int] = []

    def pairs() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        for number in range(9):
            asked.append(number)
            yield frame(number), frame(number + 1)

    flows = flow_cache.compute_each(pairs(), method="dis", workers=2)
    first = next(flows)
    assert asked == [0, 1, 2]
    expected = [flow.to_uint8(flow.compute(frame(n), frame(n + 1), method="dis")) for n in range(9)]
    np.testing.assert_array_equal([first, *flows], expected)
