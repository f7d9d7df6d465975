"""``python -m frcnn.cli`` is the command ``frcnn``."""

from frcnn.cli import main

main(prog_name="frcnn")
