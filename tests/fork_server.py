"""How a process is asked for at a server that forks it, and gets the asker's environment, folder, streams and signals.

Without anything to import but the standard library's own, as who asks is to be quick.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from typing import Any

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def asked(address: str, **wanted: Any) -> socket.socket:
    """The connection to a server that was asked for a process; signals that come here go there from now on."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    wanted |= {"environment": dict(os.environ), "folder": os.getcwd()}
    text = json.dumps(wanted).encode()
    for number in _FORWARDED:
        signal.signal(number, lambda number, _: server.sendall(bytes([number])))
    socket.send_fds(server, [len(text).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(text)
    return server


def forked(listening: socket.socket) -> socket.socket | None:
    """The connection to who asked, in a fork made for it; None here, once standard input is closed."""
    import gc

    gc.collect()
    gc.freeze()  # so that forks share the pages of what there is
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which end this
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin not in (ready := select.select([sys.stdin, listening], [], [])[0]):
        assert listening in ready
        connection = listening.accept()[0]
        if os.fork() == 0:
            listening.close()
            return connection
        connection.close()
    return None


def wanted_of(connection: socket.socket) -> dict[str, Any]:
    """What is asked for; the fork has a session of its own and the asker's streams then, and takes signals again."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, standard, *_ = socket.recv_fds(connection, 8, 3)
    text = b""
    while len(text) < int.from_bytes(size, "big"):
        text += connection.recv(1 << 16)
    for own, given in enumerate(standard):
        os.dup2(given, own)
        os.close(given)
    return json.loads(text)


def take_over(environment: dict[str, str], folder: str) -> None:
    """Take the asker's environment and folder."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
