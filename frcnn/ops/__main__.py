"""``python -m frcnn.ops``: build the kernels ahead of their first use and print the path of the library."""

from __future__ import annotations

import sys

from frcnn.ops import build

try:
    print(build.build(build.default_cache(), cuda=build.nvcc() is not None).file)
except build.BuildError as error:
    sys.exit(f"the kernels cannot be built: {error}")
