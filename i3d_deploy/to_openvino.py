"""From an ONNX graph to OpenVINO's files.

The graph is always the float32 one. OpenVINO chooses the type of its computation when it compiles: the card's precision
becomes its ``INFERENCE_PRECISION_HINT``. An fp16 export also stores its weights in half the size.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i3d_deploy import files
from i3d_deploy.artifact import CARD_KEY
from i3d_deploy.card import Card
from i3d_deploy.errors import ExportError
from i3d_deploy.openvino_core import CORE, openvino

if TYPE_CHECKING:
    import onnx


def convert(graph: onnx.ModelProto) -> Any:
    """Read a float32 ONNX graph into an ``openvino.Model``.

    Raises:
        ExportError: OpenVINO cannot read it.
    """
    try:
        return CORE.read_model(graph.SerializeToString())
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read the graph: {str(error).partition(chr(10))[0]}") from error


def rewrite(card: Card, path: Path) -> None:
    """Give files that exist another card.

    Args:
        card: The new card.
        path: The ``.xml`` file; the weights beside it stay.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # A model reads its weights from the file until it is freed, so it is not written over itself.
        copies = [Path(shutil.copy2(source, scratch)) for source in (path, path.with_suffix(".bin"))]
        model = CORE.read_model(copies[0])
        model.set_rt_info(card.to_json(), [CARD_KEY])
        with files.replacing(path.with_suffix(".bin"), path) as (_, xml):
            # The stored types stay: an fp16 file holds fp16 already.
            openvino.save_model(model, xml, compress_to_fp16=False)


def write(model: Any, card: Card, path: Path) -> None:
    """Write the ``.xml`` with its card and the ``.bin`` beside it.

    Args:
        model: From :func:`convert`.
        card: With engine and, once measured, parity.
        path: The ``.xml`` file.
    """
    assert card.engine is not None
    model.set_rt_info(card.to_json(), [CARD_KEY])
    # The .xml goes last: without it the weights alone are no artifact.
    with files.replacing(path.with_suffix(".bin"), path) as (_, xml):
        openvino.save_model(model, xml, compress_to_fp16=card.engine.precision == "fp16")
