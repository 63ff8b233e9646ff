"""Text form of protobuf messages, read by protobuf itself."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from i3d_deploy.protobuf_text import Word, to_text


def test_every_kind_of_field_is_read_back() -> None:
    text = to_text(
        {
            "name": "a",
            "max_batch_size": 3,
            "input": [
                {"name": "x", "data_type": Word("TYPE_UINT8"), "dims": [-1, 3], "optional": True},
                {"name": "y", "optional": False},
            ],
            "dynamic_batching": {"preferred_batch_size": (8, 30)},
            "version_policy": {"latest": {}},
        },
        comment="One line.\n\nAnother.",
    )
    assert text.startswith('# One line.\n#\n# Another.\nname: "a"\n')
    config = text_format.Parse(text, ModelConfig())
    first, second = config.input
    assert (config.name, config.max_batch_size) == ("a", 3)
    assert (first.name, first.data_type, list(first.dims), first.optional) == ("x", 2, [-1, 3], True)
    assert (second.name, second.data_type, second.optional) == ("y", 0, False)
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 30]
    assert config.version_policy.HasField("latest")


def test_strings_are_escaped() -> None:
    strange = 'a "b" \\ größer\n\t\x01 視'
    assert text_format.Parse(to_text({"name": strange}), ModelConfig()).name == strange
