"""What ``bench/gpu.py`` measures, a module for each subject or two."""
