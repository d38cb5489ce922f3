"""A machine without a network: whatever of Python would leave it is noted in $PACKETS and fails."""

import errno
import os
import socket

_RESOLVE, _CONNECT, _SEND = socket.getaddrinfo, socket.socket.connect, socket.socket.sendto


def _is_here(host):
    """Whether an address is one of this machine's: only those can be bound to."""
    if not host or host in ("localhost", socket.gethostname()):
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _require_here(what, host):
    host = host.decode() if isinstance(host, bytes) else host
    if not _is_here(host):
        with open(os.environ["PACKETS"], "a", encoding="utf-8") as packets:  # noqa: PTH123
            packets.write(f"{what} {host}\n")
        raise OSError(errno.ENETUNREACH, "the machine of the test has no network")


def _resolve(host, *args, **named):
    _require_here("getaddrinfo", host)
    return _RESOLVE(host, *args, **named)


def _connect(self, address):
    # A datagram's socket sends nothing when it is connected: Ray learns its address so.
    if self.family in (socket.AF_INET, socket.AF_INET6) and self.type != socket.SOCK_DGRAM:
        _require_here("connect", address[0])
    return _CONNECT(self, address)


def _sendto(self, data, *args):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _require_here("sendto", args[-1][0])
    return _SEND(self, data, *args)


socket.getaddrinfo, socket.socket.connect, socket.socket.sendto = _resolve, _connect, _sendto
