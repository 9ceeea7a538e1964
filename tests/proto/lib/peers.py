# SPDX-License-Identifier: GPL-3.0-or-later
"""The two scripted peers. Conn is one TCP or Unix connection, of a client or of an upstream; every
octet that it sends or gets is noted in the transcript. ScriptedUpstream is a listening socket.

All waits are bounded by t.wait. expect() compares octet by octet and fails at the first that differs.

From start_tls() on a Conn speaks TLS (lib/tls.py): what it sends is sealed, one record for each piece, and what it
gets is what the records say. wire() and its like go past that. Sealing is done on the test's thread; a sender in the
background is given wire octets.
"""
import errno
import os
import select
import socket
import struct
import threading
import time

from lib import diag
from lib.core import Failure, difference, show

LINGER_RESET = struct.pack("ii", 1, 0)
CLEAR_KEPT = 1 << 16


def reply_end(buf):
    """Length of the complete reply at the start of buf, or 0."""
    at = 0
    while True:
        nl = buf.find(b"\n", at)
        if nl < 0:
            return 0
        if buf[at + 3:at + 4] != b"-":
            return nl + 1
        at = nl + 1


def cut(data, positions):
    """Pieces of it; positions ascending."""
    ends = [p for p in positions if 0 < p < len(data)] + [len(data)]
    at = 0
    for end in ends:
        if end > at:
            yield data[at:end]
            at = end


class Conn:
    def __init__(self, t, sock, name, right):
        self.t = t
        self.sock = sock
        self.name = name
        self.right = right
        self.buf = b""
        self.eof = False
        self.reset_seen = False
        self.closed = False
        self.loud = True
        self.ignore_rest = False
        self.sender = None
        self.segs_mark = 0
        self.tls = None
        self.owed = b""   # wire octets that wait for the end of a sender in the background
        self.clear = b""  # the first that came in clear, taken or not
        sock.settimeout(t.wait)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        t.conns.append(self)

    def note(self, what):
        if self.loud:
            self.t.log.note(self.name, what, self.right)

    # ---- TLS ----

    def start_tls(self, context, server=False, name=None, session=None):
        """From here on it is TLS. Nothing has left yet."""
        from lib.tls import Tls
        if self.buf:
            raise Failure("%s: octets in clear where TLS begins: %s" % (self.name, show(self.buf)))
        self.tls = Tls(context, server, name, session)
        return self

    def handshake(self, context=None, server=False, name=None, session=None, seconds=None):
        """The whole of it; without a context the rest, after start_tls()."""
        if context:
            self.start_tls(context, server, name, session)
        self._shake(seconds)
        if not self.tls.done:
            raise Failure("%s: the handshake fails: %s" % (self.name, self.tls.error or "the connection ended"))
        self.note("  (%s %s%s)" % (self.tls.obj.version(), self.tls.obj.cipher()[0], " resumed" if self.tls.obj.session_reused else ""))
        return self

    def handshake_fails(self, context=None, server=False, name=None, seconds=None):
        """It must not lead to a session, and the connection must end. Returns the library's word, "" where it just ended.
        A client of TLS 1.3 is through before the server has judged its certificate."""
        if context:
            self.start_tls(context, server, name)
        self._shake(seconds)
        got = self.rest(seconds)
        if self.tls.done and (got or self.tls.server or self.tls.version != "TLSv1.3"):
            raise Failure("%s: the handshake should fail; got %s" % (self.name, show(got)))
        return self.tls.error or ""

    def _shake(self, seconds):
        self.tls.shake()
        self._answer()
        end = time.monotonic() + (seconds or self.t.wait)
        try:
            while not self.tls.done and not self.tls.error and self._more(end):
                pass
        except socket.timeout:
            raise Failure("%s: the handshake does not end" % self.name)

    def _answer(self):
        """Lets go what TLS has to say of its own, but not into the middle of a background send."""
        self.owed += self.tls.take()
        if self.owed and not (self.sender and self.sender.is_alive()):
            try:
                self._raw(b"")
            except Failure:
                pass  # it is gone, and that will be seen

    # ---- sending ----

    def _raw(self, wire):
        """Octets as they are, behind what a sender in the background left to be sent."""
        wire, self.owed = self.owed + wire, b""
        if wire:
            try:
                self.sock.sendall(wire)
            except OSError as e:
                raise Failure("%s: cannot send %s: %s" % (self.name, show(wire, 60), e))

    def _sealed(self, data):
        return self.tls.seal(data) if self.tls else data

    def records(self, *pieces):
        """Wire octets for wire(): a record for each piece."""
        return self.tls.seal(*pieces)

    def send(self, data):
        self.note("> " + show(data))
        self._raw(self._sealed(data))
        return self

    def wire(self, data):
        """Octets past TLS."""
        self.note("> (wire) " + show(data))
        self._raw(data)
        return self

    def settle(self):
        """Waits until the other process has read what was sent."""
        diag.wait_read(self.sock, self.t.wait)

    def _apart(self, pieces):
        """Each is read before the next is sent."""
        for i, piece in enumerate(pieces):
            if i:
                self.settle()
            self.sock.sendall(piece)
        return self

    def send_split(self, data, *positions):
        """In pieces (records, with TLS) that arrive in separate reads; positions ascending."""
        self.note("> %s in pieces at %s" % (show(data), list(positions)[:20]))
        return self._apart(self._sealed(piece) for piece in cut(data, positions))

    def wire_split(self, data, *positions):
        """The same past TLS: wire octets cut anywhere."""
        self.note("> (wire) %s in pieces at %s" % (show(data), list(positions)[:20]))
        return self._apart(cut(data, positions))

    def send_octets(self, data):
        """One octet at a time (each a record, with TLS), each read before the next is sent."""
        self.note("> %s octet by octet" % show(data))
        return self._apart(self._sealed(data[i:i + 1]) for i in range(len(data)))

    def send_async(self, data, chunk=1 << 18):
        """From a thread, for what does not fit into socket buffers. join_sender() waits for it."""
        self.note("> (in the background) " + show(data))
        self.send_error = None
        data = self._sealed(data)

        def run():
            try:
                view = memoryview(data)
                for at in range(0, len(view), chunk):
                    self.sock.sendall(view[at:at + chunk])
            except OSError as e:
                self.send_error = e
        self.sender = threading.Thread(target=run, daemon=True)
        self.sender.start()
        return self

    def join_sender(self, ok=True):
        self.sender.join(self.t.wait * 4)
        if self.sender.is_alive():
            raise Failure("%s: the background send does not end" % self.name)
        if ok and self.send_error:
            raise Failure("%s: the background send failed: %s" % (self.name, self.send_error))
        if not self.send_error:
            self._raw(b"")
        return self.send_error

    # ---- receiving ----

    def _more(self, end):
        """Receives once. False: closed or reset. Raises socket.timeout past `end`."""
        if self.eof:
            return False
        left = end - time.monotonic()
        if left <= 0:
            raise socket.timeout()
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError:
            self.eof = self.reset_seen = True
            self.note("< (reset)")
            return False
        finally:
            try:
                self.sock.settimeout(self.t.wait)
            except OSError:
                pass
        if not data:
            self.eof = True
            self.note("< (end%s)" % (" without close_notify" if self.truncated() else ""))
            return False
        self._came(data)
        return True

    def _came(self, data):
        if not self.tls:
            self.note("< " + show(data))
            self.clear += data[:max(0, CLEAR_KEPT - len(self.clear))]
            self.buf += data
            return
        plain = self.tls.feed(data)
        self._answer()
        if plain:
            self.note("< " + show(plain))
        if self.tls.error or self.tls.said_end:
            self.note("< (%s)" % (self.tls.error or "close_notify"))
        self.buf += plain

    def truncated(self):
        """Over, and the peer had not said that it ends."""
        return bool(self.tls and self.tls.done and self.eof and not self.tls.said_end)

    def _need(self, ready, what, seconds=None):
        end = time.monotonic() + (seconds or self.t.wait)
        while True:
            value = ready()
            if value:
                return value
            if self.tls and self.tls.error:
                raise Failure("%s: TLS failed (%s) while waiting for %s; got %s" % (self.name, self.tls.error, what, show(self.buf)))
            try:
                if not self._more(end):
                    raise Failure("%s: connection %s while waiting for %s; got %s" % (
                        self.name, "reset" if self.reset_seen else "ended", what, show(self.buf)))
            except socket.timeout:
                raise Failure("%s: timeout waiting for %s; got %s" % (self.name, what, show(self.buf)))

    def _take(self, n):
        out, self.buf = self.buf[:n], self.buf[n:]
        return out

    def expect(self, want):
        """Exactly these octets next."""
        want = bytes(want)

        def ready():
            n = min(len(self.buf), len(want))
            if self.buf[:n] != want[:n]:
                raise Failure("%s: wrong octets:\n  %s" % (self.name, difference(want, self.buf)))
            return n == len(want)
        self._need(ready, show(want)) if want else None
        self._take(len(want))
        return self

    def recv_exact(self, n, seconds=None):
        """n octets, for big transfers: no comparison, no quadratic copying."""
        parts, have = [self.buf], len(self.buf)
        end = time.monotonic() + (seconds or self.t.wait * 4)
        while have < n:
            self.buf = b""
            try:
                if not self._more(end):
                    raise Failure("%s: ended after %d of %d octets" % (self.name, have, n))
            except socket.timeout:
                raise Failure("%s: timeout after %d of %d octets" % (self.name, have, n))
            parts.append(self.buf)
            have += len(self.buf)
        self.buf = b"".join(parts)
        return self._take(n)

    def line(self):
        """The next line with its line end."""
        at = self._need(lambda: self.buf.find(b"\n") + 1, "a line")
        return self._take(at)

    def reply(self, want=None, seconds=None):
        """The next whole reply. `want`: octets it must start with, such as b"250" or b"421 4.3.2"."""
        n = self._need(lambda: reply_end(self.buf), "a reply" + (" %r" % want if want else ""), seconds)
        got = self._take(n)
        if want is not None and not got.startswith(want):
            raise Failure("%s: expected a reply %s, got %s" % (self.name, show(want), show(got)))
        if not got.endswith(b"\r\n"):
            raise Failure("%s: the reply does not end with CRLF: %s" % (self.name, show(got)))
        return got

    def replies(self, *wants):
        return [self.reply(w) for w in wants]

    def wait_octets(self, n, seconds=None):
        """Until at least n octets wait (they stay in .buf)."""
        self._need(lambda: len(self.buf) >= n, "%d octets" % n, seconds)
        return self.buf

    def quiet(self, seconds=0.15):
        """Nothing comes and nothing ends for a while; records without data (tickets) may come."""
        if self.buf:
            raise Failure("%s: octets that nobody expected: %s" % (self.name, show(self.buf)))
        end = time.monotonic() + seconds
        try:
            while not self.buf and not (self.tls and self.tls.said_end):
                if not self._more(end):
                    raise Failure("%s: ended, but should be open and quiet" % self.name)
        except socket.timeout:
            return self
        raise Failure("%s: should be quiet, got %s" % (self.name, show(self.buf) if self.buf else "close_notify"))

    def ended(self, seconds=None, reset_ok=False, quit_ok=False):
        """The peer closes, in order (so with close_notify, if it is TLS), and nothing comes before that."""
        end = time.monotonic() + (seconds or self.t.wait)
        try:
            while self._more(end):
                pass
        except socket.timeout:
            raise Failure("%s: the connection does not end" % self.name)
        if quit_ok and self.buf == b"QUIT\r\n":
            self.buf = b""
        if self.buf:
            raise Failure("%s: octets before the end that nobody expected: %s" % (self.name, show(self.buf)))
        if self.reset_seen and not reset_ok:
            raise Failure("%s: reset instead of an orderly end" % self.name)
        if self.truncated() and not reset_ok:
            raise Failure("%s: an end without close_notify" % self.name)
        return self

    def gone(self, seconds=None, quit_ok=True):
        """The connection is over, by an end or by a reset; an upstream may have been told QUIT."""
        return self.ended(seconds, reset_ok=True, quit_ok=quit_ok)

    def cut_off(self, seconds=None):
        """Over in mid-body: not one octet more, or it would have become a part of the message."""
        return self.gone(seconds, quit_ok=False)

    def rest(self, seconds=None):
        """Everything until the end."""
        end = time.monotonic() + (seconds or self.t.wait)
        try:
            while self._more(end):
                pass
        except socket.timeout:
            raise Failure("%s: the connection does not end; got %s" % (self.name, show(self.buf)))
        return self._take(len(self.buf))

    # ---- segments ----

    def mark_segments(self):
        self.segs_mark = diag.data_segments_in(self.sock)
        return self

    def segments(self):
        """Data segments since the mark, or None when the kernel does not say."""
        now = diag.data_segments_in(self.sock)
        return None if now is None or self.segs_mark is None else now - self.segs_mark

    # ---- ending ----

    def half_close(self):
        if self.tls:
            self.close_notify()
        return self.truncate()

    def close_notify(self):
        """The last word of TLS; the connection stays."""
        self.note("> (close_notify)")
        self._raw(self.tls.close_notify())
        return self

    def truncate(self):
        """The end of sending, without a word that it ends."""
        self.note("> (end of sending)")
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def close(self):
        self.note("> (close)")
        if self.tls and self.tls.done and not self.closed and not self.tls.error:
            try:
                self._raw(self.tls.close_notify())
            except Failure:
                pass
        self.shut()
        return self

    def reset(self):
        self.note("> (reset)")
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.shut()
        return self

    def shut(self):
        if not self.closed:
            self.closed = True
            self.sock.close()

    def pending(self):
        """What is here now, without waiting."""
        if not self.closed and not self.eof:
            self.sock.setblocking(False)
            data = b""
            try:
                data = self.sock.recv(1 << 18)
            except OSError:
                pass
            self.sock.settimeout(self.t.wait)
            if data:
                self._came(data)
        return self.buf

    def check_nothing_left(self):
        if self.closed or self.ignore_rest:
            return
        left = self.pending()
        if left:
            raise Failure("%s: octets that nobody expected at the end of the test: %s" % (self.name, show(left)))


def family_of(address):
    if address.startswith("unix:"):
        return socket.AF_UNIX
    return socket.AF_INET6 if address.startswith("[") else socket.AF_INET


def sockaddr(address):
    """"127.0.0.1:25", "[::1]:25", "unix:/path" as connect(2) wants it."""
    if address.startswith("unix:"):
        return address[5:]
    host, port = address.rsplit(":", 1)
    return (host.strip("[]"), int(port))


class ScriptedUpstream:
    """A listening socket. listen=False: bound but closed to everybody (ECONNREFUSED).
    full=True: its queue is filled, connects hang."""

    def __init__(self, t, address="127.0.0.1:0", name=None, listen=True, full=False, rcvbuf=None):
        self.t = t
        self.name = name or "U%d" % (len(t.upstreams) + 1)
        self.count = 0
        self.closed = False
        self.any_number = False
        self.fillers = []
        self.listening = False
        fam = family_of(address)
        self.sock = socket.socket(fam, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.bind(sockaddr(address))
        if fam == socket.AF_UNIX:
            os.chmod(address[5:], 0o777)
            self.address = address
        else:
            host, port = self.sock.getsockname()[:2]
            self.address = ("[%s]:%d" if fam == socket.AF_INET6 else "%s:%d") % (host, port)
        if listen:
            self.listen(full)
        t.upstreams.append(self)

    def listen(self, full=False):
        self.sock.listen(0 if full else 512)
        self.listening = True
        if full:
            for _ in range(4):
                s = socket.socket(self.sock.family, socket.SOCK_STREAM)
                s.setblocking(False)
                s.connect_ex(self.sock.getsockname())
                self.fillers.append(s)
            self.any_number = True
            time.sleep(0.05)
        return self

    def accept(self, seconds=None):
        self.sock.settimeout(seconds or self.t.wait)
        try:
            s, _ = self.sock.accept()
        except socket.timeout:
            raise Failure("%s: nobody connects" % self.name)
        self.count += 1
        c = Conn(self.t, s, self.name if self.count == 1 else "%s.%d" % (self.name, self.count), True)
        c.note("  (connected)")
        return c

    def waiting(self, seconds=0.0):
        if self.closed or not self.listening:
            return False
        return bool(select.select([self.sock], [], [], seconds)[0])

    def nobody(self, seconds=0.15):
        """No connection is made."""
        if self.waiting(seconds):
            raise Failure("%s: a connection that nobody expected" % self.name)

    def check_nobody_waits(self):
        if not self.closed and not self.any_number:
            self.nobody(0)

    def shut(self):
        if not self.closed:
            self.closed = True
            self.sock.close()
        for s in self.fillers:
            s.close()
        self.fillers = []

    def stop_listening(self):
        """Later connects are refused; the port stays ours."""
        self.t.log.note(self.name, "(stops listening)", True)
        name = self.sock.getsockname()
        fam = self.sock.family
        self.sock.close()
        self.listening = False
        self.sock = socket.socket(fam, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for _ in range(100):
            try:
                self.sock.bind(name)
                break
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise
                time.sleep(0.01)
        return self


def connect(t, address, name, rcvbuf=None, source=None):
    s = socket.socket(family_of(address), socket.SOCK_STREAM)
    if rcvbuf:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    if source:
        s.bind((source, 0))
    s.settimeout(t.wait)
    try:
        s.connect(sockaddr(address))
    except OSError as e:
        s.close()
        raise Failure("%s: cannot connect to ringpost at %s: %s" % (name, address, e))
    c = Conn(t, s, name, False)
    c.note("  (connected)")
    return c
