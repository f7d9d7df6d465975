"""Check of the network interfaces set for MPI and NCCL, which hang or crash if one does not exist."""

from __future__ import annotations

import os
import socket

from frcnn.errors import UserError


def check_interfaces() -> None:
    """Check that the interfaces in ``NCCL_SOCKET_IFNAME`` and in Open MPI's ``…_if_include`` exist on this host.

    Raises:
        UserError: one does not exist; names the variable and the existing interfaces.
    """
    existing = [name for _, name in socket.if_nameindex()]
    for variable in ("OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_oob_tcp_if_include", "NCCL_SOCKET_IFNAME"):
        value = os.environ.get(variable, "")
        exact = not variable.startswith("NCCL") or value.startswith("=")  # NCCL matches prefixes
        for name in value.lstrip("=").split(","):
            if not name or "/" in name or value.startswith("^"):  # a subnet, or an exclusion
                continue
            if not any(known == name if exact else known.startswith(name) for known in existing):
                raise UserError(
                    f"{variable} is {value!r}, but network interface {name!r} does not exist on "
                    f"{socket.gethostname()}; "
                    f"expected one of {', '.join(existing)}"
                )
