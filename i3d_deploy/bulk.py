"""Predicting more videos than one process can: Ray Data, with an actor for each GPU or group of cores.

The same call runs on a laptop, where it starts a Ray of its own, and on a cluster (RAY_ADDRESS). There every node has
i3d-deploy installed, and sees the artifact and the videos under the same paths, such as on shared storage; whether
it is the same artifact is checked. The table is written by the process that calls, a row as soon as it arrives.

Ray may say that an actor "has constructor arguments in the object store" which could be lost: the process that calls
keeps them as long as it runs (https://github.com/ray-project/ray/issues/53727).

Note [Once and only once]
    A video is in the table when its row was written, and only one process writes. What a worker had not finished when
    it was killed, Ray gives to another worker, so that a video may be computed twice; its row comes once, from the one
    that finishes. A video over which workers keep dying (a decoder that crashes, memory that runs out) would be given
    out without end: who starts one asks a counter first, and after ATTEMPTS starts it is a row with an error.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from i3d_deploy import artifact, doctor, prediction_files, recognizer, untracked, video, video_files
from i3d_deploy.card import Precision
from i3d_deploy.errors import ArtifactError, DeviceError, I3DError, InputError, MissingExtraError, VideoError
from i3d_deploy.prediction_files import Basis, Origin, Row
from i3d_deploy.recognizer import Recognizer

try:
    import ray
    import ray.data
    from ray.data import ActorPoolStrategy
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise MissingExtraError("ray", extra="ray", cause=error) from error

ATTEMPTS = 3
"""How often a video is started whose workers die."""

MAX_THREADS = 4
"""CPU threads of an actor where nothing is said; with more, a network of one view at a time gains little."""

_ANSWER_SECONDS = 15
_OBJECT_STORE_BYTES = 256 << 20  # for paths and rows; Ray's default is a third of the memory


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the videos.

    Attributes:
        predicted: How many have a prediction from this run.
        failed: How many cannot be read.
        done_before: How many had a row in the table already.
    """

    predicted: int
    failed: int
    done_before: int


def predict(
    path: str | Path,
    sources: Iterable[str | Path],
    output: str | Path,
    *,
    flow: str | Path | None = None,
    top: int = 5,
    clips: int | None = None,
    crops: int | None = None,
    batch: int | None = None,
    min_decoded_share: float = video.MIN_DECODED_SHARE,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
    actors: int | None = None,
    flow_cache: str | Path | None = None,
    overwrite: bool = False,
    address: str | None = None,
    on_row: Callable[[Row], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Report:
    """Recognise the actions in many videos, and write a row for each into a table.

    Rows are in the order in which they are finished. A run that was stopped goes on when it is started again; videos
    that could not be read, or were replaced by others of the same name, are then predicted again.

    Args:
        path: The network, as for :func:`i3d_deploy.load`.
        sources: Files, URLs or folders of frames; those named twice, in any spelling, are predicted once.
        output: ``.jsonl``, a row a line, or ``.parquet``, a folder of part files; :mod:`i3d_deploy.prediction_files`.
        flow: As for :func:`i3d_deploy.load`.
        top: Classes of a row; with as many as there are, all probabilities.
        clips: As for :meth:`Recognizer.predict`.
        crops: As for :meth:`Recognizer.predict`.
        batch: As for :meth:`Recognizer.predict`.
        min_decoded_share: As for :meth:`Recognizer.predict`.
        device: "auto" (a GPU for each actor, where Ray has GPUs and the artifact runs on them), "cpu" or "cuda".
        threads: CPU threads of an actor; default: as many as share a GPU, or a node's cores, 4 at most.
        precision: As for :func:`i3d_deploy.load`.
        actors: How many; default: one for each GPU, or for each group of ``threads`` cores.
        flow_cache: As for :func:`i3d_deploy.load`.
        overwrite: Forget what is in the table.
        address: Of a cluster, or "local"; default: RAY_ADDRESS, else "local". Where the process uses Ray already, that
            one is used.
        on_row: Called with each row that was written.
        on_progress: Called with (videos that have a row, videos in all) at the start and after each row.
        on_note: Called with where Ray runs, how many videos were replaced, and what was assumed about a checkpoint.

    Raises:
        InputError: An argument is out of range, or the table holds rows that were made in another way.
        ArtifactError: The file is missing or of an unknown kind.
        DeviceError: Ray cannot be reached, or gave up.
        I3DError: What :func:`i3d_deploy.load` and :meth:`Recognizer.predict` raise, in the words of the actor that met
            it; of a video that cannot be read, the row says it.
    """
    for name, value in (("top", top), ("batch", batch), ("threads", threads), ("actors", actors)):
        if value is not None and value < 1:
            raise InputError(f"{name} ({value}) must be > 0")
    if device.startswith("cuda:"):
        raise InputError(f"device {device!r}: Ray chooses the GPUs, give cuda")
    given = [Path(file) for file in (path, flow) if file is not None]
    asked = {"clips": clips, "crops": crops, "min_decoded_share": min_decoded_share}
    computed_in: dict[str, Any] = {} if precision is None else {"precision": precision}
    basis = Basis(artifact_sha256=_sha256(given), settings=_text({**asked, "top": top, **computed_in}))
    videos: dict[str, _Video] = {}
    for source in sources:
        found = _Video.of(str(source))
        videos.setdefault(found.path, found)
    wanted = {path: os.fsdecode(found.address) for path, found in videos.items()}
    with prediction_files.opened(Path(output), basis, wanted=wanted, overwrite=overwrite) as table:
        if table.num_replaced and on_note is not None:
            on_note(f"{table.num_replaced} of the videos in {output} have another size or time now: predicted again")
        left = [found for path, found in videos.items() if path not in table.done]
        num_before, num_failed = len(videos) - len(left), 0
        if on_progress is not None:
            on_progress(num_before, len(videos))
        order = _Order(
            paths=tuple(file.absolute() for file in given),
            basis=basis,
            asked={**asked, "batch": batch},
            top=top,
            device=device,
            precision=precision,
            flow_cache=None if flow_cache is None else Path(flow_cache).absolute(),
        )
        with closing(_rows(left, order, address, threads=threads, actors=actors, on_note=on_note)) as rows:
            for number, row in enumerate(rows, num_before + 1):
                table.add(row)
                num_failed += row["error"] is not None
                if on_row is not None:
                    on_row(row)
                if on_progress is not None:
                    on_progress(number, len(videos))
        num_lost = sum(found.path not in table.done for found in left)
    if num_lost:
        raise DeviceError(f"Ray gave no answer for {num_lost} of {len(videos)} videos: start the run again, it goes on")
    return Report(predicted=len(left) - num_failed, failed=num_failed, done_before=num_before)


def _sha256(paths: Sequence[Path]) -> str:
    for path in paths:
        artifact.identify(path)
    return artifact.sha256(*paths)


def _text(settings: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'as on the card' if value is None else value}" for name, value in settings.items())


@dataclass(frozen=True, kw_only=True)
class _Video:
    """A video to predict.

    Attributes:
        name: As it was given, in text that a table can hold, without a password.
        path: The same file's for each spelling: absolute, below a folder without links; or the URL. In such text.
        address: What another process finds it by, whatever its folder is; bytes, since names need not be UTF-8.
    """

    name: str
    path: str
    address: bytes

    @classmethod
    def of(cls, source: str) -> _Video:
        if video_files.is_url(source):
            return cls(name=_storable(source), path=_storable(source), address=os.fsencode(source))
        given = Path(source)
        path = given.resolve() if given.name in ("", "..") else given.parent.resolve() / given.name
        return cls(name=_storable(source), path=_storable(str(path)), address=os.fsencode(given.absolute()))


def _storable(name: str) -> str:
    return video_files.without_password(name).encode(errors="backslashreplace").decode()


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What an actor is to do with each video."""

    paths: tuple[Path, ...]
    basis: Basis
    asked: dict[str, Any]
    top: int
    device: str
    precision: Precision | None
    flow_cache: Path | None

    def open(self, *, threads: int) -> Recognizer:
        """Load the network on the node of the actor."""
        if _sha256(self.paths) != self.basis.artifact_sha256:
            raise ArtifactError(
                f"{self.paths[0]} on {platform.node()} is not what the run was started with: put the same there"
            )
        cv2.setNumThreads(threads)
        flow = self.paths[1] if len(self.paths) > 1 else None
        return recognizer.load(
            self.paths[0],
            flow=flow,
            device=self.device,
            threads=threads,
            precision=self.precision,
            flow_cache=self.flow_cache,
        )


class _Starts:
    """How often each video was started, in an actor of its own: Note [Once and only once]."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, path: str) -> int:
        self._counts[path] += 1
        return self._counts[path]


class _Worker:
    """A loaded network in an actor; predicts one video a call."""

    def __init__(self, order: _Order, starts: Any, threads: int) -> None:
        self._order, self._starts = order, starts
        self._recognizer: Recognizer | None = None
        self._failure = ""
        try:
            self._recognizer = order.open(threads=threads)
        except I3DError as error:
            self._failure = str(error)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[str]]:
        """From the fields of one :class:`_Video` to its ``answer``, JSON with its row, or why the run must end."""
        wanted = _Video(name=str(batch["name"][0]), path=str(batch["path"][0]), address=bytes(batch["address"][0]))
        answer: dict[str, Any]
        if self._recognizer is None:
            answer = {"failure": self._failure}
        else:
            try:
                answer = {"row": self._row(self._recognizer, wanted), "notes": self._recognizer.notes}
            except I3DError as error:
                answer = {"failure": str(error)}
        return {"answer": [json.dumps(answer)]}

    def _row(self, network: Recognizer, wanted: _Video) -> Row:
        basis, ran_by = self._order.basis, network.ran_by
        address = os.fsdecode(wanted.address)
        origin = Origin.of(wanted.name, wanted.path, address)
        try:
            if ray.get(self._starts.add.remote(wanted.path)) > ATTEMPTS:
                raise VideoError(
                    f"{wanted.name}: its worker died {ATTEMPTS} times: the video crashes it, or memory ran out"
                )
            prediction = network.predict(address, **self._order.asked)
        except VideoError as error:
            return prediction_files.failed(origin, error, basis=basis, ran_by=ran_by)
        return prediction_files.predicted(origin, prediction, top=self._order.top, basis=basis, ran_by=ran_by)


def _rows(
    videos: Sequence[_Video],
    order: _Order,
    address: str | None,
    *,
    threads: int | None,
    actors: int | None,
    on_note: Callable[[str], None] | None,
) -> Generator[Row, None, None]:
    """The rows of videos, as they are finished."""
    if not videos:
        return
    told: set[str] = set()
    with untracked.ray(), _connected(address, cores=(actors or 1) * (threads or 1), on_note=on_note):
        crew = _hire(order, threads=threads, actors=actors)
        try:
            for batch in _dataset(videos, order, crew).iter_batches(batch_size=1, prefetch_batches=0):
                answer = json.loads(str(batch["answer"][0]))
                if "failure" in answer:
                    raise I3DError(answer["failure"])
                for note in answer["notes"]:
                    if note not in told and on_note is not None:
                        on_note(note)
                    told.add(note)
                yield answer["row"]
        except RayTaskError:
            raise  # a mistake in what ran in an actor
        except RayError as error:
            raise DeviceError(f"Ray gave up: {str(error).strip().partition(chr(10))[0]}") from error


def _dataset(videos: Sequence[_Video], order: _Order, crew: _Crew) -> ray.data.Dataset:
    # A block and so a task for each video: it is given out, and finished, by itself.
    items = [asdict(each) for each in videos]
    starts = ray.remote(_Starts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        batch_size=1,
        # One at a time, so that no video waits behind a long one while another actor is idle.
        compute=ActorPoolStrategy(size=min(crew.actors, len(items)), max_tasks_in_flight_per_actor=1),
        num_cpus=crew.threads,
        num_gpus=1 if crew.has_gpus else None,
        fn_constructor_args=(order, starts, crew.threads),
    )


@dataclass(frozen=True, kw_only=True)
class _Crew:
    """How many actors, and what each of them is given."""

    actors: int
    threads: int
    has_gpus: bool


def _hire(order: _Order, *, threads: int | None, actors: int | None) -> _Crew:
    """Share out what Ray has."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cores, gpus = ([int(node.get(name, 0)) for node in nodes] for name in ("CPU", "GPU"))
    takes_gpu = not any(name.endswith(".xml") for path in order.paths for name, _ in artifact.parts(path))
    has_gpus = order.device == "cuda" or (order.device == "auto" and takes_gpu and sum(gpus) > 0)
    if threads is None:
        shares = [cpu // max(gpu, 1) for cpu, gpu in zip(cores, gpus, strict=True) if gpu or (cpu and not has_gpus)]
        threads = max(min(MAX_THREADS, *shares), 1) if shares else 1
    if actors is None:
        actors = max(sum(gpus) if has_gpus else sum(cpu // threads for cpu in cores), 1)
    return _Crew(actors=actors, threads=threads, has_gpus=has_gpus)


@contextmanager
def _connected(address: str | None, *, cores: int, on_note: Callable[[str], None] | None) -> Iterator[None]:
    """Use the Ray of this process, connect to a cluster, or start a Ray on this machine; the latter two end with it."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    place = f"at {address}"
    if address == "local":
        cores = max(doctor.usable_cores(), cores)
        place = f"on this machine, with {cores} cores"
        options |= {
            "num_cpus": cores,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    else:
        _check_answers(address)
    if on_note is not None:
        on_note(f"Ray {place}: the first answers take a while; its line about constructor arguments can be ignored")
    try:
        ray.init(address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DeviceError(f"Ray at {address}: {str(error).strip().partition(chr(10))[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Try a cluster's address, host:port, which Ray itself does for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # one of Ray's words, such as auto
    # Ray takes an address of this machine for that of the node.
    hosts = [host, ray.util.get_node_ip_address()] if host in ("127.0.0.1", "localhost") else [host]  # type: ignore[no-untyped-call]
    for each in hosts:
        try:
            socket.create_connection((each, int(port)), timeout=_ANSWER_SECONDS).close()
        except OSError as error:
            problem = error.strerror or str(error)
        else:
            return
    raise DeviceError(f"no Ray at {address} ({problem}): start it, or take RAY_ADDRESS away to use this machine alone")
