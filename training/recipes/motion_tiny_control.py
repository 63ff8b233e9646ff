"""motion_tiny with every temporal kernel cut to one frame: it cannot tell a motion from its reversal.

python training/train.py motion_tiny_control --work-dir runs/motion_tiny_control --validate --seed 0
"""

from pathlib import Path

from i3d_deploy.training import recipe as recipes

recipe = recipes.load("motion_tiny", folder=Path(__file__).parent).overridden(
    ["network.name=motion_tiny_control", "network.stem_kernel=1", "network.temporal_kernels=[[1], [1], [1]]"]
)
