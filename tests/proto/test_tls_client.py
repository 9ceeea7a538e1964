# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's leg: when STARTTLS may be said and what it forgets, what goes before it, certificates, resumption, AUTH in
clear; handshakes that fail, trickle, never begin, come by the thousand, or are under way when the process goes down."""
import itertools
import os
import select
import signal
import socket
import struct
import time

from lib.core import Skip, cases, test
from lib.peers import sockaddr
from lib.smtp import BODY, CAPS, EHLO, GREETING, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, ehlo_reply, message, quit_, step
from lib.tls import (ALERT, GO_TLS, HANDSHAKE, NAME, STARTTLS, Bed, alert, client_context, der, first_flight, only_records, own_address,
                     pair, pem, record, server_context, tls_conf)

OURS = {"starttls": "starttls", "implicit": "implicit"}
VERSIONS = {"1.2": "1.2", "1.3": "1.3"}
AUTH_CAPS = CAPS + (b"AUTH PLAIN LOGIN",)
OPEN = {"per-client-sessions": 0, "errors": 1000000, "soft-errors": 1000000, "junk": 1000000}
QUICK = {"timeouts": {"tls": "1s"}}
RECORDS = (20, 21, 22, 23)


def to_the_door(b):
    """A client to whom it is said, or who knows, that TLS is next; what comes from it now is a hello."""
    c = b.arrive() if b.client == "starttls" else b.rp.client()
    if b.client == "implicit":
        return c, None
    u = b.link()
    c.expect(GREETING)
    b.hello(c, u)
    c.send(STARTTLS).expect(GO_TLS)
    return c, u


def turned_away(t, b, c, u, reason, causes=None, kinds=(ALERT,)):
    """The session is over without a word in clear and without a command for the upstream."""
    only_records(t, c.rest(b.t.wait * 2), "what the client got", kinds)
    if u is not None:
        t.check(u.rest() in (b"", b"QUIT\r\n"), "what the upstream got")
        u.close()
    c.close()
    rec = b.rp.record("session", b.rp.clients)
    t.equal(rec["reason"], reason, "reason, in %r" % rec)
    if causes:
        t.check(rec.get("cause") in causes, "cause in %r, in %r" % (causes, rec))


# ---- STARTTLS ----

@cases(VERSIONS, quick=True)
def what_is_in_the_record(t, version):
    b = Bed(t, "starttls", clients=client_context(t, version, version))
    c, u = b.connect()
    message(c, u)
    quit_(c, u)
    rec = b.rp.record("session")
    t.equal((rec["tls"], rec["tls_cipher"], rec["tls_sni"]), ("TLSv" + version, cipher_name(c), NAME), "facts")
    for key in ("tls_resumed", "tls_subject", "tls_verified", "upstream_tls", "tls_opaque", "cause"):
        t.check(key not in rec, "%s in the record: %r" % (key, rec))
    t.equal(b.rp.stop_now()["tls_handshakes"], 1, "counter")


IANA = {"ECDHE-ECDSA-AES128-GCM-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}


def cipher_name(c):
    name = c.tls.obj.cipher()[0]
    return IANA.get(name, name)


@test(quick=True)
def the_list_before_and_after(t):
    """STARTTLS is ours, whatever the upstream says of it; everything else is the upstream's, each time anew."""
    for caps in (CAPS, CAPS + (b"STARTTLS", b"REQUIRETLS")):
        t.round(caps)
        b = Bed(t, "starttls")
        c = b.arrive()
        u = b.link()
        c.expect(GREETING)
        before = b.hello(c, u, caps + (b"XBEFORE",))
        t.equal(set(before), set(CAPS) | {b"STARTTLS", b"XBEFORE"}, "shown before")
        b.upgrade(c)
        u.quiet(0.05)
        after = b.hello(c, u, caps + (b"XAFTER",))
        t.equal(set(after), set(CAPS) | {b"XAFTER"}, "shown after")
        c.send(b"HELO client.test\r\n")
        u.expect(b"HELO client.test\r\n").send(b"250 up.test\r\n")
        c.expect(b"250 up.test\r\n")
        c.close()
        u.gone()


@test(quick=True)
def when_it_may_be_said(t):
    b = Bed(t, "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(STARTTLS)
    c.reply(b"503 5.5.1")
    b.hello(c, u)
    c.send(b"STARTTLS now\r\n")
    c.reply(b"501 5.5.4")
    c.send(b"sTaRtTlS\r\n").expect(GO_TLS)
    c.handshake(b.clients, name=NAME)
    c.send(STARTTLS)
    c.reply(b"503 5.5.1")
    b.hello(c, u)
    c.send(STARTTLS)
    c.reply(b"503 5.5.1")
    message(c, u)


@test(quick=True)
def behind_helo(t):
    """Nobody was told of it, but who knows may ask."""
    b = Bed(t, "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    step(c, u, b"HELO client.test\r\n", b"250 up.test\r\n")
    b.upgrade(c)
    b.hello(c, u)
    message(c, u)


@test(quick=True)
def behind_commands_in_one_read(t):
    b = Bed(t, "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    b.hello(c, u)
    c.send(b"NOOP x\r\nNOOP y\r\n" + STARTTLS)
    u.expect(b"NOOP x\r\nNOOP y\r\n").quiet(0.05)
    u.send(b"250 x\r\n250 y\r\n")
    c.expect(b"250 x\r\n250 y\r\n" + GO_TLS).handshake(b.clients, name=NAME)
    b.hello(c, u)
    message(c, u)


@test(quick=True)
def an_open_transaction_is_left(t):
    b = Bed(t, "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    b.hello(c, u)
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    b.upgrade(c)
    u.expect(b"RSET\r\n").send(b"250 flushed\r\n")
    t.equal(b.rp.record("transaction")["result"], "aborted", "record")
    b.hello(c, u)
    message(c, u)


@test(quick=True)
def not_behind_auth(t):
    b = Bed(t, "starttls", listener={"auth-in-clear": "on"})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    b.hello(c, u, AUTH_CAPS)
    step(c, u, b"AUTH PLAIN AGEAYg==\r\n", b"235 2.7.0 welcome\r\n")
    c.send(STARTTLS)
    c.reply(b"503 5.5.1")
    step(c, u, MAIL, OK_MAIL)


@test(quick=True)
def a_client_that_says_it_and_leaves(t):
    b = Bed(t, "starttls")
    for how in ("close", "reset", "half_close"):
        t.round(how)
        c, u = to_the_door(b)
        getattr(c, how)()
        t.check(u.rest() in (b"", b"QUIT\r\n"), "what the upstream got")
        if how == "half_close":
            t.equal(c.rest(), b"", "what the client got")
        c.close()
        u.close()
    b.rp.sockets_back()


@test(quick=True)
def the_upstream_goes_during_the_handshake(t):
    """The client's handshake is no matter of the upstream: the next hello gets a new link."""
    b = Bed(t, "starttls")
    c, u = to_the_door(b)
    u.close()
    time.sleep(0.05)
    c.handshake(b.clients, name=NAME)
    c.send(EHLO)
    u = b.link()
    u.expect(EHLO).send(ehlo_reply())
    c.reply(b"250")
    message(c, u)


# ---- the second hello ----

def hello_of(random_, session, shares):
    """A ClientHello of TLS 1.3 with these key shares, in records."""
    def ext(kind, data):
        return struct.pack("!HH", kind, len(data)) + data
    keys = b"".join(struct.pack("!HH", group, len(key)) + key for group, key in shares)
    more = (ext(43, b"\x02\x03\x04") + ext(13, b"\x00\x04\x04\x03\x08\x04") + ext(10, b"\x00\x04\x00\x1d\x00\x17") +
            ext(51, struct.pack("!H", len(keys)) + keys))
    body = b"\x03\x03" + random_ + b"\x20" + session + b"\x00\x02\x13\x01\x01\x00" + struct.pack("!H", len(more)) + more
    whole = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return b"".join(record(HANDSHAKE, whole[i:i + 16000]) for i in range(0, len(whole), 16000))


@test(quick=True)
def the_second_hello_is_bounded(t):
    """The look into the first one does not see it, and thousands of key shares are work that grows with their square: it
    ends before they are read, without the alert that reading them would bring."""
    b = Bed(t, "implicit")
    c, _ = to_the_door(b)
    names = os.urandom(32), os.urandom(32)
    c.wire(hello_of(*names, []))
    c.wait_octets(43)
    t.check(c.buf[11:15] == b"\xcf\x21\xad\x74", "no HelloRetryRequest: %r" % c.buf[:50])
    c.buf = b""
    c.wire(hello_of(*names, [(0x4000 + i, b"k") for i in range(3000)]))
    t.equal(c.rest(t.wait), b"", "what the client got")
    rec = b.rp.record("session")
    t.equal((rec["reason"], rec["cause"]), ("tls-failed", "tls-protocol"), "record")


# ---- implicit ----

@cases(VERSIONS, quick=True)
def implicit_tls_asks_nobody_before_it_is_done(t, version):
    """No link is opened for a client that has not finished its handshake."""
    b = Bed(t, "implicit", clients=client_context(t, version, version))
    c = b.rp.client()
    tls, hello = first_flight(b.clients)
    c.wire(hello[:-1])
    b.up.nobody(0.2)
    c.tls = tls
    c.wire(hello[-1:])
    c.handshake()
    u = b.link()
    c.expect(GREETING)
    t.check(b"STARTTLS" not in b.hello(c, u, CAPS + (b"STARTTLS",)), "STARTTLS is shown")
    c.send(STARTTLS)
    c.reply(b"503 5.5.1")
    message(c, u)
    quit_(c, u)


@cases({"%s,%s" % x: x for x in itertools.product(OURS, VERSIONS)}, quick=True)
def a_hello_cut_at_every_octet(t, case):
    """Two segments; commands come in the same segment as the end of the handshake."""
    how, version = case
    context = client_context(t, version, version)
    srv = t.auto()
    conf = tls_conf(t, how)
    conf["listener"]["limits"] = OPEN
    rp = t.ringpost(srv, **conf)
    n = len(first_flight(context)[1])
    for at in list(range(1, 12)) + list(range(12, n, 37)) + [n - 1]:
        t.round("cut at %d of %d" % (at, n))
        c = rp.client()
        if how == "starttls":
            c.replies(b"220")
            c.send(EHLO)
            c.reply(b"250")
            c.send(STARTTLS).expect(GO_TLS)
        tls, hello = first_flight(context)
        c.wire_split(hello, at)
        c.tls = tls
        finish(c, t, EHLO)
        if how == "implicit":
            c.reply(b"220")
        c.reply(b"250")
        c.send(b"QUIT\r\n")
        c.reply(b"221")
        c.ended()
    t.equal(srv.connections, rp.stop_now()["tls_handshakes"], "counter")


def finish(c, t, data):
    """The rest of a client's handshake; its last flight and the first data leave in one segment."""
    end = time.monotonic() + t.wait
    while True:
        wire = c.sock.recv(65536)
        t.check(wire and time.monotonic() < end, "the handshake does not end")
        c.buf += c.tls.feed(wire)
        if c.tls.done:
            break
        c.sock.sendall(c.tls.take())
    c.wire(c.tls.take() + c.tls.seal(data))


@test(quick=True)
def passed_through_it_is_the_servers(t):
    """`starttls: passthrough`: client and server shake hands with each other."""
    up = t.upstream()
    rp = t.ringpost(up, listener={"starttls": "passthrough"})
    c = rp.client()
    u = up.accept()
    u.send(GREETING)
    c.expect(GREETING).send(EHLO)
    u.expect(EHLO).send(ehlo_reply(CAPS + (b"STARTTLS",)))
    c.reply(b"250")
    step(c, u, STARTTLS, b"220 2.0.0 go\r\n")
    c.start_tls(client_context(t), name=NAME)
    u.start_tls(server_context(t), server=True)
    c.tls.shake()
    c.wire(c.tls.take())
    for conn in (u, c, u):
        t.check(conn._more(time.monotonic() + t.wait), "the handshake ends")
    t.check(c.tls.done and u.tls.done, "the handshake")
    message(c, u)
    c.half_close()
    u.ended()
    u.close()
    c.ended()
    t.check(rp.record("session")["tls_opaque"], "record")


# ---- what goes before TLS where it is required ----

REFUSED = (MAIL, RCPT, b"DATA\r\n", b"VRFY x\r\n", b"EXPN x\r\n", b"HELP\r\n", b"AUTH PLAIN AGEAYg==\r\n", b"ETRN x\r\n", b"XFOO\r\n",
           b"BDAT 31 LAST\r\nMAIL FROM:<evil@x.test>\r\nQUIT\r\n")


@test(quick=True)
def nothing_but_this_before_tls_where_it_is_required(t):
    b = Bed(t, "starttls", site={"mode": "require"}, listener={"limits": OPEN})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    shown = b.hello(c, u, AUTH_CAPS)
    t.check(b"STARTTLS" in shown, "shown: %r" % shown)
    for command in REFUSED:
        t.round(command)
        c.send(command)
        t.equal(c.reply(), b"530 5.7.0 must issue a STARTTLS command first\r\n", "reply to %r" % command)
    step(c, u, b"NOOP\r\n", b"250 ok\r\n")
    step(c, u, b"RSET\r\n", b"250 ok\r\n")
    step(c, u, b"HELO client.test\r\n", b"250 up.test\r\n")
    b.hello(c, u)
    c.send(MAIL + RCPT + b"DATA\r\nNOOP\r\n")
    c.replies(b"530 5.7.0", b"530 5.7.0", b"530 5.7.0")
    u.expect(b"NOOP\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")
    b.upgrade(c)
    b.hello(c, u)
    message(c, u)
    quit_(c, u)
    t.equal(b.rp.stop_now()["tls_required_refusals"], len(REFUSED) + 3, "counter")


@test(quick=True)
def quit_before_tls(t):
    b = Bed(t, "starttls", site={"mode": "require"})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    quit_(c, u)


@test(quick=True)
def required_before_a_hello(t):
    b = Bed(t, "starttls", site={"mode": "require"})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(MAIL)
    c.reply(b"530 5.7.0")
    u.quiet(0.05)


# ---- AUTH in clear ----

def auth_of(t, b, caps=AUTH_CAPS):
    """Is AUTH shown, and what is said to it in clear? (shown, the reply's code)"""
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    shown = b"AUTH" in b.hello(c, u, caps)
    c.send(b"AUTH PLAIN AGEAYg==\r\n")
    if shown:
        u.expect(b"AUTH PLAIN AGEAYg==\r\n").send(b"235 2.7.0 welcome\r\n")
    else:
        u.quiet(0.05)
    code = c.reply()[:10]
    c.close()
    u.gone()
    return shown, code


PASSED, HIDDEN = (True, b"235 2.7.0 "), (False, b"538 5.7.11")


@cases({"off": ("off", HIDDEN), "local": ("local", PASSED), "on": ("on", PASSED), "default": (None, PASSED)}, quick=True)
def auth_in_clear_of_a_local_client(t, case):
    value, want = case
    b = Bed(t, "starttls", listener={"auth-in-clear": value} if value else {})
    t.equal(auth_of(t, b), want, "AUTH in clear")
    t.equal(b.rp.stop_now()["clear_auth_refusals"], int(want is HIDDEN), "counter")


@cases({"off": ("off", HIDDEN), "local": ("local", HIDDEN), "on": ("on", PASSED), "default": (None, HIDDEN)}, quick=True)
def auth_in_clear_of_a_client_from_elsewhere(t, case):
    value, want = case
    own = own_address()
    if not own:
        raise Skip("this machine has no address but loopback")
    listener = {"clients": "any"}
    if value:
        listener["auth-in-clear"] = value
    b = Bed(t, "starttls", listener=listener, bind=own + ":0")
    t.equal(auth_of(t, b), want, "AUTH in clear")


@test(quick=True)
def auth_in_clear_of_a_client_of_a_unix_socket(t):
    b = Bed(t, "starttls", bind="unix:" + t.path("in.sock"))
    t.equal(auth_of(t, b), PASSED, "AUTH in clear")


@test(quick=True)
def auth_in_clear_is_no_matter_of_listeners_without_tls(t):
    own = own_address()
    b = Bed(t, "plain", listener={"clients": "any"}, bind=(own or "127.0.0.1") + ":0")
    t.equal(auth_of(t, b), PASSED, "AUTH in clear")


@cases(OURS, quick=True)
def auth_behind_tls(t, how):
    b = Bed(t, how, listener={"auth-in-clear": "off"} if how == "starttls" else {})
    c, u = b.connect(AUTH_CAPS)
    step(c, u, b"AUTH PLAIN\r\n", b"334 \r\n")
    step(c, u, b"AGEAYg==\r\n", b"235 2.7.0 welcome\r\n")
    message(c, u)


@test(quick=True)
def auth_is_shown_only_behind_tls(t):
    b = Bed(t, "starttls", listener={"auth-in-clear": "off"})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    t.check(b"AUTH" not in b.hello(c, u, AUTH_CAPS), "shown in clear")
    b.upgrade(c)
    t.check(b"AUTH" in b.hello(c, u, AUTH_CAPS), "not shown behind TLS")


# ---- versions, ciphers, names ----

TOO_OLD = {"1.1": ("1.1", "1.1", "1.2"), "1.2": ("1.2", "1.2", "1.3")}


@cases({"%s,%s" % (how, v): (how, TOO_OLD[v]) for how, v in itertools.product(OURS, TOO_OLD)}, quick=True)
def a_client_that_is_too_old(t, case):
    """TLS 1.1 is nobody's any more; 1.2 where the minimum is 1.3."""
    how, (low, high, least) = case
    b = Bed(t, how, site={"min-version": least}, clients=client_context(t, low, high))
    c, u = to_the_door(b)
    c.handshake_fails(b.clients, name=NAME)
    if u:
        t.check(u.rest() in (b"", b"QUIT\r\n"), "what the upstream got")
    rec = b.rp.record("session")
    t.equal((rec["reason"], rec["cause"]), ("tls-failed", "tls-version"), "record")
    c.close()
    t.equal(b.rp.stop_now()["tls_failed"], 1, "counter")


@test(quick=True)
def no_common_cipher(t):
    b = Bed(t, "implicit", site={"min-version": "1.2", "ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"},
            clients=client_context(t, "1.2", "1.2", ciphers="ECDHE-ECDSA-AES128-GCM-SHA256"))
    c, _ = to_the_door(b)
    c.handshake_fails(b.clients, name=NAME)
    rec = b.rp.record("session")
    t.equal((rec["reason"], rec["cause"]), ("tls-failed", "tls-cipher"), "record")


def certificates(t, names, **kw):
    b = Bed(t, "implicit", conf={"certificates": {"public": [pair(t, n) for n in names]}}, **kw)
    return b


def shown_to(b, context, name=NAME):
    """The certificate that a client of this kind gets."""
    b.clients = context
    c = b.rp.client()
    c.handshake(context, name=name)
    u = b.link()
    c.expect(GREETING)
    got = c.tls.obj.getpeercert(binary_form=True)
    quit_(c, u)
    return got


@test(quick=True)
def rsa_beside_ecdsa(t):
    b = certificates(t, ("rsa", "ecdsa"))
    t.equal(shown_to(b, client_context(t)), der(t, "ecdsa"), "for one who can use either")
    t.equal(shown_to(b, client_context(t, "1.2", "1.2", ciphers="ECDHE-RSA-AES128-GCM-SHA256")), der(t, "rsa"), "for one who knows RSA only")
    t.equal(shown_to(b, client_context(t, "1.2", "1.2", ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")), der(t, "ecdsa"), "for one who knows ECDSA only")


@test(quick=True)
def certificates_by_name(t):
    b = certificates(t, ("ecdsa", "other-name"))
    for name, want in ((NAME, "ecdsa"), ("other.example.net", "other-name"), ("a.wild.example", "ecdsa"), ("OTHER.example.NET", "other-name"),
                       ("nobody.example", "ecdsa"), (None, "ecdsa")):
        t.equal(shown_to(b, client_context(t), name), der(t, want), "certificate for %r" % name)
    t.equal([r.get("tls_sni", "") for r in (b.rp.record("session", n + 1) for n in range(2))], [NAME, "other.example.net"], "tls_sni")


ALPN = {"smtp": (["smtp"], "smtp"), "absent": (None, None), "among-others": (["h2", "smtp"], "smtp"), "another": (["http/1.1"], False)}


@cases(ALPN, quick=True)
def alpn(t, case):
    """RFC 7301: another protocol on the same name must not find a server here (ALPACA)."""
    offered, want = case
    b = Bed(t, "implicit", clients=client_context(t, alpn=offered))
    if want is False:
        c, _ = to_the_door(b)
        c.handshake_fails(b.clients, name=NAME)
        rec = b.rp.record("session")
        t.equal((rec["reason"], rec["cause"]), ("tls-failed", "tls-alpn"), "record")
        return
    c, u = b.connect()
    t.equal(c.tls.obj.selected_alpn_protocol(), want, "protocol")
    message(c, u)


# ---- client certificates ----

CLIENTS = {"%s,%s" % x: x for x in itertools.product(("none", "optional", "require"), ("nothing", "good", "stranger"))}


@cases(CLIENTS, quick=True)
def client_certificates(t, case):
    for version in VERSIONS:
        t.round(version)
        client_certificate(t, version, *case)


def client_certificate(t, version, mode, shows):
    name = {"nothing": None, "good": "client", "stranger": "selfsigned"}[shows]
    site = {"client-certificates": mode}
    if mode != "none":
        site["client-ca"] = pem(t, "client-ca")
    b = Bed(t, "implicit", site=site, clients=client_context(t, version, version, name=name))
    if mode == "require" and shows != "good":
        c, _ = to_the_door(b)
        c.handshake_fails(b.clients, name=NAME)
        rec = b.rp.record("session")
        causes = {"tls-no-certificate"} if shows == "nothing" else {"tls-unknown-ca", "tls-self-signed", "tls-no-certificate"}
        t.equal(rec["reason"], "tls-failed", "reason")
        t.check(rec["cause"] in causes, "cause: %r" % rec)
        b.up.nobody()
        return
    c, u = b.connect()
    message(c, u)
    quit_(c, u)
    rec = b.rp.record("session")
    if mode == "none" or shows == "nothing":
        t.check("tls_subject" not in rec and "tls_verified" not in rec, "record: %r" % rec)
    elif shows == "good":
        t.equal((rec["tls_subject"], rec["tls_verified"]), ("client.example.com", True), "record")
    else:
        t.equal((rec["tls_subject"], rec["tls_verified"]), (NAME, False), "record")


# ---- resumption ----

def resume(b, c, u):
    """The session of `c` after a message, which brings its ticket along."""
    message(c, u)
    session = c.tls.obj.session
    quit_(c, u)
    return session


@cases({"%s,%s" % x: x for x in itertools.product(OURS, VERSIONS)}, quick=True)
def resumption(t, case):
    """Tickets of one worker are good at the other."""
    how, version = case
    b = Bed(t, how, clients=client_context(t, version, version), workers=2)
    c, u = b.connect()
    t.check(not c.tls.obj.session_reused, "resumed from nothing")
    session = resume(b, c, u)
    for n in range(8):
        t.round(n)
        c, u = b.connect(session=session)
        t.check(c.tls.obj.session_reused, "session %d is not resumed" % n)
        session = resume(b, c, u)
    b.rp.record("session", 8, tls_resumed=True)
    b.rp.record("session", 9)
    t.equal(len(b.rp.records("session", tls_resumed=True)), 8, "records with tls_resumed")
    stop = b.rp.stop_now()
    t.equal((stop["tls_handshakes"], stop["tls_resumed"]), (9, 8), "counters")


@test(quick=True)
def resumption_keeps_the_clients_certificate(t):
    b = Bed(t, "implicit", site={"client-certificates": "require", "client-ca": pem(t, "client-ca")},
            clients=client_context(t, name="client"))
    c, u = b.connect()
    session = resume(b, c, u)
    c, u = b.connect(session=session)
    resumed = c.tls.obj.session_reused
    quit_(c, u)
    rec = b.rp.record("session", 2)
    t.equal((rec.get("tls_subject"), rec.get("tls_verified")), ("client.example.com", True), "record (resumed: %s)" % resumed)


@test(quick=True)
def a_forged_ticket_is_a_full_handshake(t):
    """Of another process: its keys are others."""
    context = client_context(t, "1.2", "1.2")
    first = Bed(t, "implicit", clients=context)
    c, u = first.connect()
    session = resume(first, c, u)
    second = Bed(t, "implicit", clients=context)
    c, u = second.connect(session=session)
    t.check(not c.tls.obj.session_reused, "resumed at a stranger's")
    message(c, u)


# ---- handshakes that fail ----

HELLO = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\1" + b"\1\0"  # without extensions, so it cannot be answered


GARBAGE = {
    "plain-ehlo": EHLO,
    "plain-mail": MAIL + RCPT,
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": b"\0" * 100,
    "noise": bytes(range(255, 100, -1)),
    "sslv2": b"\x80\x2e\1\0\2\0\x15\0\0\0\x10" + b"x" * 40,
    "no-type": record(99, b"x" * 30),
    "data-first": record(23, b"x" * 30),
    "ccs-first": record(20, b"\1") + record(23, b"x" * 30),
    "alert-fatal": alert(40),
    "alert-close": alert(0, fatal=False),
    "alert-of-no-length": record(21, b""),
    "oversize": record(22, b"\1" + b"x" * 20000),
    "length-64k": b"\x16\3\1\xff\xff" + b"x" * 70000,
    "hello-without-extensions": record(HANDSHAKE, b"\1" + len(HELLO).to_bytes(3, "big") + HELLO, b"\3\1"),
    "hello-of-no-length": record(22, b"\1\0\0\0"),
    "hello-of-16-mb": record(22, b"\1\xff\xff\xff" + b"x" * 1000),
    "server-hello": record(22, b"\2\0\0\x26\3\3" + b"r" * 32 + b"\0\x13\1\0"),
    "finished": record(22, b"\x14\0\0\x0c" + b"x" * 12),
}


def record_of(rp, port):
    """The session record of the client that had this port."""
    rp.t.until(lambda: [r for r in rp.records("session") if r["client"].endswith(":%d" % port)], "a session record of port %d" % port)
    return next(r for r in rp.records("session") if r["client"].endswith(":%d" % port))


@cases(OURS, quick=True)
def no_hello_of_tls(t, how):
    """The session ends without one plain word; nobody upstream has heard of it. All at once: some are waited for, as more
    might come."""
    b = Bed(t, how, listener=QUICK)
    peers = {}
    for what, octets in GARBAGE.items():
        c, u = to_the_door(b)
        try:
            c.wire(octets)
        except AssertionError:
            pass  # it had seen enough
        peers[what] = c, u, c.sock.getsockname()[1]
    for what, (c, u, port) in peers.items():
        t.note("now: " + what)
        only_records(t, c.rest(), "what the client got", kinds=(ALERT,))
        c.close()
        if u:
            t.check(u.rest() in (b"", b"QUIT\r\n"), "what the upstream got")
        rec = record_of(b.rp, port)
        t.check(rec["reason"] in ("tls-failed", "tls-timeout"), "%s: reason, in %r" % (what, rec))
        t.check(rec.get("cause", "tls-").startswith("tls-"), "%s: cause, in %r" % (what, rec))
        if what in ("plain-ehlo", "http", "zeros"):
            t.equal((rec["reason"], rec["cause"]), ("tls-failed", "tls-not-tls"), "record of %s" % what)
    stop = b.rp.stop_now()
    t.equal((stop["tls_handshakes"], stop["tls_failed"] + stop["tls_timeouts"]), (0, len(GARBAGE)), "counters")


@cases({"%s,%s" % x: x for x in itertools.product(OURS, VERSIONS)}, quick=True)
def alerts_at_every_step(t, case):
    """Behind the hello; in the place of the last flight; sealed, from a client that does not like the certificate."""
    how, version = case
    context = client_context(t, version, version)
    b = Bed(t, how, clients=context)
    for number in (0, 10, 40, 48, 80, 90, 255):
        t.round("alert %d behind the hello" % number)
        c, u = to_the_door(b)
        tls, hello = first_flight(context)
        c.wire(hello)
        c.wait_octets(1)
        try:
            c.wire(alert(number))
        except AssertionError:
            pass
        got = c.rest()
        only_records(t, got, "what the client got", kinds=RECORDS)
        c.close()
        if u:
            t.check(u.rest() in (b"", b"QUIT\r\n"), "what the upstream got")
            u.close()
        rec = b.rp.record("session", b.rp.clients)
        t.equal(rec["reason"], "tls-failed", "reason, in %r" % rec)
    t.round("a client that trusts another CA")
    c, u = to_the_door(b)
    word = c.handshake_fails(client_context(t, version, version, ca="client-ca"), name=NAME)
    t.equal(word, "CERTIFICATE_VERIFY_FAILED", "our own library's word")
    if u:
        u.rest()
    rec = b.rp.record("session", b.rp.clients)
    # OpenSSL says it in clear, as it has no keys yet; in TLS 1.3 nothing in clear is believed by then.
    t.equal(rec["reason"], "tls-failed", "reason")
    t.check(rec["cause"] == "tls-certificate-refused" or (version, rec["cause"]) == ("1.3", "tls-protocol"), "cause, in %r" % rec)


@cases({"%s,%s" % x: x for x in itertools.product(OURS, ("truncate", "reset"))}, quick=True)
def client_gone_in_the_handshake(t, case):
    """After each of its flights, and inside of one."""
    how, end = case
    b = Bed(t, how)
    context = client_context(t)
    for sent in (0, 1, 5, 100, None):
        t.round("after %r octets of the hello" % sent)
        c, u = to_the_door(b)
        _tls, hello = first_flight(context)
        t.until(lambda: b.rp.sockets() > b.rp.base_sockets, "it is accepted")
        if sent != 0:
            c.wire(hello[:sent])
            c.settle()
        if sent is None:
            c.wait_octets(1)
        getattr(c, end)()
        if end == "truncate":
            got = c.rest()
            only_records(t, got, "what the client got", kinds=RECORDS)
        if u:
            t.check(u.rest() in (b"", b"QUIT\r\n"), "what the upstream got")
            u.close()
        c.close()
        rec = b.rp.record("session", b.rp.clients)
        t.check(rec["reason"] in ("tls-failed", "client-eof", "client-reset"), "reason, in %r" % rec)
    b.rp.sockets_back()
    t.equal(b.rp.stop_now()["tls_handshakes"], 0, "handshakes")


# ---- handshakes that take their time ----

@cases(OURS, quick=True)
def a_handshake_that_never_begins(t, how):
    b = Bed(t, how, listener=QUICK)
    c, u = to_the_door(b)
    turned_away(t, b, c, u, "tls-timeout")
    t.equal(b.rp.stop_now()["tls_timeouts"], 1, "counter")


@cases({"%s,%s" % x: x for x in itertools.product(OURS, ("hello", "last-flight"))}, quick=True)
def a_handshake_that_trickles(t, case):
    """Each octet is progress, and still the whole of it has its time."""
    how, where = case
    b = Bed(t, how, listener=QUICK)
    c, u = to_the_door(b)
    tls, wire = first_flight(b.clients)
    if where == "last-flight":
        c.wire(wire)
        while not tls.done:
            tls.feed(c.sock.recv(65536))
        wire = tls.take()
    sent = 0
    while not select.select([c.sock], [], [], 0.05)[0]:
        t.check(sent < len(wire) - 1, "the handshake has no end of time")
        try:
            c.sock.sendall(wire[sent:sent + 1])
        except OSError:
            break
        sent += 1
    # In TLS 1.3 our last word is sealed already.
    turned_away(t, b, c, u, "tls-timeout", kinds=(ALERT,) if where == "hello" else RECORDS)


@test(quick=True)
def a_handshake_in_time_has_no_deadline_behind_it(t):
    b = Bed(t, "implicit", listener=QUICK)
    c, u = b.connect()
    time.sleep(1.3)
    message(c, u)


@test(timeout=90, serial=True)
def a_flood_of_handshakes_starves_nobody(t):
    """A thousand hellos wait at once. Somebody in clear is answered long before all of them are; and then they are, too."""
    n = 1000 if t.slow == 1 else 200
    srv = t.auto()
    own = tls_conf(t, "implicit", certificate="rsa")  # the dearest of all
    rp = t.ringpost(srv, listener={"limits": OPEN}, conf={
        "certificates": own["conf"]["certificates"],
        "listeners": {"tls": {"bind": "127.0.0.1:0", "upstream": "mta", "starttls": own["listener"]["starttls"],
                              "limits": OPEN, "timeouts": {"tls": "60s"}}}})
    context = client_context(t)
    plain = rp.client()
    plain.replies(b"220")
    plain.send(EHLO)
    plain.reply(b"250")
    flood = []
    for _ in range(n):
        s = socket.create_connection(sockaddr(rp.addresses[1]), t.wait)
        flood.append((s, *first_flight(context)))
    t.until(lambda: rp.sockets() >= n, "all are accepted", 20)
    rp.signal(signal.SIGSTOP)
    for s, _tls, hello in flood:
        s.sendall(hello)
    plain.sock.sendall(b"LHLO\r\n")
    rp.signal(signal.SIGCONT)
    plain.reply(b"502 5.5.1")
    poll = select.poll()
    for s, _tls, _hello in flood:
        poll.register(s, select.POLLIN)
    answered = len(poll.poll(0))
    t.note("%d of %d handshakes were answered before the plain session" % (answered, n))
    t.check(answered < n // 2, "%d of %d handshakes went first" % (answered, n))
    for s, tls, _hello in flood:
        greeting = b""
        while not greeting.endswith(b"\r\n"):
            wire = s.recv(65536)
            t.check(wire, "a client of the flood was dropped")
            greeting += tls.feed(wire)
            out = tls.take()
            if out:
                s.sendall(out)
        t.check(greeting.startswith(b"220"), "greeting")
    for s, _tls, _hello in flood:
        s.close()
    plain.send(b"NOOP\r\n")
    plain.reply(b"250")
    plain.close()
    rp.sockets_back(10 * t.slow)
    t.equal(rp.stop_now()["tls_handshakes"], n, "counter")


# ---- limits, going down ----

@test(quick=True)
def too_many_clients_are_turned_away_without_a_word(t):
    """Words in clear into TLS would be worse than none."""
    b = Bed(t, "implicit", listener={"limits": {"per-client-sessions": 1}})
    c, u = b.connect()
    for _ in range(3):
        d = b.rp.client()
        t.equal(d.rest(), b"", "what the second client got")
        d.close()
    message(c, u)
    c.close()
    u.gone()
    t.equal(len([b.rp.record("refused", n + 1, reason="per-client-limit") for n in range(3)]), 3, "records")
    t.equal(b.rp.stop_now()["refused_per_client"], 3, "counter")


@test(quick=True)
def a_full_house_says_nothing_either(t):
    b = Bed(t, "implicit", conf={"limits": {"sessions": 2}})
    held = [b.connect() for _ in range(2)]
    d = b.rp.client()
    t.equal(d.rest(), b"", "what one too many got")
    b.rp.record("refused", reason="full")
    message(*held[0])


@test(quick=True)
def too_many_clients_of_starttls_are_told(t):
    b = Bed(t, "starttls", listener={"limits": {"per-client-sessions": 1}})
    c, u = b.connect()
    d = b.rp.client()
    d.reply(b"421 4.7.0")
    d.ended()
    message(c, u)


@test(quick=True)
def a_handshake_counts_as_a_session(t):
    """Clients that never finish have their places taken like others, and give them back."""
    b = Bed(t, "implicit", listener={"limits": {"per-client-sessions": 3}, "timeouts": {"tls": "1s"}})
    idle = [b.rp.client() for _ in range(3)]
    d = b.rp.client()
    t.equal(d.rest(), b"", "what one too many got")
    for c in idle:
        only_records(t, c.rest(), "what the idle got", kinds=(ALERT,))
        c.close()
    t.until(lambda: len(b.rp.records("session")) >= 3, "the idle are gone")
    c, u = b.connect()
    message(c, u)


@test(quick=True)
def not_allowed_clients(t):
    b = Bed(t, "implicit", listener={"clients": ["192.0.2.77/32"]})
    c = b.rp.client()
    t.equal(c.rest(), b"", "what the client got")
    b.rp.record("refused", reason="client-not-allowed")


def half_way(b, context, n):
    """Clients with half a hello, with a whole one, and with none, by turns."""
    out = []
    for i in range(n):
        c, u = to_the_door(b)
        tls, hello = first_flight(context)
        if i % 3:
            c.wire(hello[:len(hello) // 2 if i % 3 == 1 else None])
            c.settle()
        out.append((c, u))
    return out


@cases(OURS, quick=True)
def term_in_the_middle_of_handshakes(t, how):
    b = Bed(t, how, listener={"limits": OPEN})
    c, u = b.connect()
    waiting = half_way(b, b.clients, 12)
    b.rp.signal(signal.SIGTERM)
    c.reply(b"421 4.3.2")
    c.ended()
    c.close()
    u.gone()
    for d, v in waiting:
        got = d.rest()
        only_records(t, got, "what a client in its handshake got", kinds=RECORDS)
        d.close()
        if v:
            t.check(v.rest() in (b"", b"QUIT\r\n"), "what the upstream got")
    b.rp.stop_now()


@cases(OURS, quick=True)
def term_twice_in_the_middle_of_handshakes(t, how):
    b = Bed(t, how, listener={"limits": OPEN}, conf={"shutdown-grace": "60s"})
    c, u = b.connect()
    step(c, u, MAIL, OK_MAIL)
    waiting = half_way(b, b.clients, 12)
    b.rp.signal(signal.SIGTERM)
    b.rp.record("drain")
    b.rp.signal(signal.SIGTERM)
    b.rp.wait_exit(8)
    got = c.rest()
    t.check(got == b"" or got.startswith(b"421 4.3.2"), "what the client got: %r" % got)
    for d, v in waiting:
        d.rest()
        if v:
            v.rest()
        d.ignore_rest = True
    u.rest()


@test(quick=True)
def term_lets_a_message_through_tls_end(t):
    b = Bed(t, "starttls", "starttls")
    c, u = b.connect()
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    step(c, u, b"DATA\r\n", b"354 go\r\n")
    b.rp.signal(signal.SIGTERM)
    b.rp.record("drain")
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    c.reply(b"421 4.3.2")
    c.ended()
    c.close()
    u.gone()
    b.rp.stop_now()
