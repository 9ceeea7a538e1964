# SPDX-License-Identifier: GPL-3.0-or-later
"""A Postfix policy server in a thread of the test. `decide(request)` says what becomes of each request, a
dict of its attributes:

    "REJECT no"   the action
    b"..."        these octets, whatever they are
    HOLD          nothing yet: answer(i, ...) says it later, i its place in .requests
    CLOSE, RESET  the connection ends without an answer
    (x, CLOSE)    ... behind x

Keeps what it saw: .requests (each with its connection's number as "#"), .connections (how many came), .most
(how many were open at the same time), .gone (how many the other side closed)."""
import selectors
import socket
import threading
import traceback

from lib.core import Failure
from lib.peers import family_of, sockaddr

HOLD, CLOSE, RESET = object(), object(), object()
LINGER_RESET = b"\1\0\0\0\0\0\0\0"


def octets(said):
    return said if isinstance(said, bytes) else b"action=%s\n\n" % said.encode()


class Peer:
    def __init__(self, sock, number):
        self.sock, self.number, self.buf = sock, number, b""


class PolicyServer:
    def __init__(self, t, decide=lambda request: "DUNNO", address="127.0.0.1:0"):
        self.t, self.decide, self.address = t, decide, address
        self.requests, self.where = [], []
        self.connections = self.most = self.gone = 0
        self.peers = {}
        self.thread = None
        t.servers.append(self)
        self.start()

    # ---- life ----

    def start(self):
        family = family_of(self.address)
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(sockaddr(self.address))
        self.sock.listen(1024)
        self.sock.setblocking(False)
        if family != socket.AF_UNIX:
            self.address = "%s:%d" % self.sock.getsockname()[:2]
        self.wake_r, self.wake_w = socket.socketpair()
        self.sel = selectors.DefaultSelector()
        self.sel.register(self.sock, selectors.EVENT_READ, "listener")
        self.sel.register(self.wake_r, selectors.EVENT_READ, "wake")
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self, reset=False):
        """Ends with all its connections; start() brings it back on the same address."""
        if self.thread is None:
            return
        self.wake_w.send(b"r" if reset else b"x")
        self.thread.join(10)
        self.thread = None
        if self.error:
            raise Failure("the policy server failed: %s" % self.error)

    def _run(self):
        how = b""
        try:
            while not how:
                for key, _ in self.sel.select():
                    if key.data == "wake":
                        how = self.wake_r.recv(1)
                    elif key.data == "listener":
                        self._accept()
                    elif key.fileobj in self.peers:
                        self._event(key.data)
        except Exception:
            self.error = traceback.format_exc()
        for p in list(self.peers.values()):
            self._close(p, reset=how == b"r")
        for s in (self.sock, self.sel, self.wake_r, self.wake_w):
            s.close()

    # ---- connections ----

    def _accept(self):
        while True:
            try:
                s, _ = self.sock.accept()
            except (BlockingIOError, ConnectionError):
                return
            s.setblocking(False)
            self.connections += 1
            self.peers[s] = Peer(s, self.connections)
            self.most = max(self.most, len(self.peers))
            self.sel.register(s, selectors.EVENT_READ, self.peers[s])

    def _close(self, p, reset=False):
        if reset:
            p.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.sel.unregister(p.sock)
        del self.peers[p.sock]
        p.sock.close()

    def _event(self, p):
        try:
            data = p.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.gone += 1
            self._close(p)
            return
        p.buf += data
        while b"\n\n" in p.buf and p.sock in self.peers:
            head, p.buf = p.buf.split(b"\n\n", 1)
            self._request(p, head)

    def _request(self, p, head):
        request = dict(line.split("=", 1) for line in head.decode("utf-8", "surrogateescape").split("\n"))
        request["#"] = p.number
        self.where.append(p)
        self.requests.append(request)
        said = self.decide(request)
        how = None
        if said is HOLD:
            return
        if isinstance(said, tuple):
            said, how = said
        if said is CLOSE or said is RESET:
            self._close(p, reset=said is RESET)
            return
        self._send(p, octets(said))
        if how:
            self._close(p, reset=how is RESET)

    @staticmethod
    def _send(p, data):
        try:
            p.sock.sendall(data)
        except OSError:
            pass  # the other side has gone; its end of input says so

    # ---- the test's own thread ----

    def asked(self, n, seconds=None):
        """Waits for n requests in all; the last one of them."""
        self.t.until(lambda: len(self.requests) >= n, "%d requests to the policy server" % n, seconds)
        return self.requests[n - 1]

    def answer(self, i, said):
        self._send(self.where[i], octets(said))
