"""Train a recipe.

    python training/train.py motion_tiny --work-dir runs/motion_tiny --validate --seed 0 --deterministic
    torchrun --nproc-per-node 8 training/train.py i3d_r50_32x2x1_100e_kinetics400_rgb --work-dir runs/i3d \
        --init resnet50-0676ba61.pth --validate

Interrupted at any time, the same command with --resume goes on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from i3d_deploy.commands.options import device_option, reports_errors

RECIPES = Path(__file__).parent / "recipes"


@click.command(epilog="Example: python training/train.py motion_tiny --work-dir runs/motion_tiny --validate --seed 0")
@click.argument("recipe")
@click.option("--work-dir", required=True, type=click.Path(path_type=Path), help="Where everything is written.")
@click.option("--validate", is_flag=True, help="Evaluate every few epochs and keep the best.")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random.  [default: drawn, and printed]")
@click.option("--deterministic", is_flag=True, help="Use deterministic algorithms only.")
@click.option("--resume", is_flag=True, help="Go on from the newest whole checkpoint in the work-dir.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Initial weights: a torchvision ResNet-50 (inflated), or an I3D checkpoint of any supported origin.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value of the recipe; repeats.")
@device_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a process.  [default: PyTorch's choice]")
@reports_errors
def main(
    recipe: str,
    work_dir: Path,
    validate: bool,
    seed: int | None,
    deterministic: bool,
    resume: bool,
    init: Path | None,
    settings: tuple[str, ...],
    device: str,
    threads: int | None,
) -> None:
    """Train RECIPE and publish WORK_DIR/model.safetensors.

    RECIPE is a name from training/recipes, the path of a recipe file, or a recipe.json that a run has left.
    """
    # Threads that spin while they wait take the cores from the processes that read videos: measured, three times slower
    # on two cores. OpenMP reads this when PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from i3d_deploy.training import loop
    from i3d_deploy.training import recipe as recipes

    chosen = recipes.load(recipe, folder=RECIPES).overridden(settings)
    is_first = os.environ.get("RANK", "0") == "0"
    if threads is not None:
        torch.set_num_threads(threads)
    options = loop.Options(
        work_dir=work_dir,
        seed=seed,
        deterministic=deterministic,
        validate=validate,
        resume=resume,
        init=init,
        device=device,
    )
    # In the form that --set takes.
    fields = [f"{name}={json.dumps(value)}" for name, value in recipes.flat(chosen.model_dump(mode="json"))]
    published = loop.train(chosen, options, on_start=lambda: click.echo("\n".join(fields)) if is_first else None)
    if is_first:
        click.echo(f"{published} written", err=True)


if __name__ == "__main__":
    main()
