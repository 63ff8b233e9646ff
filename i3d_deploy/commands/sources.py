"""Which videos a command was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from i3d_deploy.errors import VideoError


@dataclass(frozen=True, kw_only=True)
class Found:
    """One video.

    Attributes:
        source: Its path or URL.
        name: Without where it lies: the path from the folder that was given, else the last part of its own.
    """

    source: str
    name: str


def expand(names: Sequence[str]) -> Iterator[Found]:
    """Files, URLs and frame folders as they are; other folders and lists by their contents.

    Raises:
        VideoError: A list is not one of videos.
    """
    from i3d_deploy import video_files
    from i3d_deploy.flow_images import is_flow_folder
    from i3d_deploy.images import is_image_folder

    for name in names:
        path = Path(name)
        if path.suffix == ".txt" and path.is_file():
            yield from expand(_read_list(path))
        elif path.is_dir() and not is_image_folder(path) and not is_flow_folder(path):
            found = video_files.below(path)
            yield from (Found(source=str(entry), name=entry.relative_to(path).as_posix()) for entry in found)
            if not found:  # left to be reported among the others
                yield Found(source=str(path), name=path.resolve().name)
        else:
            yield Found(source=name, name=_last_part(name))


def _last_part(name: str) -> str:
    if "://" in name:
        address = urlsplit(name)
        return PurePosixPath(address.path).name or address.netloc
    path = Path(name)
    return path.name if path.name not in ("", "..") else path.resolve().name


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise VideoError(f"{path}: not a text file with one video a line") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise VideoError(f"{path}: the list is empty, write one video a line")
    if any(name.endswith(".txt") for name in names):
        raise VideoError(f"{path}: a list names videos, not other lists")
    return names
