"""Checkpoints: reading what others trained, and the native format.

A foreign file is renamed by one table, its network is recognised from names and shapes, and whatever is missing, left
over or of another shape is an error that lists it. Files are read with ``weights_only``: nothing in them is ever
executed.

The native format is safetensors with the card in its metadata. The ``.pth`` files of a training run carry the card as
well.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from i3d_deploy import __version__, caffe2_files, configurations, files, labels, origins, tensorflow_files
from i3d_deploy.artifact import CARD_KEY
from i3d_deploy.card import Card, Provenance, with_labels
from i3d_deploy.errors import CardError, CheckpointError, InputError, MissingExtraError
from i3d_deploy.network import NETWORKS, Inception, ResNet, TwoStream
from i3d_deploy.origins import ORIGINS, Conventions, Origin, Shape

try:
    import safetensors
    import safetensors.torch
    import torch
    from torch import Tensor

    from i3d_deploy import model
    from i3d_deploy.head import I3D
except ImportError as error:
    raise MissingExtraError(error.name or "torch", extra="export", cause=error) from error

State = dict[str, Tensor]

_COUNTER = "num_batches_tracked"
_NOTHING: dict[str, Any] = {"is_1x": False}
"""What a file that says nothing of itself says."""

_MULTI_LABEL = (
    f"the {origins.CHARADES_CLASSES} classes are taken for those of Charades, of which a video has several: the "
    "network was trained with a sigmoid per class, and probabilities here are a softmax over all of them"
)

PICKLED = (".pth", ".pt", ".pyth", ".ckpt")
"""Endings of files that PyTorch wrote; ``.ckpt`` is TensorFlow's as well."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network with its weights, and the card that says how to use it.

    Attributes:
        model: In eval mode, float32, on the CPU.
        card: Without engine or parity.
        notes: What had to be assumed while reading, one line each.
    """

    model: I3D
    card: Card
    notes: tuple[str, ...] = ()


def load(
    path: Path,
    *,
    network: str | None = None,
    origin: str | None = None,
    label_names: str | tuple[str, ...] | None = None,
    allow_hash_mismatch: bool = False,
) -> Checkpoint:
    """Read a checkpoint of any supported origin.

    Args:
        path: A native ``.safetensors``, a ``.pth`` of a training run, or a foreign file: ``.pth``, ``.pt``, ``.pyth``,
            PyTorch's ``.ckpt``, a Caffe2 ``.pkl``, or TensorFlow's ``.ckpt`` or ``.index``.
        network: Name of the variant where the file leaves it open (embedded_gaussian and dot_product look alike).
        origin: A key of :data:`i3d_deploy.origins.ORIGINS`; default: by the names of the entries.
        label_names: Labels other than the file's: a shipped set or K names.
        allow_hash_mismatch: Read a zoo file whose name promises another SHA-256.

    Raises:
        CheckpointError: It cannot be read, or fits no network; the message lists what is wrong.
        CardError: The card of a native file is missing or malformed.
        InputError: ``network`` or ``label_names`` does not fit.
    """
    if network is not None and network not in NETWORKS:
        raise InputError(f"network {network!r} is not one of {', '.join(NETWORKS)}")
    if origin is not None and origin not in ORIGINS:
        raise InputError(f"origin {origin!r} is not one of {', '.join(ORIGINS)}")
    problem = None if tensorflow_files.is_checkpoint(path) else files.what_is_wrong(path)
    if problem is not None:
        raise CheckpointError(f"{path}: {problem}")
    suffix = path.suffix.lower()
    if suffix in (".onnx", ".xml", ".bin", ".engine"):
        raise CheckpointError(
            f"{path} is an exported engine: give the checkpoint it was made from (.pth, .safetensors ...)"
        )
    if suffix == ".safetensors":
        checkpoint = _load_native(path)
    else:
        checkpoint = _load_foreign(path, network=network, origin=origin, allow_hash_mismatch=allow_hash_mismatch)
    found = checkpoint.card.network.name
    if network not in (None, found):
        raise InputError(f"{path} holds the network {found}, not {network}")
    if label_names is None:
        return checkpoint
    return Checkpoint(
        model=checkpoint.model,
        card=with_labels(checkpoint.card, label_names),
        notes=tuple(note for note in checkpoint.notes if not note.startswith("labels ")),
    )


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the native format: safetensors with the card in the metadata, replaced as a whole."""
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in checkpoint.model.state_dict().items()}
    with files.replacing(path) as (target,):
        safetensors.torch.save_file(state, target, metadata={CARD_KEY: checkpoint.card.to_json()})


def random(name: str, *, seed: int = 0, num_classes: int = 400) -> Checkpoint:
    """Make a checkpoint of seeded random weights, for measuring speed.

    Args:
        name: A key of :data:`i3d_deploy.network.NETWORKS`.
        seed: Any integer; the same seed gives the same weights.
        num_classes: K.
    """
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is not one of {', '.join(NETWORKS)}")
    network = NETWORKS[name](num_classes)
    net = model.build(network)
    model.randomize(net, seed=seed)
    label_set, names = labels.for_count(num_classes)
    card = Card(
        network=network,
        label_set=label_set,
        labels=names,
        **origins.usual_conventions(network).parts,
        provenance=Provenance(origin=f"random weights, seed {seed}", tools={"i3d-deploy": __version__}),
    )
    return Checkpoint(model=net, card=card, notes=("the weights are random: the answers mean nothing",))


def build_from(state: Mapping[str, Tensor], network: ResNet | Inception, origin: Origin) -> I3D:
    """Build a network from a ``state_dict`` with an origin's entry names.

    Args:
        state: Its entries.
        network: The network's numbers.
        origin: Whose names they are.

    Raises:
        CheckpointError: Entries are missing, left over or of another shape; listed by their names in ``state``.
    """
    scope = origins.scope_of(state)
    with torch.device("meta"):
        net = model.build(network)
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    # Files of PyTorch < 0.4.1 have no counters.
    has_counters = any(name.endswith(_COUNTER) for name in state)
    absent = {name: origin.invents(name) for name in wanted}
    if not has_counters:
        absent |= {name: 0 for name in wanted if name.endswith(_COUNTER)}
    entries = {name: scope + origin.entry(name) for name in wanted if absent[name] is None}
    shapes = {entries[name]: origin.shapes(name, wanted[name]) for name in entries}
    _check_entries(network.name, shapes, state)
    made: State = {}
    for name, tensor in net.state_dict().items():
        value = absent[name]
        if value is not None:
            made[name] = torch.full(tensor.shape, value, dtype=tensor.dtype)
            continue
        stored = state[entries[name]]
        if origin.is_channels_last and stored.dim() == 5:
            stored = stored.permute(4, 3, 0, 1, 2)
        made[name] = _aligned(stored.reshape(tensor.shape), tensor.dtype)
    net.load_state_dict(made, assign=True)
    return net


def inflate(state: Mapping[str, Tensor], net: I3D) -> None:
    """Initialise a network from a 2D ResNet with torchvision's entry names, as of ImageNet.

    Every 2D kernel is repeated along time and divided by the number of repeats, so that a still video gives the 2D
    network's activations. The classifier and the non-local blocks keep their weights.

    Args:
        state: A 2D ``state_dict``; ``fc`` is not used.
        net: Changed in place.

    Raises:
        CheckpointError: An entry of the trunk is missing, left over or of another shape.
    """
    target = net.state_dict()
    trunk = {name for name in target if not name.startswith("fc.") and ".non_local." not in name}
    source = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    inflated = {name: _inflate_entry(tensor, target[name]) for name, tensor in source.items() if name in trunk}
    kept = {name: tensor for name, tensor in target.items() if name not in trunk}
    # num_batches_tracked is absent from files of PyTorch < 0.4.1.
    counters = {name: target[name] for name in trunk - inflated.keys() if name.endswith("num_batches_tracked")}
    leftover = {name: tensor for name, tensor in source.items() if name not in trunk}
    state = {**inflated, **counters, **kept, **leftover}
    _check_fit(net, state)
    net.load_state_dict(state)


def initialize(net: I3D, path: Path, *, label_names: tuple[str, ...]) -> str:
    """Give a network that is to be trained the weights of a file.

    Args:
        net: Changed in place.
        path: A 2D ResNet with torchvision's entry names (inflated), or an I3D that :func:`load` reads. The classifier
            is taken over where the file's classes are the network's.
        label_names: The network's classes.

    Returns:
        What was done, in one line.

    Raises:
        CheckpointError: The file cannot be read, or does not fit.
    """
    image_state = _image_network(path)
    if image_state is not None:
        try:
            inflate(image_state, net)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return f"weights of the 2D network {path.name}, inflated; a new classifier"
    # The name tells the two kinds of non-local networks apart, which look alike in mmaction2's files.
    source = load(path, network=net.network.name if net.network.name in NETWORKS else None)
    has_head = source.card.labels == label_names
    state = {
        name: tensor for name, tensor in source.model.state_dict().items() if has_head or not name.startswith("fc.")
    }
    head = {} if has_head else {name: tensor for name, tensor in net.state_dict().items() if name.startswith("fc.")}
    try:
        _check_fit(net, {**state, **head})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    net.load_state_dict({**state, **head})
    head_text = "with its classifier" if has_head else f"a new classifier for {len(label_names)} classes"
    return f"weights of {path.name} ({source.card.network.name}), {head_text}"


def _image_network(path: Path) -> State | None:
    """The entries of a 2D ResNet with torchvision's names; None where a file is something else."""
    is_pickled = path.suffix.lower() in PICKLED and not tensorflow_files.is_checkpoint(path)
    if not is_pickled or files.what_is_wrong(path) is not None:
        return None
    state, _ = _split(read_pickled(path), path)
    stem = state.get("conv1.weight")
    return state if stem is not None and stem.dim() == 4 else None


def _inflate_entry(tensor: Tensor, target: Tensor) -> Tensor:
    if target.dim() != 5 or tensor.dim() != 4:
        return tensor
    frames = target.shape[2]
    return tensor.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames


def _build(network: ResNet | Inception | TwoStream, state: Mapping[str, Tensor]) -> I3D:
    """Build a network around entries with our names; shapes are compared before any memory is taken for it."""
    with torch.device("meta"):
        net = model.build(network)
    _check_fit(net, state)
    copied = {name: _aligned(state[name], tensor.dtype) for name, tensor in net.state_dict().items()}
    net.load_state_dict(copied, assign=True)
    return net


def _aligned(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in aligned memory: the order of sums, and so the last digits, depend on alignment."""
    return tensor.to(dtype).clone(memory_format=torch.contiguous_format)


def _check_fit(net: I3D, state: Mapping[str, Tensor]) -> None:
    """Compare entries with a network's; the first misfits are listed."""
    wanted = {name: (tuple(tensor.shape),) for name, tensor in net.state_dict().items()}
    _check_entries(net.network.name, wanted, state)


def _check_entries(name: str, wanted: Mapping[str, tuple[Shape, ...]], state: Mapping[str, Tensor]) -> None:
    """Compare entries with the shapes that each may have; the first misfits are listed."""
    problems = [f"missing {entry}" for entry in wanted if entry not in state]
    problems += [f"left over {entry}" for entry in state if entry not in wanted]
    problems += [
        f"{entry} has shape {list(tensor.shape)} instead of {list(wanted[entry][0])}"
        for entry, tensor in state.items()
        if entry in wanted and tuple(tensor.shape) not in wanted[entry]
    ]
    if problems:
        listed = "; ".join(problems[:12]) + (f"; and {len(problems) - 12} more" if len(problems) > 12 else "")
        raise CheckpointError(f"the weights do not fit {name}: {listed}")


def _load_native(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            text = (archive.metadata() or {}).get(CARD_KEY)
            state = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no mapping
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error
    if text is None:
        raise CardError(f"{path} carries no card: it was not written by i3d-deploy")
    card = Card.from_json(text, where=str(path))
    try:
        net = _build(card.network, state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(model=net, card=card)


class _Inert:
    """Stands for whatever a file holds besides tensors and plain values, and takes any arguments and state."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# NumPy's arrays and scalars (NumPy 1 says "core", 2 "_core"), and the history that 1.x files carry in message_hub.
# Their contents are never used, so none of their code is admitted.
_INERT_NAMES = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
    "mmengine.logging.history_buffer.HistoryBuffer",
)


def _unpickle(path: Path) -> Any:
    with torch.serialization.safe_globals([(_Inert, name) for name in _INERT_NAMES]):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_pickled(path: Path) -> dict[Any, Any]:
    """Read a ``.pth`` without running code from it.

    Raises:
        CheckpointError: It is no PyTorch checkpoint, is damaged, or needs pickled code.
    """
    try:
        document = _unpickle(path)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed is None:
            raise CheckpointError(f"{path}: not a PyTorch checkpoint") from error
        raise CheckpointError(
            f"{path}: refused, it needs the pickled code {needed[1]}; only tensors and plain values are read: "
            "where you trust its author, load it with torch.load and save its state_dict alone"
        ) from error
    except Exception as error:  # random bytes make the unpickler fail in every way
        raise CheckpointError(f"{path}: not a PyTorch checkpoint, or a damaged one{_reason(error)}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: holds a {type(document).__name__} instead of a checkpoint's dictionary")
    return document


def _reason(error: Exception) -> str:
    """What PyTorch or the system says of a file; nothing of what else may stumble over its bytes."""
    text = str(error).partition("\n")[0].partition(". ")[0]
    return f": {text}" if isinstance(error, (RuntimeError, OSError)) and " " in text else ""


def _from_training(document: dict[Any, Any], path: Path) -> Checkpoint:
    """A checkpoint of a training run: the averaged weights where the run kept an average."""
    card = Card.from_json(document[CARD_KEY], where=str(path))
    state = document.get("ema") or document.get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: has no state_dict; its entries are {_some(document)}")
    try:
        return Checkpoint(model=_build(card.network, state), card=card)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _load_foreign(path: Path, *, network: str | None, origin: str | None, allow_hash_mismatch: bool) -> Checkpoint:
    """Read a file without card, or one of a training run."""
    if tensorflow_files.is_checkpoint(path):
        arrays, meta, digest = tensorflow_files.read(path), _NOTHING, tensorflow_files.sha256(path)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    elif path.suffix.lower() == ".pkl":
        blobs, meta, digest = caffe2_files.read(path), _NOTHING, files.sha256(path)
        state = {name: torch.from_numpy(array) for name, array in blobs.items()}
    else:
        digest = files.sha256(path)
        _check_published_hash(path, digest, allow=allow_hash_mismatch)
        document = read_pickled(path)
        if isinstance(document.get(CARD_KEY), str):
            return _from_training(document, path)
        state, meta = _split(document, path)
    asked = None if origin is None else ORIGINS[origin]
    wrapper = origins.wrapped_in(state, asked)
    state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    found = asked or origins.recognise(state)
    if found is None:
        titles = ", ".join(each.title for each in ORIGINS.values())
        raise CheckpointError(
            f"{path}: not an I3D of {titles}: its entries are {_some(state)}; --origin says whose names they are"
        )
    state = {name: tensor for name, tensor in state.items() if not found.ignored.match(name)}
    numbers = _recognise(state, found, meta=meta, path=path, asked=network)
    conventions, numbers = _by_configuration(found.conventions(numbers), numbers, origin=found, meta=meta, path=path)
    try:
        net = build_from(state, numbers, found)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    checkpoint = _with_card(net, found, conventions, meta=meta, digest=digest)
    if not wrapper:
        return checkpoint
    return replace(checkpoint, notes=(*checkpoint.notes, f"entries are read without their prefix {wrapper!r}"))


def _check_published_hash(path: Path, digest: str, *, allow: bool) -> None:
    """Zoo files end in their date and the first 8 digits of their SHA-256."""
    match = re.search(r"_20\d{6}-([0-9a-f]{8})$", path.stem)
    if match and not digest.startswith(match[1]) and not allow:
        raise CheckpointError(
            f"{path}: the name promises a SHA-256 of {match[1]}..., the file has {digest[:8]}...: "
            "download it again, or export it with i3d-export --allow-hash-mismatch"
        )


def _split(document: dict[Any, Any], path: Path) -> tuple[State, dict[str, Any]]:
    """Part the entries of the network from the rest of the file."""
    state = document.get("state_dict", document.get("model_state", document))
    meta = document.get("meta")
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: has no state_dict with tensors; its entries are {_some(document)}")
    tensors = {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    about = dict(meta) if isinstance(meta, dict) else {}
    about["is_1x"] = "message_hub" in document or "mmengine_version" in about
    if isinstance(document.get("cfg"), str):  # SlowFast
        about["cfg"] = document["cfg"]
    return tensors, about


def _some(names: Mapping[Any, Any]) -> str:
    shown = ", ".join(str(name) for name in list(names)[:4])
    return shown + (", ..." if len(names) > 4 else "") if shown else "none"


def _config_text(meta: Mapping[str, Any]) -> str:
    """The training configuration that the file stores: mmaction2 0.x as "config", 1.x and SlowFast as "cfg"."""
    return "\n".join(str(meta[key]) for key in ("config", "cfg", "config_name") if key in meta)


def _recognise(
    state: State, origin: Origin, *, meta: Mapping[str, Any], path: Path, asked: str | None
) -> ResNet | Inception:
    """Find the variant from entry names and shapes, and from the file's own words where they leave it open."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    scope = origins.scope_of(state)
    num_classes = origins.num_classes(origin, shapes, scope=scope)
    if asked is not None:
        return NETWORKS[asked](num_classes)
    for words in (_config_text(meta), path.name):
        name = origins.find_network(origin, shapes, scope=scope, words=words)
        if name is not None:
            return NETWORKS[name](num_classes)
    form = "i3d_r50_nl_{}" if origin.name == "mmaction2" else "i3d_r50_8x8_nl_{}_slowfast"
    raise CheckpointError(
        f"{path}: the weights fit {form.format('embedded_gaussian')} and {form.format('dot_product')} alike: "
        "say which with i3d-export --model"
    )


def _by_configuration(
    zoo: Conventions, network: ResNet | Inception, *, origin: Origin, meta: Mapping[str, Any], path: Path
) -> tuple[Conventions, ResNet | Inception]:
    """How a file's own configuration has it tested; the zoo's way where it has none."""
    try:
        if origin.name == "mmaction2":
            is_dense = "_dense_" in path.name
            text = _config_text(meta)
            return configurations.mmaction2(zoo, text, is_1x=meta["is_1x"], is_dense=is_dense), network
        if origin.name == "slowfast" and isinstance(network, ResNet):
            return configurations.slowfast(zoo, network, str(meta.get("cfg", "")))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return zoo, network


def _with_card(
    net: I3D, origin: Origin, conventions: Conventions, *, meta: Mapping[str, Any], digest: str
) -> Checkpoint:
    network = net.network
    label_set, names = labels.for_count(network.num_classes)
    notes: tuple[str, ...] = (
        f"sampling assumed: {conventions.text}",
        f"labels assumed: {label_set}, because the network has {network.num_classes} classes; --labels gives others",
    )
    if origin.name == "caffe2" and "_nl_" in network.name:
        notes += ("non-local blocks assumed: softmax, as in SlowFast's published ones; --model says otherwise",)
    if conventions.flow_method is not None:
        notes += (
            f"flow assumed: by {conventions.flow_method}, about a second a frame; --flow-method dis is another method, "
            "many times as fast",
        )
    if origin is origins.PYTORCH_I3D and network.num_classes == origins.CHARADES_CLASSES:
        notes += (_MULTI_LABEL,)
    classes = _stored_classes(meta)
    if len(classes) == network.num_classes:
        label_set, names = "custom", classes
        notes = tuple(note for note in notes if not note.startswith("labels "))
    card = Card(
        network=network,
        label_set=label_set,
        labels=names,
        **conventions.parts,
        provenance=Provenance(origin=origin.name, sha256=digest, tools={"i3d-deploy": __version__}),
    )
    return Checkpoint(model=net, card=card, notes=notes)


def _stored_classes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names of the data set, which some 1.x files carry."""
    about = meta.get("dataset_meta")
    classes = about.get("classes", about.get("CLASSES")) if isinstance(about, dict) else None
    if not isinstance(classes, (list, tuple)):
        return ()
    return tuple(str(name) for name in classes)
