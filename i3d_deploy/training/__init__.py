"""Training: from a recipe and lists of videos to a checkpoint with its card."""
