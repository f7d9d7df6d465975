"""``python -m frcnn.cli`` is the command ``frcnn``."""

from frcnn.cli import run

run()
