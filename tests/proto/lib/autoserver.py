# SPDX-License-Identifier: GPL-3.0-or-later
"""An SMTP server in a thread of the test, for loops over many sessions where scripting every octet
would say nothing new. Keeps what it took: .messages, .commands, .connections.

sloppy=True makes it the worst server that can stand behind a proxy: any of CR, LF, CRLF ends a line
and a body, NULs are ignored, and what follows such an end is executed as commands. Whatever it takes
from one client transaction must be one message at most.
"""
import collections
import re
import selectors
import socket
import threading

from lib import diag
from lib.core import Failure
from lib.peers import CLEAR_KEPT, family_of, sockaddr
from lib.tls import Tls

STRICT_END = re.compile(rb"(?:\A|\r\n)\.\r\n")
SLOPPY_END = re.compile(rb"(?:\A|[\r\n])\0*\.\0*[\r\n]")
SLOPPY_LINE = re.compile(rb"[\r\n]")
EHLO = [b"auto.test", b"PIPELINING", b"SIZE 100000000", b"8BITMIME", b"SMTPUTF8", b"DSN", b"CHUNKING", b"BINARYMIME",
        b"ENHANCEDSTATUSCODES"]


def ehlo_reply(lines):
    return b"".join(b"250%s%s\r\n" % (b" " if i == len(lines) - 1 else b"-", l) for i, l in enumerate(lines))


class Message:
    def __init__(self, sender, rcpts, body, how):
        self.sender, self.rcpts, self.body, self.how = sender, rcpts, body, how


class Peer:
    def __init__(self, sock):
        self.sock = sock
        self.buf = bytearray()
        self.out = b""
        self.mode = "command"
        self.sender = None
        self.rcpts = []
        self.body = bytearray()
        self.body_seen = 0
        self.left = 0
        self.last = False
        self.closing = False
        self.sent = 0
        self.tls = None
        self.wire = b""   # octets for the socket
        self.clear = b""  # the first that came in clear
        self.greeted = False
        self.notified = False
        self.gone = False
        self.commands = []


class AutoServer:
    def __init__(self, t, address="127.0.0.1:0", sloppy=False, ehlo=EHLO, cut=None, octets=False, keep_bodies=True,
                 final=None, batch=True, loud=False, on_command=None, tls=None, implicit=False):
        self.t = t
        self.sloppy = sloppy
        self.ehlo = list(ehlo)
        self.cut = cut            # every connection's replies are cut here into two pieces
        self.octets = octets      # ... or into octets
        self.keep_bodies = keep_bodies
        self.final = final        # reply to the end of the data; None: 250
        self.batch = batch
        self.on_command = on_command  # (peer, line) -> reply octets, or None for the usual one
        self.tls = tls            # a server context: STARTTLS is offered, or
        self.implicit = implicit  # ... it is TLS from the first octet
        self.messages = []
        self.commands = []
        self.connections = 0
        self.peers = collections.deque(maxlen=4096)  # also those that have gone
        self.resets = 0
        self.failed_handshakes = []
        self.behind_starttls = []  # octets that came in clear where TLS was to begin
        self.address_wanted = address
        self.sel = None
        self.thread = None
        self.sock = None
        t.servers.append(self)
        self.start()

    # ---- life ----

    def start(self):
        fam = family_of(self.address_wanted)
        self.sock = socket.socket(fam, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(sockaddr(self.address_wanted))
        self.sock.listen(4096)
        self.sock.setblocking(False)
        if fam == socket.AF_UNIX:
            self.address = self.address_wanted
        else:
            self.address = "%s:%d" % self.sock.getsockname()[:2]
            self.address_wanted = self.address
        self.sel = selectors.DefaultSelector()
        self.wake_r, self.wake_w = socket.socketpair()
        self.sel.register(self.sock, selectors.EVENT_READ, "listener")
        self.sel.register(self.wake_r, selectors.EVENT_READ, "wake")
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self, reset=False):
        """Ends with all its connections; start() brings it back on the same address."""
        if self.thread is None:
            return
        self.kill_with_reset = reset
        self.wake_w.send(b"x")
        self.thread.join(10)
        self.thread = None
        if self.error:
            raise Failure("the auto server failed: %s" % self.error)

    def _run(self):
        import traceback
        peers = {}
        try:
            running = True
            while running:
                for key, mask in self.sel.select():
                    if key.data == "wake":
                        running = False
                    elif key.data == "listener":
                        self._accept(peers)
                    else:
                        self._event(key.data, mask, peers)
        except Exception:
            self.error = traceback.format_exc()
        for p in list(peers.values()):
            if getattr(self, "kill_with_reset", False):
                p.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            p.sock.close()
        self.sock.close()
        self.sel.close()
        self.wake_r.close()
        self.wake_w.close()

    def _accept(self, peers):
        for _ in range(256):
            try:
                s, _ = self.sock.accept()
            except (BlockingIOError, ConnectionError):
                return
            s.setblocking(False)
            if s.family != socket.AF_UNIX:
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            p = Peer(s)
            peers[s.fileno()] = p
            p.fd = s.fileno()
            self.peers.append(p)
            self.connections += 1
            self.sel.register(s, selectors.EVENT_READ, p)
            if self.implicit:
                self._begin_tls(p)
            self._greet(p)
            self._flush(p, peers)

    def _greet(self, p):
        if not p.greeted and (p.tls is None or p.tls.done):
            p.greeted = True
            self._say(p, b"220 auto.test ESMTP\r\n")

    def _begin_tls(self, p):
        self._seal(p)
        if p.buf:
            self.behind_starttls.append(bytes(p.buf))
            p.buf = bytearray()
        p.tls = Tls(self.tls, True)

    def _event(self, p, mask, peers):
        if mask & selectors.EVENT_READ:
            try:
                data = p.sock.recv(1 << 18)
            except BlockingIOError:
                data = None
            except ConnectionError:
                self.resets += 1
                data = b""
            if data == b"":
                self._close(p, peers)
                return
            if data:
                self._came(p, data)
        self._flush(p, peers)

    def _came(self, p, data):
        if p.tls is None:
            p.clear += data[:max(0, CLEAR_KEPT - len(p.clear))]
            p.buf += data
        else:
            p.buf += p.tls.feed(data)
            p.wire += p.tls.take()
            if p.tls.error:
                self.failed_handshakes.append(p.tls.error)
            self._greet(p)
        self._work(p)
        if p.tls is not None and (p.tls.error or p.tls.said_end):
            p.closing = True

    def _close(self, p, peers):
        self.sel.unregister(p.sock)
        peers.pop(p.fd, None)
        p.sock.close()
        p.gone = True

    # ---- out ----

    def _say(self, p, data):
        p.out += data

    def _seal(self, p):
        """What was said becomes wire octets."""
        if p.tls is None:
            p.wire += p.out
        elif p.out:
            p.wire += p.tls.seal(p.out)
        p.out = b""

    def _flush(self, p, peers):
        self._seal(p)
        if p.closing and p.tls is not None and p.tls.done and not p.notified and not p.tls.error:
            p.notified = True
            p.wire += p.tls.close_notify()
        data, p.wire = p.wire, b""
        if data and (self.octets or self.cut is not None):
            data = self._pieces(p, data)
        while data:
            try:
                n = p.sock.send(data)
                data = data[n:]
            except BlockingIOError:
                break
            except OSError:
                self._close(p, peers)
                return
        p.wire = data
        if p.closing and not p.wire:
            self._close(p, peers)
            return
        want = selectors.EVENT_READ | (selectors.EVENT_WRITE if p.wire else 0)
        self.sel.modify(p.sock, want, p)

    def _pieces(self, p, data):
        """Sends in pieces, each read by the other side before the next; nothing is left."""
        cuts = range(1, len(data)) if self.octets else [self.cut - p.sent]
        at = 0
        p.sock.setblocking(True)
        try:
            for c in list(cuts) + [len(data)]:
                if at < c <= len(data):
                    p.sock.sendall(data[at:c])
                    at = c
                    if at < len(data):
                        diag.wait_read(p.sock)
        except OSError:
            pass
        p.sock.setblocking(False)
        p.sent += len(data)
        return b""

    # ---- in ----

    def _work(self, p):
        while p.buf and not p.closing:
            if p.mode == "command":
                if not self._command_line(p):
                    return
            elif p.mode == "data":
                if not self._data(p):
                    return
            elif p.mode == "bdat":
                self._bdat(p)

    def _command_line(self, p):
        if self.sloppy:
            m = SLOPPY_LINE.search(p.buf)
            if not m:
                return False
            line = bytes(p.buf[:m.start()]).replace(b"\0", b"")
            del p.buf[:m.end()]
            if not line:
                return True
        else:
            at = p.buf.find(b"\r\n")
            if at < 0:
                return False
            line = bytes(p.buf[:at])
            del p.buf[:at + 2]
        self.commands.append(line)
        p.commands.append(line)
        own = self.on_command(p, line) if self.on_command else None
        if own is not None:
            self._say(p, own)
            return True
        self._command(p, line)
        return True

    def _command(self, p, line):
        verb, _, args = line.partition(b" ")
        verb = verb.upper()
        if verb == b"EHLO":
            self._reset(p)
            self._say(p, ehlo_reply(self.ehlo + ([b"STARTTLS"] if self.tls and p.tls is None else [])))
        elif verb == b"STARTTLS" and self.tls and p.tls is None:
            self._reset(p)
            self._say(p, b"220 2.0.0 go\r\n")
            self._begin_tls(p)
        elif verb == b"HELO":
            self._reset(p)
            self._say(p, b"250 auto.test\r\n")
        elif verb == b"MAIL":
            if p.sender is not None:
                self._say(p, b"503 5.5.1 nested MAIL\r\n")
                return
            p.sender = args
            self._say(p, b"250 2.1.0 ok\r\n")
        elif verb == b"RCPT":
            if p.sender is None:
                self._say(p, b"503 5.5.1 MAIL first\r\n")
                return
            p.rcpts.append(args)
            self._say(p, b"250 2.1.5 ok\r\n")
        elif verb == b"DATA":
            if not p.rcpts:
                self._say(p, b"554 5.5.1 no recipients\r\n")
                return
            p.mode = "data"
            p.body = bytearray()
            self._say(p, b"354 go on\r\n")
        elif verb == b"BDAT":
            words = args.split()
            p.left = int(words[0])
            p.last = len(words) > 1
            p.mode = "bdat"
            if p.left == 0:
                self._bdat(p)
        elif verb == b"RSET":
            self._reset(p)
            self._say(p, b"250 2.0.0 ok\r\n")
        elif verb == b"QUIT":
            self._say(p, b"221 2.0.0 bye\r\n")
            p.closing = True
        elif verb in (b"NOOP", b"VRFY"):
            self._say(p, b"250 2.0.0 ok\r\n")
        else:
            self._say(p, b"502 5.5.2 what\r\n")

    def _reset(self, p):
        p.sender = None
        p.rcpts = []
        p.body = bytearray()

    def _take(self, p, how):
        body = bytes(p.body) if self.keep_bodies else len(p.body)
        self.messages.append(Message(p.sender, list(p.rcpts), body, how))
        self._reset(p)
        self._say(p, self.final or b"250 2.0.0 taken as %d\r\n" % len(self.messages))

    def _data(self, p):
        # Search only what is new, with the few octets before it that an end may begin in.
        p.body += p.buf
        p.buf = bytearray()
        back = max(0, p.body_seen - 16)
        m = (SLOPPY_END if self.sloppy else STRICT_END).search(p.body, back)
        p.body_seen = len(p.body)
        if not m:
            return False
        p.buf = p.body[m.end():]
        p.body = p.body[:m.end()]
        p.body_seen = 0
        p.mode = "command"
        self._take(p, "data")
        return True

    def _bdat(self, p):
        n = min(p.left, len(p.buf))
        p.body += p.buf[:n]
        del p.buf[:n]
        p.left -= n
        if p.left:
            return
        p.mode = "command"
        if p.sender is None or not p.rcpts:
            self._say(p, b"503 5.5.1 MAIL first\r\n")
        elif p.last:
            self._take(p, "bdat")
        else:
            self._say(p, b"250 2.0.0 chunk\r\n")
