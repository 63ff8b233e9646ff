"""Protobuf messages in their text form, such as Triton's ``config.pbtxt``, from dictionaries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Message = Mapping[str, Any]
"""Fields by name: a string, :class:`Word`, integer, boolean or message, or of a repeated field a sequence of these."""


class Word(str):
    """A name of an enumeration, which stands without quotes."""


def to_text(message: Message, *, comment: str = "") -> str:
    """Write a message.

    Args:
        message: Its fields, in the order in which they are written.
        comment: Goes before it, a ``#`` before each line.
    """
    head = [f"# {line}".rstrip() for line in comment.splitlines()]
    return "\n".join((*head, *_fields(message))) + "\n"


def _fields(message: Message) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield from _block(name, value)
        elif isinstance(value, str | int):
            yield f"{name}: {_scalar(value)}"
        elif all(isinstance(item, str | int) for item in value):
            yield f"{name}: [{', '.join(_scalar(item) for item in value)}]"
        else:
            for item in value:
                yield from _block(name, item)


def _block(name: str, message: Message) -> Iterator[str]:
    yield f"{name} {{"
    yield from (f"  {line}" for line in _fields(message))
    yield "}"


def _scalar(value: str | int) -> str:
    if isinstance(value, Word):
        return value
    # The escapes of JSON are among those of protobuf; True and False are written as JSON's.
    return json.dumps(value, ensure_ascii=False)
