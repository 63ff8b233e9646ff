"""Model repositories for Triton: what is in them, read as Triton reads it, and how they are written."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_UINT8, ModelConfig, ModelInstanceGroup

from i3d_deploy import artifact, builders, checkpoint, export, limits, to_tensorrt, triton_repository
from i3d_deploy.card import Card, Engine, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.commands import export as command
from i3d_deploy.commands import predict, verify
from i3d_deploy.errors import InputError
from i3d_deploy.preprocessing import Spatial
from i3d_deploy.to_tensorrt import Plan
from i3d_deploy.triton_repository import Serving
from tests.commands.test_commands import assert_one_line, run
from tests.test_whole import small

CPU, GPU = ModelInstanceGroup.KIND_CPU, ModelInstanceGroup.KIND_GPU
LABELS = ["run", "jump", 'say "hi"', "<wave> & go", "größer", "f", "g"]


def config_of(repository: Path, model: str) -> ModelConfig:
    """Read a configuration as Triton does."""
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), ModelConfig())


def files_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its place."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_stub(card: Card, path: Path) -> None:
    """Stands for an engine where only what is around it matters."""
    path.write_text(card.to_json())


def written(folder: Path, card: Card, serving: Serving | None = None, **engine: Any) -> ModelConfig:
    """The engine's configuration in a repository without a real engine."""
    card = card.replaced(engine=Engine(**engine))
    triton_repository.write(write_stub, serving or Serving(), card, folder / "i3d_triton")
    return config_of(folder / "i3d_triton", "i3d")


@pytest.fixture(scope="module")
def repository(tiny_exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX repository, proven; ``i3d.onnx`` beside it is of the same run."""
    output = tmp_path_factory.mktemp("triton")
    source = tiny_exports / "tiny.safetensors"
    made = run(command.main, source, "--to", "triton", "--to", "onnx", "--output", output, "--name", "i3d")
    assert made.exit_code == 0, made.output
    assert f"{output / 'i3d_triton'}  0." in made.stdout
    assert made.stdout.count("passed") == 2
    return output / "i3d_triton"


def test_the_layout_is_that_of_a_model_repository(repository: Path) -> None:
    assert list(files_of(repository)) == [
        "i3d/1/card.json",
        "i3d/1/model.onnx",
        "i3d/config.pbtxt",
        "i3d/labels.txt",
        "i3d_preprocess/1/card.json",
        "i3d_preprocess/1/model.py",
        "i3d_preprocess/config.pbtxt",
        "i3d_video/1/card.json",
        "i3d_video/1/model.py",
        "i3d_video/config.pbtxt",
        "i3d_video/labels.txt",
    ]
    for model in ("i3d", "i3d_video"):
        assert (repository / model / "labels.txt").read_text().splitlines() == LABELS


def test_the_card_is_that_of_the_engine(repository: Path) -> None:
    card = artifact.read_card(repository / "i3d" / "1" / "model.onnx")
    assert card.parity[0].status == "passed"
    for model in ("i3d", "i3d_preprocess", "i3d_video"):
        text = (repository / model / "1" / "card.json").read_text()
        assert Card.from_json(text, where=model) == card


def test_the_engine_is_configured_from_the_card(repository: Path) -> None:
    config = config_of(repository, "i3d")
    (frames,), (logits,), (group,), (warmup,) = config.input, config.output, config.instance_group, config.model_warmup
    assert (config.name, config.backend, config.max_batch_size) == ("i3d", "onnxruntime", 30)
    assert (frames.name, frames.data_type, list(frames.dims)) == ("frames", TYPE_UINT8, [8, 32, 32, 3])
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", TYPE_FP32, [7])
    assert logits.label_filename == "labels.txt"
    assert list(config.dynamic_batching.preferred_batch_size) == [30]
    assert (group.kind, group.count) == (CPU, 1)
    assert (warmup.batch_size, list(warmup.inputs["frames"].dims)) == (1, [8, 32, 32, 3])
    assert (warmup.inputs["frames"].data_type, warmup.inputs["frames"].random_data) == (TYPE_UINT8, True)


@pytest.mark.parametrize("model", ["i3d_preprocess", "i3d_video"])
def test_whole_videos_are_taken(repository: Path, model: str) -> None:
    config = config_of(repository, model)
    by_name = {tensor.name: tensor for tensor in config.input}
    assert (config.name, config.backend, config.max_batch_size) == (model, "python", 0)
    assert (by_name["video"].data_type, list(by_name["video"].dims)) == (TYPE_UINT8, [-1, -1, -1, 3])
    assert {name for name, tensor in by_name.items() if tensor.optional} == {"frames_per_second", "clips", "crops"}
    assert [group.kind for group in config.instance_group] == [CPU]


def test_the_outputs_of_videos_are_views_and_labelled_probabilities(repository: Path) -> None:
    views, texts = config_of(repository, "i3d_preprocess").output
    assert (views.name, views.data_type, list(views.dims)) == ("frames", TYPE_UINT8, [-1, 8, 32, 32, 3])
    probabilities, logits, _ = config_of(repository, "i3d_video").output
    assert (probabilities.name, list(probabilities.dims)) == ("probabilities", [7])
    assert probabilities.label_filename == "labels.txt"
    assert (logits.name, list(logits.dims), texts.name) == ("logits", [-1, 7], "warnings")


@pytest.mark.parametrize(
    ("profile", "max_batch_size", "preferred"),
    [((1, 30, 30), 30, [30]), ((1, 8, 30), 30, [8, 30]), ((1, 1, 4), 4, [4]), ((1, 1, 1), 1, [])],
)
def test_batches_follow_the_profile(
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    profile: tuple[int, int, int],
    max_batch_size: int,
    preferred: list[int],
) -> None:
    config = written(tmp_path, tiny_checkpoint.card, profile=profile)
    assert config.max_batch_size == max_batch_size
    assert config.HasField("dynamic_batching")
    assert list(config.dynamic_batching.preferred_batch_size) == preferred


def test_a_gpu_gets_larger_requests_and_no_tf32(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = written(tmp_path, tiny_checkpoint.card, Serving(device="gpu", instances=2), profile=(1, 8, 30))
    (group,), (warmup,) = config.instance_group, config.model_warmup
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (group.kind, group.count, warmup.batch_size) == (GPU, 2, 8)
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})
    video = config_of(tmp_path / "i3d_triton", "i3d_video")
    assert video.parameters["views_per_request"].string_value == "8"
    assert [(group.kind, group.count) for group in video.instance_group] == [(CPU, 2)]


def test_floats_are_taken_as_the_engine_wants_them(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = written(tmp_path, tiny_checkpoint.card, input="float32_ncthw")
    (frames,) = config.input
    assert (frames.data_type, list(frames.dims)) == (TYPE_FP32, [3, 8, 32, 32])
    views = config_of(tmp_path / "i3d_triton", "i3d_preprocess").output[0]
    assert (views.data_type, list(views.dims)) == (TYPE_FP32, [-1, 3, 8, 32, 32])


def test_whole_videos_have_an_open_length(tmp_path: Path) -> None:
    card = small("i3d_inception_rgb", Spatial(short_side=36, crop_size=33, num_crops=1)).card
    config = written(tmp_path, card)
    assert list(config.input[0].dims) == [-1, 33, 33, 3]
    assert list(config.model_warmup[0].inputs["frames"].dims) == [card.sampling.clip_len, 33, 33, 3]


def test_openvino_batches_within_a_request(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    serving = Serving(backend="openvino")
    config = written(tmp_path, tiny_checkpoint.card, serving, precision="bf16")
    assert (config.backend, config.max_batch_size, config.HasField("dynamic_batching")) == ("openvino", 0, False)
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([-1, 8, 32, 32, 3], [-1, 7])
    assert list(config.model_warmup[0].inputs["frames"].dims) == [1, 8, 32, 32, 3]
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters == {"HINT_BF16": "YES", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}


@pytest.mark.parametrize(("precision", "is_told"), [("fp32", True), ("fp16", True), ("bf16", False)])
def test_openvino_in_triton_says_what_it_computes_in(
    tiny_checkpoint: Checkpoint, precision: str, is_told: bool
) -> None:
    card = tiny_checkpoint.card.replaced(engine=Engine.model_validate({"precision": precision}))
    notes = triton_repository.notes(card, Serving(backend="openvino"))
    assert [f"cannot be told to compute in {precision}" in note for note in notes] == [True] * is_told


def test_a_plan_has_its_card_beside_it(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    # A plan is built on the GPU that will run it; here is what is around it.
    plan = Plan(content=b"plan", flavor="tensorrt", version="10.14.1", compute_capability="9.0")
    card = tiny_checkpoint.card.replaced(engine=Engine(profile=(2, 8, 30)))
    serving = Serving(backend="tensorrt")
    folder = tmp_path / "i3d_triton"
    triton_repository.write(lambda card, path: to_tensorrt.write(plan, card, path), serving, card, folder)
    assert [path.name for path in sorted((folder / "i3d" / "1").iterdir())] == [
        "card.json",
        "model.plan",
        "model.plan.json",
    ]
    assert artifact.read_card(folder / "i3d" / "1" / "model.plan") == card
    config = config_of(folder, "i3d")
    assert (config.backend, config.max_batch_size) == ("tensorrt", 30)
    assert (config.instance_group[0].kind, config.model_warmup[0].batch_size) == (GPU, 8)


@pytest.mark.parametrize(
    ("choice", "part"),
    [
        ({"backend": "openvino", "device": "gpu"}, "OpenVINO backend runs on CPUs"),
        ({"backend": "tensorrt", "device": "cpu"}, "TensorRT runs on GPUs"),
        ({"instances": 0}, "instances (0) must be > 0"),
    ],
)
def test_what_a_server_cannot_do_is_refused(choice: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as refused:
        Serving(**choice)
    assert part in str(refused.value)


def test_two_exports_are_byte_identical_and_know_no_place(tiny_exports: Path, repository: Path, tmp_path: Path) -> None:
    source = checkpoint.load(tiny_exports / "tiny.safetensors")
    export.export(source, targets=[], serving=Serving(), output=tmp_path, name="i3d")
    assert files_of(tmp_path / "i3d_triton") == files_of(repository)
    for path in files_of(repository):
        content = (repository / path).read_bytes()
        assert str(tmp_path.parents[1]).encode() not in content, path


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """An earlier repository, where the test writes."""
    return shutil.copytree(repository, tmp_path / repository.name)


def test_an_earlier_repository_is_replaced_whole(tiny_checkpoint: Checkpoint, copy: Path, tmp_path: Path) -> None:
    (copy / "i3d_video" / "1" / "__pycache__").mkdir()
    (copy / "i3d_video" / "1" / "__pycache__" / "model.pyc").touch()
    written(tmp_path, tiny_checkpoint.card, Serving(backend="openvino"))
    assert sorted(path.name for path in (copy / "i3d" / "1").iterdir()) == ["card.json", "model.xml"]
    assert not (copy / "i3d_video" / "1" / "__pycache__").exists()
    assert list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize(
    ("origin", "sha256", "of_now"),
    [
        ("mmaction2", "1" * 64, "mmaction2, SHA-256 11111111..."),
        ("random weights, seed 4", None, "random weights, seed 4, file not recorded"),
        ("i3d-deploy training", None, "i3d-deploy training, file not recorded"),
    ],
    ids=["another origin", "another seed", "trained"],
)
def test_a_repository_of_another_checkpoint_is_replaced_only_when_asked(
    tiny_checkpoint: Checkpoint, copy: Path, origin: str, sha256: str | None, of_now: str
) -> None:
    before = files_of(copy)
    other = tiny_checkpoint.card.replaced(provenance=Provenance(origin=origin, sha256=sha256), engine=Engine())
    with pytest.raises(InputError) as refused:
        triton_repository.write(write_stub, Serving(), other, copy)
    assert str(refused.value) == (
        f"{copy} is of tiny (random weights, seed 3, file not recorded), and this is tiny ({of_now}): "
        "give another --name or --output, or --overwrite"
    )
    assert files_of(copy) == before
    triton_repository.write(write_stub, Serving(), other, copy, overwrite=True)
    assert Card.from_json((copy / "i3d" / "1" / "model.onnx").read_text(), where="the stub") == other


def test_training_runs_are_not_taken_for_one_another(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    # Their cards do not say of which weights they are.
    card = tiny_checkpoint.card.replaced(provenance=Provenance(origin="i3d-deploy training"))
    written(tmp_path, card)
    with pytest.raises(InputError, match=r"i3d_triton is of tiny \(i3d-deploy training, file not recorded\)"):
        written(tmp_path, card)


@pytest.mark.parametrize("overwrite", [False, True], ids=["unasked", "asked"])
@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda card: card.unlink(), "i3d/1/card.json: no such file"),
        (lambda card: card.write_text("{}"), "the card of i3d/1/card.json has no version number"),
    ],
    ids=["without", "strange"],
)
def test_a_repository_of_others_is_never_replaced(
    tiny_checkpoint: Checkpoint, copy: Path, damage: Callable[[Path], Any], part: str, overwrite: bool
) -> None:
    # Every file has a name that is written here, as one that was made by hand may have.
    damage(copy / "i3d" / "1" / "card.json")
    before = files_of(copy)
    card = tiny_checkpoint.card.replaced(engine=Engine())
    with pytest.raises(InputError, match=f"i3d_triton was not written by i3d-export: {part}.*; move it away"):
        triton_repository.write(write_stub, Serving(), card, copy, overwrite=overwrite)
    assert files_of(copy) == before


def test_a_link_in_a_repository_is_not_lost(tiny_checkpoint: Checkpoint, copy: Path, tmp_path: Path) -> None:
    (copy / "more").symlink_to(tmp_path)
    with pytest.raises(InputError, match="i3d_triton holds more, which is not part"):
        triton_repository.check(copy, tiny_checkpoint.card)


def test_a_failure_leaves_the_earlier_repository(tiny_checkpoint: Checkpoint, copy: Path, tmp_path: Path) -> None:
    before = files_of(copy)

    def fail(card: Card, path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    card = tiny_checkpoint.card.replaced(engine=Engine())
    with pytest.raises(KeyboardInterrupt):
        triton_repository.write(fail, Serving(), card, copy)
    assert files_of(copy) == before
    assert list(tmp_path.iterdir()) == [copy]


OF_A_GPU: dict[str, Any] = {"engine": Engine(precision="fp16"), "serving": Serving(device="gpu")}
"""Built in both layouts."""


@pytest.mark.parametrize("stranger", ["other/config.pbtxt", "i3d/2/model.onnx", "notes.txt"])
@pytest.mark.parametrize("ending", ["_triton", "_triton.failed", "_2d_triton", "_2d_triton.failed"])
def test_what_is_not_ours_is_never_lost(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, stranger: str
) -> None:
    path = tmp_path / f"i3d{ending}" / stranger
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    monkeypatch.setattr(builders.Builders, "build_repository", None)  # it is told before
    with pytest.raises(InputError, match=f"i3d{ending} holds {stranger}, which is not part"):
        export.export(tiny_checkpoint, targets=[], **OF_A_GPU, output=tmp_path, name="i3d")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("ending", ["_triton", "_2d_triton.failed"])
def test_a_file_in_the_place_of_a_repository_is_told_before(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    (tmp_path / f"i3d{ending}").write_text("mine")
    monkeypatch.setattr(builders.Builders, "build_repository", None)
    with pytest.raises(InputError, match=f"i3d{ending} is a file: move it away"):
        export.export(tiny_checkpoint, targets=[], **OF_A_GPU, output=tmp_path, name="i3d")


def test_a_name_that_no_server_takes_is_refused(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name 'an i3d' becomes part of addresses"):
        export.export(tiny_checkpoint, targets=[], serving=Serving(), output=tmp_path / "out", name="an i3d")
    assert not (tmp_path / "out").exists()


def test_plans_of_rtx_are_refused(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = to_tensorrt.EngineOptions(flavor="tensorrt_rtx")
    with pytest.raises(InputError, match="Triton runs plans of tensorrt, not of tensorrt_rtx"):
        export.export(
            tiny_checkpoint,
            targets=[],
            serving=Serving(backend="tensorrt"),
            tensorrt=options,
            output=tmp_path,
            name="i3d",
        )


def test_what_the_device_cannot_run_is_refused(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    bf16 = Engine(precision="bf16")
    with pytest.raises(InputError, match="cannot run bf16 on a CPU: give --triton-device gpu"):
        export.export(tiny_checkpoint, targets=[], serving=Serving(), engine=bf16, output=tmp_path / "out", name="i3d")
    assert not (tmp_path / "out").exists()


def test_both_layouts_are_made_where_only_a_gpu_can_tell(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    made = builders.Builders(
        tiny_checkpoint,
        engine=Engine(precision="fp16"),
        calibrate=None,
        optimization=builders.Optimization(),
        tensorrt=to_tensorrt.EngineOptions(),
        on_step=lambda text: None,
    ).build_repository(Serving(device="gpu"))
    assert [built.ending for built in made] == ["_triton", "_2d_triton"]
    assert made[1].runs(tmp_path / "i3d_2d_triton") == tmp_path / "i3d_2d_triton" / "i3d_2d" / "1" / "model.onnx"


@pytest.fixture
def other(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A repository of another checkpoint, where the test writes."""
    written(tmp_path, tiny_checkpoint.card.replaced(provenance=Provenance(origin="mmaction2", sha256="1" * 64)))
    return tmp_path / "i3d_triton"


class TestCommand:
    """``i3d-export --to triton``, and the other commands on the engine inside."""

    def test_the_engine_inside_is_one_like_any_other(self, tiny_exports: Path, repository: Path, clip: Path) -> None:
        engine = repository / "i3d" / "1" / "model.onnx"
        assert engine.read_bytes() == repository.with_name("i3d.onnx").read_bytes()
        assert run(command.main, "--describe", engine).exit_code == 0
        assert run(predict.main, engine, clip).stdout.count("\n") >= 5
        verified = run(verify.main, engine, "--against", tiny_exports / "tiny.safetensors", clip)
        assert (verified.exit_code, verified.stdout.count("passed")) == (0, 1), verified.output

    def test_another_checkpoint_is_told_before_the_long_steps(
        self, tiny_exports: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(builders.Builders, "build_repository", None)
        options = ["--to", "triton", "--output", str(tmp_path), "--name", "i3d"]
        refused = run(command.main, tiny_exports / "tiny.safetensors", *options)
        assert_one_line(refused, f"{other} is of tiny (mmaction2, SHA-256 11111111...)", "or --overwrite")

    def test_openvino_is_told_to_differ(self, tiny_exports: Path, other: Path, tmp_path: Path) -> None:
        options = ["--to", "triton", "--triton-backend", "openvino", "--triton-instances", "3", "--overwrite"]
        made = run(command.main, tiny_exports / "tiny.safetensors", *options, "--output", tmp_path, "--name", "i3d")
        assert made.exit_code == 0, made.output
        assert "Note: i3d_triton: Triton's OpenVINO backend cannot be told to compute in fp32" in made.stderr
        config = config_of(other, "i3d")
        assert config.instance_group[0].count == 3
        assert config.parameters["NUM_STREAMS"].string_value == "3"

    def test_a_failed_proof_is_kept_aside(
        self, tiny_exports: Path, repository: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(limits.NON_LOCAL_LIMITS, "dot_product", 0.0)
        monkeypatch.setitem(limits.LOGITS_LIMITS, "fp32", 1e-12)
        options = ["--to", "triton", "--output", str(tmp_path), "--name", "i3d"]
        failed = run(command.main, tiny_exports / "tiny.safetensors", *options)
        assert failed.exit_code == 1
        assert "i3d_triton, which was there before, is left as it was" in failed.stderr
        assert files_of(copy) == files_of(repository)
        kept = artifact.read_card(tmp_path / "i3d_triton.failed" / "i3d" / "1" / "model.onnx")
        assert kept.parity[0].status == "failed"

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (["--to", "onnx", "--triton-backend", "openvino"], "are for --to triton: give it"),
            (["--to", "onnx", "--overwrite"], "--overwrite is for --to triton: files are replaced in any case"),
            (["--to", "triton", "--flow", "y.pth"], "serves one network"),
            (["--to", "triton", "--triton-instances", "0"], "0 is not in the range"),
        ],
    )
    def test_misuse_is_explained(self, arguments: list[str], part: str) -> None:
        assert_one_line(run(command.main, "x.pth", *arguments), part, code=2)
