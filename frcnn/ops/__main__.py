"""``python -m frcnn.ops``: build the kernels ahead of their first use and print the path of the library."""

from __future__ import annotations

import sys

from frcnn.ops import build
from frcnn.ops.gpu_code import BuildError

try:
    print(build.build_ahead(build.default_cache()))
except BuildError as error:
    sys.exit(f"the kernels cannot be built: {error}")
