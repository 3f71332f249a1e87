"""Lets no connection begin on a listener, and loses none that has.

A listener that is closed resets what waits in its queue, and what came between the last accept and
the close is lost with it. So the kernel is told first to let nothing new in; handshakes under way
complete, and the queue can be emptied for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from pathlib import Path

# Not in Python's socket module (<asm-generic/socket.h>).
SO_ATTACH_FILTER = 26
SO_BINDTOIFINDEX = 62
NO_INTERFACE = 0x7FFFFFFF

# <linux/filter.h>; the filter sees a TCP header. SYN is bit 1 of its 14th byte (RFC 9293 3.1).
DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]
    (0x45, 0, 1, 0x02),  # jset #SYN: the next instruction, else the one after
    (0x06, 0, 0, 0),  # ret 0: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret all: accept
)


def refuse_new_connections(listener: socket.socket) -> None:
    """Let no new connection begin, for all who share the listener."""
    if listener.family == socket.AF_UNIX:
        Path(listener.getsockname()).unlink(missing_ok=True)
        return
    for refuse in (bind_to_no_interface, drop_syn):
        with contextlib.suppress(OSError):
            refuse(listener)
            return


def bind_to_no_interface(listener: socket.socket) -> None:
    """Have new clients refused: the socket only accepts from an interface that does not exist.

    Anybody may do that to a socket that is bound to none (socket(7), SO_BINDTODEVICE; Linux 5.7),
    and by its number an interface need not exist.

    Raises:
        OSError: the kernel is older, or knows no such option.
    """
    listener.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, NO_INTERFACE)


def drop_syn(listener: socket.socket) -> None:
    """Drop the packets of new clients, which are refused when they try again.

    For older kernels. Newer ones ask for CAP_NET_ADMIN.

    Raises:
        OSError: it is not allowed.
    """
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in DROP_SYN)
    kept = ctypes.create_string_buffer(program)
    option = struct.pack("HP", len(DROP_SYN), ctypes.addressof(kept))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, option)
