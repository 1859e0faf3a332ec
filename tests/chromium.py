#!/usr/bin/env python3
"""Chromium that does not hear of the networks of this machine, which come and go with the containers of other tests.

At every change it would give up what it loads (net::ERR_NETWORK_CHANGED), and no switch of it keeps it from that. It
hears of changes by a socket of the family AF_NETLINK; where it gets none, it loads on. CHROMIUM is its path.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16  # where they stand in what a filter of system calls sees
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
SOCKET = {"x86_64": 41, "aarch64": 198}


def refuse_netlink(call: int) -> None:
    """Refuse the sockets to this process and its children; `call` is the number of socket(2)."""
    rules = [
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 3, call),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 0, 1, socket.AF_NETLINK),
        (RETURN, 0, 0, REFUSE | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HP", len(rules), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    for told in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, program, 0, 0)):
        if library.prctl(*told):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    if platform.machine() in SOCKET:
        refuse_netlink(SOCKET[platform.machine()])
    os.execv(os.environ["CHROMIUM"], [os.environ["CHROMIUM"], *sys.argv[1:]])  # noqa: S606
