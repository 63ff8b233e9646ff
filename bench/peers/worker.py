"""The process of one contestant: answers the requests of a run of ``i3d-bench``.

    .venv-peers/bin/python bench/peers/worker.py NAME

NAME is a key of ``contestants.CONTESTANTS``; the checkpoint, a ``.safetensors``, is named in the first request.
"""

from __future__ import annotations

from functools import partial

import click
from contestants import CONTESTANTS, open_contestant

from i3d_deploy.benchmark.worker import serve


@click.command()
@click.argument("name", type=click.Choice(tuple(CONTESTANTS)))
def main(name: str) -> None:
    """Time the contestant NAME on request."""
    serve(partial(open_contestant, name=name))


if __name__ == "__main__":
    main()
