# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel knows about a socket: whether the *other* process has read what we sent, and how
many segments brought us what we got.

sock_diag(7): an exact lookup of the peer's socket gives its receive queue; zero means that all was
read. That makes a split into two pieces a real one (two reads in the process under test) without
guessing with sleeps. Where netlink is not to be had a short sleep stands in: tests stay correct,
splits become likely instead of certain.
tcp_info counts data segments; on loopback one send of less than 64 KiB is one segment.
"""
import fcntl
import ipaddress
import socket
import struct
import time

NETLINK_SOCK_DIAG = 4
SIOCOUTQNSD = 0x894B
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
DATA_SEGS_IN_AT = 152  # offset of tcpi_data_segs_in in struct tcp_info
_netlink = None


def _open():
    global _netlink
    if _netlink is None:
        try:
            _netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG)
            _netlink.settimeout(1)
        except OSError:
            _netlink = False
    return _netlink


def _words(host):
    return ipaddress.ip_address(host.split("%")[0]).packed.ljust(16, b"\0")


def peer_queue(sock):
    """Octets that wait unread in the peer's socket; None when it cannot be told."""
    nl = _open()
    if not nl or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        theirs, ours = sock.getpeername()[:2], sock.getsockname()[:2]
    except OSError:
        return None
    sockid = struct.pack("!HH", theirs[1], ours[1]) + _words(theirs[0]) + _words(ours[0])
    sockid += struct.pack("=I", 0) + b"\xff" * 8
    body = struct.pack("=BBBBI", sock.family, socket.IPPROTO_TCP, 0, 0, 0xffffffff) + sockid
    head = struct.pack("=IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0)
    try:
        nl.send(head + body)
        data = nl.recv(4096)
    except OSError:
        return None
    if struct.unpack_from("=H", data, 4)[0] != SOCK_DIAG_BY_FAMILY:
        return None
    return struct.unpack_from("=I", data, 16 + 4 + 48 + 4)[0]


def unsent(sock):
    """Octets that our kernel has not sent yet; what is sent on loopback is in the peer's queue. Unix sockets have none."""
    if sock.family == socket.AF_UNIX:
        return 0
    return struct.unpack("=i", fcntl.ioctl(sock, SIOCOUTQNSD, b"\0" * 4))[0]


def wait_read(sock, seconds=2.0):
    """Returns when the peer process has read everything that was sent, or after `seconds`."""
    first = peer_queue(sock)
    if first is None:
        time.sleep(0.001)
        return
    end = time.monotonic() + seconds
    n = first
    # What is read at once leaves the peer's queue empty while our own still has some.
    while (n or unsent(sock)) and time.monotonic() < end:
        time.sleep(0.00005)
        n = peer_queue(sock)


def data_segments_in(sock):
    """Data segments received by this socket so far; None when the kernel does not say."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < DATA_SEGS_IN_AT + 4:
        return None
    return struct.unpack_from("=I", info, DATA_SEGS_IN_AT)[0]
