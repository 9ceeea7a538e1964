# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS of the tests' own peers, in memory: the test decides which wire octets leave, and when.

Tls is one side of one connection: wire octets go in and come out as octets, no socket is known here. Conn, the
AutoServer and the Crowd carry one each. A Bed is a ringpost between two scripted peers, each leg plain, by STARTTLS
or implicit, with the steps that open a session over them.

Two things that Python's ssl has no name for are asked of the library itself: key updates, and the renegotiation of
TLS 1.2, which must be refused.
"""
import _ssl
import ctypes
import functools
import hashlib
import os
import socket
import ssl
import subprocess
import warnings

from lib.core import Failure
from lib.ringpost import merge
from lib.smtp import CAPS, EHLO, GREETING, ehlo_reply, greet, keywords

NAME = "mx.example.org"  # in the certificates of tests/certs.sh
STARTTLS = b"STARTTLS\r\n"
GO_TLS = b"220 2.0.0 ready to start TLS\r\n"
LEGS = ("plain", "starttls", "implicit")
VERSIONS = {"1.1": ssl.TLSVersion.TLSv1_1, "1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
CHANGE_CIPHER, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23  # types of records


# ---- certificates and contexts ----

def pem(t, name):
    return os.path.join(t.certs(), name + ".pem")


def pair(t, name):
    """As the configuration wants it."""
    return {"chain": pem(t, name), "key": os.path.join(t.certs(), name + ".key")}


def der(t, name):
    """The first certificate of the file."""
    with open(pem(t, name)) as f:
        text = f.read()
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[:text.index(end) + len(end)] + "\n")


def pin(t, name, of="certificate"):
    """SHA-256 of the certificate, or of its public key."""
    if of == "certificate":
        return hashlib.sha256(der(t, name)).hexdigest()
    key = subprocess.run(["openssl", "x509", "-in", pem(t, name), "-noout", "-pubkey"], check=True, capture_output=True).stdout
    spki = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key, check=True, capture_output=True).stdout
    return hashlib.sha256(spki).hexdigest()


def _versions(context, low, high):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = VERSIONS[low]
        context.maximum_version = VERSIONS[high]
    if low == "1.1":
        context.set_ciphers("ALL:@SECLEVEL=0")


def server_context(t, name="ecdsa", low="1.2", high="1.3", client_ca=None, ciphers=None):
    """`asked` of it notes the names that clients asked for, None where they asked for none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem(t, name), os.path.join(t.certs(), name + ".key"))
    if ciphers:
        context.set_ciphers(ciphers)
    _versions(context, low, high)
    if client_ca:
        context.load_verify_locations(pem(t, client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
    context.asked = []
    context.sni_callback = lambda _obj, host, _context: context.asked.append(host)
    return context


def client_context(t, low="1.2", high="1.3", ca="ca", name=None, alpn=None, ciphers=None):
    """Verifies the chain (ca=None: nothing). `name`: of the client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if ca else ssl.CERT_NONE
    if ca:
        context.load_verify_locations(pem(t, ca))
    if name:
        context.load_cert_chain(pem(t, name), os.path.join(t.certs(), name + ".key"))
    if alpn:
        context.set_alpn_protocols(alpn)
    if ciphers:
        context.set_ciphers(ciphers)
    _versions(context, low, high)
    return context


# ---- one side of one connection ----

@functools.lru_cache(maxsize=None)
def _library():
    lib = ctypes.CDLL(_ssl.__file__)  # what it is linked with is found through it
    for name in ("SSL_is_server", "SSL_key_update", "SSL_do_handshake", "SSL_renegotiate"):
        getattr(lib, name).restype = ctypes.c_int
    return lib


class Tls:
    """`server`: which side this is. `name`: what a client asks for. `session`: of an earlier one, to be resumed."""

    def __init__(self, context, server, name=None, session=None):
        self.wire_in, self.wire_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.obj = context.wrap_bio(self.wire_in, self.wire_out, server_side=server, server_hostname=name, session=session)
        self.server = server
        self.done = False      # the handshake, as far as this side can tell
        self.version = None    # then
        self.said_end = False  # the peer's close_notify has come
        self.error = None      # the library's word for it; an alert of the peer is one too

    def shake(self):
        """A step of the handshake, with what has come so far."""
        if self.done or self.error:
            return
        try:
            self.obj.do_handshake()
            self.done, self.version = True, self.obj.version()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as e:
            self.error = e.reason or str(e)

    def take(self):
        """Wire octets that are to leave."""
        return self.wire_out.read()

    def feed(self, wire):
        """Wire octets have come. Returns what they say; take() may have an answer afterwards."""
        self.wire_in.write(wire)
        self.shake()
        parts = []
        while self.done and not self.error and not self.said_end:
            try:
                piece = self.obj.read(1 << 16)
                if piece:
                    parts.append(piece)
                else:
                    self.said_end = True
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self.said_end = True
            except ssl.SSLError as e:
                self.error = e.reason or str(e)
        return b"".join(parts)

    def seal(self, *pieces):
        """Wire octets that carry the pieces, each in a record (or several, above 16 KiB) of its own."""
        for piece in pieces:
            if piece:
                self.obj.write(piece)
        return self.take()

    def close_notify(self):
        try:
            self.obj.unwrap()
        except ssl.SSLError:
            pass  # the peer's own has not come: nothing to wait for
        return self.take()

    # ---- what Python has no name for ----

    def _pointer(self):
        """The library's SSL *: behind the object's head (two words) and its reference to a socket (none here)."""
        words = (ctypes.c_void_p * 4).from_address(id(self.obj._sslobj))
        if words[2] is not None or not words[3]:
            raise Failure("Python's SSL object does not look as it used to")
        ssl_p = ctypes.c_void_p(words[3])
        if _library().SSL_is_server(ssl_p) != int(self.server):
            raise Failure("Python's SSL object does not look as it used to")
        return ssl_p

    def key_update(self, answer=True):
        """TLS 1.3: new keys for what we send; `answer`: the peer is to do the same."""
        ssl_p = self._pointer()
        if _library().SSL_key_update(ssl_p, int(answer)) != 1 or _library().SSL_do_handshake(ssl_p) != 1:
            raise Failure("the library does not make a key update")
        return self.take()

    def renegotiate(self):
        """TLS 1.2: a second handshake inside the first."""
        ssl_p = self._pointer()
        if _library().SSL_renegotiate(ssl_p) != 1:
            raise Failure("the library does not renegotiate")
        _library().SSL_do_handshake(ssl_p)
        return self.take()


# ---- wire octets ----

def record(kind, body, version=b"\x03\x03"):
    """A record in clear."""
    return bytes([kind]) + version + len(body).to_bytes(2, "big") + body


def alert(number, fatal=True):
    return record(ALERT, bytes([2 if fatal else 1, number]))


def records(wire):
    """[(type, length of the body)], and what is left over behind the last whole one."""
    out, at = [], 0
    while len(wire) - at >= 5 and len(wire) - at >= 5 + int.from_bytes(wire[at + 3:at + 5], "big"):
        n = int.from_bytes(wire[at + 3:at + 5], "big")
        out.append((wire[at], n))
        at += 5 + n
    return out, wire[at:]


def only_records(t, wire, what, kinds=(CHANGE_CIPHER, ALERT, HANDSHAKE)):
    """Not one octet in clear, and no data."""
    got, left = records(wire)
    t.check(not left and all(kind in kinds for kind, _n in got), "%s: these are no records of types %r: %r (%r)" % (what, kinds, wire, got))


def first_flight(context, name=NAME):
    """A client's first octets, and the Tls they belong to."""
    tls = Tls(context, False, name)
    tls.shake()
    return tls, tls.take()


# ---- a ringpost between two peers ----

def tls_conf(t, client="plain", upstream="plain", site=None, to=None, certificate="ecdsa"):
    """{listener, up, conf} for t.ringpost(). `site` and `to`: more of `starttls:` and of the upstream's `tls:`; a None there
    takes a key out."""
    out = {"listener": {}, "up": {}, "conf": {}}
    if client != "plain":
        mode = {"mode": "implicit" if client == "implicit" else "offer", "certificates": "public"}
        out["conf"]["certificates"] = {"public": pair(t, certificate)}
        out["listener"]["starttls"] = merge(mode, site)
    if upstream != "plain":
        off = (to or {}).get("mode") == "off"
        mode = {} if off else {"mode": "require", "name": NAME, "ca": pem(t, "ca")}
        if upstream == "implicit":
            mode["implicit"] = True
        out["up"]["tls"] = merge(mode, to)
    return out


def start_tls(u, hello=EHLO, caps=(b"PIPELINING",), reply=b"220 2.0.0 go\r\n"):
    """The upstream's side, behind its greeting, of what comes in clear: nothing but this."""
    u.expect(hello).send(ehlo_reply(tuple(caps) + (b"STARTTLS",)))
    u.expect(STARTTLS).send(reply)
    return u


class Bed:
    """`servers`, `clients`: the contexts of our peers, client_context() and server_context() where none are given.
    rcvbuf: of the upstream's sockets. What is left goes to t.ringpost()."""

    def __init__(self, t, client="plain", upstream="plain", site=None, to=None, certificate="ecdsa", clients=None, servers=None,
                 rcvbuf=None, listener=None, up=None, conf=None, address="127.0.0.1:0", **kw):
        self.t, self.client, self.upstream = t, client, upstream
        self.clients = clients or client_context(t)
        self.servers = servers or server_context(t)
        self.up = t.upstream(rcvbuf=rcvbuf, address=address)
        own = tls_conf(t, client, upstream, site, to, certificate)
        self.rp = t.ringpost(self.up, listener=merge(own["listener"], listener), up=merge(own["up"], up),
                             conf=merge(own["conf"], conf), **kw)

    def arrive(self, session=None, **kw):
        """A client that has just connected; through with its handshake where that is the first thing."""
        c = self.rp.client(**kw)
        if self.client == "implicit":
            c.handshake(self.clients, name=NAME, session=session)
        return c

    def link(self, greeting=GREETING):
        """The upstream's side of a new link, its greeting said."""
        u = self.up.accept()
        if self.upstream == "implicit":
            u.handshake(self.servers, server=True)
        return u.send(greeting)

    def secure(self, u, hello=EHLO):
        """Up to where the client's own hello is due."""
        if self.upstream == "starttls":
            start_tls(u, hello).handshake(self.servers, server=True)
        return u

    def replayed(self, caps=CAPS):
        """The upstream's side of a replaced link, behind its EHLO."""
        return self.secure(self.link()).expect(EHLO).send(ehlo_reply(caps))

    def hello(self, c, u, caps=CAPS):
        c.send(EHLO)
        u.expect(EHLO).send(ehlo_reply(caps))
        return keywords(c.reply(b"250"))

    def upgrade(self, c, session=None):
        c.send(STARTTLS).expect(GO_TLS)
        return c.handshake(self.clients, name=NAME, session=session)

    def connect(self, caps=CAPS, session=None, **kw):
        """A session behind its (last) EHLO: the client and the upstream's connection."""
        c = self.arrive(session=session, **kw)
        u = self.up.accept()
        if self.upstream == "implicit":
            u.handshake(self.servers, server=True)
        greet(c, u)
        c.send(EHLO)
        self.secure(u).expect(EHLO).send(ehlo_reply(caps))
        shown = keywords(c.reply(b"250"))
        if self.client == "starttls":
            self.t.check(b"STARTTLS" in shown, "STARTTLS is offered: %r" % shown)
            self.upgrade(c, session)
            shown = self.hello(c, u, caps)
        self.t.check(b"STARTTLS" not in shown, "STARTTLS is not offered: %r" % shown)
        return c, u


def enter(c, context, how, name=NAME, session=None, ehlo=EHLO):
    """The client's side of opening a session where an AutoServer is the upstream: up to the reply to the last EHLO."""
    if how == "implicit":
        c.handshake(context, name=name, session=session)
    c.reply(b"220")
    c.send(ehlo)
    got = c.reply(b"250")
    if how == "starttls":
        c.send(STARTTLS).expect(GO_TLS)
        c.handshake(context, name=name, session=session)
        c.send(ehlo)
        got = c.reply(b"250")
    return keywords(got)


def own_address():
    """An address of this machine that is not loopback; None: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        host = s.getsockname()[0]
    return None if host.startswith("127.") else host
