# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clients at once: one selectors loop in the test. Each message carries its number, so that what the clients
were told and what the servers took can be compared message by message (ledger())."""
import selectors
import socket
import time

from lib.core import Failure
from lib.peers import reply_end, sockaddr
from lib.smtp import EHLO
from lib.tls import NAME, STARTTLS, Tls

OPEN = {"per-client-sessions": 0}


class Robot:
    """One client: EHLO, then messages until told to stop. Notes every message's fate in `acked`."""

    def __init__(self, crowd, n):
        self.crowd, self.n = crowd, n
        self.serial = 0
        self.sock = None
        self.sessions = 0
        self.open()

    def open(self):
        self.buf = b""
        self.state = "greeting"
        self.tls = None
        self.out = b""
        self.count = 0
        self.sessions += 1
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex(sockaddr(self.crowd.address))
        self.crowd.sel.register(self.sock, selectors.EVENT_READ, self)
        if self.crowd.implicit:
            self.begin_tls()

    def shut(self, reset=False):
        if self.sock is None:
            return
        self.crowd.sel.unregister(self.sock)
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()
        self.sock = None

    def again(self):
        self.shut()
        if self.crowd.running:
            self.open()
        else:
            self.crowd.done += 1

    def send(self, data):
        self.out += self.tls.seal(data) if self.tls else data
        self.flush()

    def flush(self):
        try:
            n = self.sock.send(self.out) if self.out else 0
            self.out = self.out[n:]
        except BlockingIOError:
            pass
        except OSError:
            self.lost()
            return
        want = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.out else 0)
        self.crowd.sel.modify(self.sock, want, self)

    def lost(self):
        if self.state == "final":
            self.crowd.unknown.add(self.ident)
        self.crowd.lost += 1
        self.again()

    def event(self, mask):
        if mask & selectors.EVENT_WRITE:
            self.flush()
            if self.sock is None or not mask & selectors.EVENT_READ:
                return
        sock = self.sock
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self.lost()
            return
        if not data:
            self.lost()
            return
        if self.tls:
            data = self.unsealed(data)
            if self.sock is not sock:
                return
        self.buf += data
        while self.sock is sock:
            n = reply_end(self.buf)
            if not n:
                return
            reply, self.buf = self.buf[:n], self.buf[n:]
            self.reply(reply)

    def begin_tls(self):
        self.tls = Tls(self.crowd.tls, False, NAME)
        self.tls.shake()
        self.out += self.tls.take()
        self.flush()

    def unsealed(self, wire):
        tls, sock, shaken = self.tls, self.sock, self.tls.done
        data = tls.feed(wire)
        if tls.error:
            self.crowd.tls_errors.append(tls.error)
            self.lost()
            return b""
        self.out += tls.take()
        self.flush()
        if self.sock is sock and self.state == "handshake" and tls.done and not shaken:
            self.state = "ehlo"
            self.send(EHLO)
        return data

    def reply(self, r):
        code = r[:3]
        if code == b"421":
            if self.state == "final":
                self.crowd.refused.add(self.ident)
            self.crowd.told_421 += 1
            self.again()
        elif self.state == "greeting":
            self.state = "ehlo"
            self.send(EHLO)
        elif self.state == "ehlo" and self.crowd.tls and not self.tls:
            self.state = "starttls"
            self.send(STARTTLS)
        elif self.state == "starttls":
            self.state = "handshake"
            self.begin_tls()
        elif self.state == "ehlo":
            self.next_message()
        elif self.state == "envelope":
            self.left -= 1
            if code[:1] not in b"23":
                self.bad = True
            if self.left == 0:
                if code == b"354":
                    self.state = "final"
                    self.send(b"X-Ident: %s\r\n" % self.ident + self.crowd.fill + b"\r\n.\r\n")
                else:
                    self.crowd.refused.add(self.ident)
                    self.after_message()
        elif self.state == "final":
            (self.crowd.acked if code[:1] == b"2" else self.crowd.refused).add(self.ident)
            self.after_message()
        elif self.state == "quit":
            self.again()

    def next_message(self):
        self.serial += 1
        self.ident = b"%d-%d-%d" % (self.n, self.sessions, self.serial)
        self.state = "envelope"
        self.left, self.bad = 3, False
        self.send(b"MAIL FROM:<m%s@x.test>\r\nRCPT TO:<r@y.test>\r\nDATA\r\n" % self.ident)

    def after_message(self):
        self.count += 1
        if self.count >= self.crowd.per_session or not self.crowd.running:
            self.state = "quit"
            self.send(b"QUIT\r\n")
        else:
            self.next_message()


class Crowd:
    def __init__(self, t, address, n, per_session=3, fill=b"x" * 2000, tls=None, implicit=False):
        self.t, self.address, self.per_session, self.fill = t, address, per_session, fill
        self.tls, self.implicit = tls, implicit  # a client context; without `implicit` by STARTTLS
        self.sel = selectors.DefaultSelector()
        self.acked, self.refused, self.unknown = set(), set(), set()
        self.tls_errors = []
        self.told_421 = self.lost = self.done = 0
        self.running = True
        self.robots = []
        self.n = n

    def start(self):
        for i in range(self.n):
            self.robots.append(Robot(self, i))
            if i % 100 == 99:
                self.turn(0)

    def turn(self, wait):
        for key, mask in self.sel.select(wait):
            if key.data.sock is key.fileobj:
                key.data.event(mask)

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn(0.05)

    def until(self, holds, seconds):
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                return False
            self.turn(0.05)
        return True

    def finish(self, seconds):
        """Lets every robot end what it is doing."""
        self.running = False
        for r in self.robots:
            if r.sock is not None and r.state in ("greeting", "ehlo", "starttls", "handshake"):
                r.shut()
                self.done += 1
        if not self.until(lambda: self.done >= self.n, seconds):
            states = [r.state for r in self.robots if r.sock is not None]
            raise Failure("%d of %d clients do not come to an end; states %r" % (
                self.n - self.done, self.n, {s: states.count(s) for s in states}))
        for r in self.robots:
            r.shut()

    def kill(self):
        for r in self.robots:
            r.shut()


def idents(servers):
    out = []
    for s in servers:
        for m in s.messages:
            out.append(m.body.split(b"\r\n", 1)[0][len(b"X-Ident: "):])
            if b"<m" + out[-1] + b"@" not in m.sender:
                raise Failure("a message under another's envelope: %r in %r" % (out[-1], m.sender))
    return out


def ledger(t, crowd, servers, in_doubt=0):
    took = idents(servers)
    once = set(took)
    t.equal(len(took), len(once), "messages taken twice")
    lost = crowd.acked - once
    t.check(not lost, "acknowledged, but no server has them: %r" % sorted(lost)[:5])
    extra = once - crowd.acked - crowd.unknown
    t.check(len(extra) <= in_doubt, "taken, told otherwise, and not in doubt: %r (in doubt: %d)" % (sorted(extra)[:5], in_doubt))
    t.note("acked %d, refused %d, unknown %d, taken %d, 421 %d, lost %d" % (
        len(crowd.acked), len(crowd.refused), len(crowd.unknown), len(took), crowd.told_421, crowd.lost))
