# SPDX-License-Identifier: GPL-3.0-or-later
"""A scripted mail filter: the far end of ringpost's milter client.

Milter(t, say={"R": reply("y", "550 5.7.1 no")}) answers each step with `c` but those that `say` names. An
answer is octets (packets, from reply()), CLOSE, SILENT, or a function (connection, payload) that returns one
of them. What came is kept, per connection: packets, the macros before each, the body put together.

Threads: one that accepts, one per connection; what they keep is only appended to. start() after stop() brings
it back on the same address.
"""
import socket
import struct
import threading

from lib.core import Failure
from lib.peers import family_of, sockaddr

CLOSE, SILENT = object(), object()
ALL_ACTIONS = 0x1ff
NOTHING_OFFERED = 0x100  # SETSYMLIST is always there
QUARANTINE = 0x20
# Protocol bits.
NO_CONNECT, NO_HELO, NO_MAIL, NO_RCPT, NO_BODY, NO_HDRS, NO_EOH = (1 << n for n in range(7))
NR_HDR, SKIP, LEADING_SPACE, NO_DATA = 1 << 7, 1 << 10, 1 << 20, 1 << 9
# rspamd's: it answers nothing but the end of the body.
NO_REPLIES = 0xff080
UNANSWERED = "DAQK"


def packet(letter, payload=b""):
    return struct.pack(">I", len(payload) + 1) + letter.encode() + payload


def reply(letter, *strings, index=None):
    """A packet of strings, each with its NUL."""
    out = b"" if index is None else struct.pack(">I", index)
    return packet(letter, out + b"".join(s.encode("latin-1") + b"\0" for s in strings))


class Connection:
    def __init__(self, sock):
        self.sock = sock
        self.packets = []  # (letter, payload), macros left out
        self.macros = {}   # letter -> {name: value}, of the last time
        self.body = b""
        self.fields = []
        self.offer = None
        self.over = False

    def letters(self):
        return "".join(letter for letter, _ in self.packets)

    def payloads(self, letter):
        return [p for each, p in self.packets if each == letter]


class Milter:
    def __init__(self, t, say=None, version=6, actions=None, protocol=SKIP | LEADING_SPACE, macros=None,
                 address="127.0.0.1:0", loud=True):
        self.t, self.say, self.loud = t, dict(say or {}), loud
        self.version, self.actions, self.protocol, self.macros = version, actions, protocol, macros or {}
        self.address_wanted = address
        self.connections = []
        self.error = None
        self.thread = None
        t.servers.append(self)
        self.start()

    # ---- life ----

    def start(self):
        fam = family_of(self.address_wanted)
        self.sock = socket.socket(fam, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(sockaddr(self.address_wanted))
        self.sock.listen(512)
        if fam == socket.AF_UNIX:
            self.address = self.address_wanted
        else:
            self.address = self.address_wanted = "%s:%d" % self.sock.getsockname()[:2]
        self.running = True
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def stop(self):
        """Ends with all its connections, by a reset where something was not read."""
        if self.thread is None:
            return
        self.running = False
        self._shut(self.sock)
        self.thread.join(10)
        self.thread = None
        for c in list(self.connections):
            self._shut(c.sock)
        if self.error:
            raise Failure("the scripted milter failed: %s" % self.error)

    @staticmethod
    def _shut(sock):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _accept(self):
        while self.running:
            try:
                s, _ = self.sock.accept()
            except OSError:
                break
            c = Connection(s)
            self.connections.append(c)
            threading.Thread(target=self._serve, args=(c,), daemon=True).start()
        self.sock.close()

    # ---- one connection ----

    def _serve(self, c):
        try:
            f = c.sock.makefile("rb")
            while self._one(c, f):
                pass
        except OSError:
            pass
        except Exception:
            import traceback
            self.error = traceback.format_exc()
        c.over = True
        c.sock.close()

    def _one(self, c, f):
        head = f.read(5)
        if len(head) < 5:
            return False
        n, letter = struct.unpack(">IB", head)
        payload, letter = f.read(n - 1), chr(letter)
        if self.loud:
            self.t.log.note("M%d" % (self.connections.index(c) + 1), "%s %r" % (letter, payload[:200]), True)
        if letter == "D":
            words = payload[1:].split(b"\0")[:-1]
            c.macros[chr(payload[0])] = dict(zip(words[::2], words[1::2]))
        else:
            self._keep(c, letter, payload)
        answer = self.say.get(letter)
        if callable(answer):
            answer = answer(c, payload)
        if answer is None:
            answer = self._usual(c, letter, payload)
        if answer is CLOSE:
            return False
        if answer is not SILENT:
            c.sock.sendall(answer)
        return letter != "Q"

    def _keep(self, c, letter, payload):
        if letter in "MA":
            c.body, c.fields = b"", []
        elif letter == "B":
            c.body += payload
        elif letter == "L":
            c.fields.append(tuple(payload.split(b"\0")[:2]))
        c.packets.append((letter, payload))

    def _usual(self, c, letter, payload):
        if letter == "O":
            c.offer = struct.unpack(">III", payload)
            actions = c.offer[1] if self.actions is None else self.actions
            out = struct.pack(">III", self.version, actions, self.protocol)
            for stage, names in self.macros.items():
                out += struct.pack(">I", stage) + names.encode() + b"\0"
            return packet("O", out)
        silent = UNANSWERED if self.protocol & NO_REPLIES != NO_REPLIES else UNANSWERED + "CHMRTLNB"
        return SILENT if letter in silent else packet("c")

    # ---- for tests ----

    def connection(self, n=1):
        self.t.until(lambda: len(self.connections) >= n, "connection %d to the milter" % n)
        return self.connections[n - 1]

    def saw(self, letters, n=1):
        """Waits until the connection has had these steps, and no others before."""
        c = self.connection(n)
        try:
            self.t.until(lambda: len(c.letters()) >= len(letters), "steps %s" % letters)
        except Failure as e:
            raise Failure("%s; the milter has had %s" % (e, c.letters()))
        self.t.equal(c.letters(), letters, "the steps that the milter had")
        return c
