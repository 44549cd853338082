"""``python -m blender_med`` is the console script."""

from blender_med.cli import main

main()
