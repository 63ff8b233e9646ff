"""Checked documents: what the parts of cards, recipes and benchmark records have in common.

They are pydantic models because they are read from files that strangers made: every field is checked, an unknown one is
refused, and errors name the field.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from i3d_deploy.errors import InputError

Count = Annotated[int, Field(ge=1, le=65536)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Part(BaseModel):
    """A checked, immutable piece of a document: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values, checked as a new one is.

        Raises:
            InputError: A value is out of range.
        """
        try:
            return self.model_validate({**dict(self), **changes})
        except ValidationError as error:
            raise InputError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """What is wrong with a document, in one line: the first field at fault and why."""
    first = error.errors()[0]
    # The kind of a network is no field of the document.
    field = re.sub(
        r"\bnetwork\.(resnet|inception|two-stream)\b", "network", ".".join(str(part) for part in first["loc"])
    )
    message = first["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
