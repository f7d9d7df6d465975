"""Network interfaces that the environment names for MPI and NCCL, which hang or crash where one does not exist."""

from __future__ import annotations

import os
import socket

from frcnn.errors import UserError


def check_interfaces() -> None:
    """Look for the interfaces of ``NCCL_SOCKET_IFNAME`` and of Open MPI's ``…_if_include`` on this host.

    Raises:
        UserError: one does not exist; names the variable, and the interfaces that do.
    """
    existing = [name for _, name in socket.if_nameindex()]
    for variable in ("OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_oob_tcp_if_include", "NCCL_SOCKET_IFNAME"):
        value = os.environ.get(variable, "")
        exact = not variable.startswith("NCCL") or value.startswith("=")  # NCCL takes beginnings of names
        for name in value.lstrip("=").split(","):
            if not name or "/" in name or value.startswith("^"):  # a subnet, or what not to use
                continue
            if not any(known == name if exact else known.startswith(name) for known in existing):
                raise UserError(
                    f"{variable} names the network interface {name!r}, which does not exist; there are {', '.join(existing)}"
                )
