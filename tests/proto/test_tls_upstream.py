# SPDX-License-Identifier: GPL-3.0-or-later
"""The upstream's leg: what each mode makes of each kind of server, to the letter of SMTP and of the log; and that nothing
but EHLO, STARTTLS and QUIT ever leaves in clear where TLS is required."""
import itertools
import re
import time

from lib.core import Skip, cases, test
from lib.smtp import (BODY, BYE, CAPS, EHLO, GREETING, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, ehlo_reply, envelope, keywords, message,
                      quit_, step)
from lib.tls import (ALERT, HANDSHAKE, NAME, STARTTLS, Bed, alert, only_records, own_address, pair, pem, pin, record, server_context,
                     start_tls)

IN_CLEAR = re.compile(rb"(?:EHLO client\.test\r\n(?:STARTTLS\r\n)?)?(?:QUIT\r\n)?")
MANY = {"per-client-sessions": 0, "errors": 1000000, "soft-errors": 1000000, "junk": 1000000}
STRICT = ("require", "verify")
MODES = ("off", "opportunistic", "require", "verify")


def tls_454(word):
    return b"454 4.7.5 upstream TLS: " + word.encode() + b"\r\n"


def leave(t, c, u):
    if u is not None and not u.closed:
        quit_(c, u)
    else:
        c.send(b"QUIT\r\n").expect(b"221 2.0.0 bye\r\n").ended()
        c.close()


# ---- servers ----

class Server:
    """One kind of server. `cert`: of its handshake; `breaks`: what it does in the place of one; `refuses`: its reply to
    STARTTLS; `offers`: whether it has STARTTLS at all. `verify`: the word that `verify` ends with; `fails`: that every
    mode with TLS does."""

    def __init__(self, cert="ecdsa", offers=True, refuses=None, breaks=None, fails=None, verify=None, versions=("1.2", "1.3")):
        self.cert, self.offers, self.refuses, self.breaks = cert, offers, refuses, breaks
        self.fails, self.verify, self.versions = fails, verify, versions

    def context(self, t):
        return server_context(t, self.cert, *self.versions)


MISSING = "upstream-tls-missing"
SERVERS = {
    "good": Server(),
    "good-rsa": Server("rsa"),
    "good-1.2": Server(versions=("1.2", "1.2")),
    "not-offered": Server(offers=False, fails={MISSING}),
    "refused-454": Server(refuses=b"454 4.7.0 TLS not available\r\n", fails={MISSING}),
    "refused-502": Server(refuses=b"502 5.5.1 what\r\n", fails={MISSING}),
    "plain-words": Server(breaks=b"500 5.5.1 what is this\r\n", fails={"tls-not-tls"}),
    "alert": Server(breaks=alert(40), fails={"tls-cipher", "tls-alert"}),
    "alert-version": Server(breaks=alert(70), fails={"tls-version"}),
    "ends": Server(breaks=b"", fails={"tls-truncated"}),
    "half-a-hello": Server(breaks=record(HANDSHAKE, b"\2\0\0\x26\3\3"), fails={"tls-truncated", "tls-protocol"}),
    "too-old": Server(versions=("1.1", "1.1"), fails={"tls-version"}),
    "wrong-name": Server("other-name", verify="tls-name"),
    "expired": Server("expired", verify="tls-expired"),
    "selfsigned": Server("selfsigned", verify="tls-self-signed"),
    "unknown-ca": Server("unknown-ca", verify="tls-unknown-ca"),
}


def fallback(t, b, c, u, reason):
    """`opportunistic` dials the same server again, in clear: greeting and hello are nobody's news."""
    u.close()
    u = b.link()
    u.expect(EHLO).send(ehlo_reply(CAPS + (b"STARTTLS", b"XCLEAR")))
    shown = keywords(c.reply(b"250"))
    t.check(b"XCLEAR" in shown and b"STARTTLS" not in shown, "shown: %r" % shown)
    rec = b.rp.record("upstream", state="tls-failed")
    t.check(rec["reason"] in reason, "reason %r, in %r" % (reason, rec))
    return u


def at_starttls(t, b, server, mode):
    """A session up to where the server has had its say of STARTTLS and of TLS. (client, upstream, the error of our library)"""
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    if mode == "off":
        return c, u, None
    u.expect(EHLO).send(ehlo_reply(CAPS + ((b"STARTTLS",) if server.offers else ())))
    if not server.offers:
        return c, u, None
    u.expect(STARTTLS).send(server.refuses or b"220 2.0.0 go\r\n")
    if server.refuses:
        return c, u, None
    if server.breaks is not None:
        u.wait_octets(50)  # its hello
        only_records(t, u.buf, "what stands behind STARTTLS", kinds=(HANDSHAKE,))
        if server.breaks:
            u.send(server.breaks).settle()
        u.buf = b""
        if server.breaks in (b"", SERVERS["half-a-hello"].breaks):
            u.half_close()
        return c, u, None
    if server.fails or server.verify and mode == "verify":
        return c, u, u.handshake_fails(server.context(t), server=True)
    u.handshake(server.context(t), server=True)
    return c, u, None


def through(t, b, c, u, caps=CAPS):
    """The client's own hello, a message, the end."""
    u.expect(EHLO).send(ehlo_reply(caps))
    shown = keywords(c.reply(b"250"))
    t.check(b"STARTTLS" not in shown, "shown: %r" % shown)
    message(c, u)
    quit_(c, u)


def only_this_in_clear(t, u, server):
    """All that this connection of the server got: EHLO, STARTTLS, QUIT, and where it was asked for, a hello of TLS."""
    u.rest()
    head, found, tail = u.clear.partition(STARTTLS)
    if server.breaks is None:
        t.check(IN_CLEAR.fullmatch(u.clear), "what came in clear: %r" % u.clear)
    else:
        t.check(found and head == EHLO, "what came in clear: %r" % u.clear)
        only_records(t, tail, "what stands behind STARTTLS")


BRIEF = ("good", "not-offered", "refused-454", "plain-words", "selfsigned")


@cases({"%s,%s" % x: x for x in itertools.product(MODES, BRIEF)}, quick=True)
def each_mode_with_some_servers(t, case):
    mode_with_server(t, *case)


@cases({"%s,%s" % x: x for x in itertools.product(MODES, SERVERS) if x[1] not in BRIEF})
def each_mode_with_the_other_servers(t, case):
    mode_with_server(t, *case)


def mode_with_server(t, mode, kind):
    server = SERVERS[kind]
    b = Bed(t, "plain", "starttls", to={"mode": mode})
    c, u, alert_got = at_starttls(t, b, server, mode)
    fails = server.fails if mode != "off" else None
    if mode == "verify" and server.verify:
        fails = {server.verify}
    secured = mode != "off" and not fails
    counters = {}
    if mode == "off":
        through(t, b, c, u, CAPS + (b"STARTTLS",))
        t.check(STARTTLS not in u.clear, "STARTTLS was said")
    elif secured:
        through(t, b, c, u)
        t.equal(u.clear, EHLO + STARTTLS, "what came in clear")
        counters = {"tls_upstream_handshakes": 1}
    elif mode == "opportunistic" and fails == {MISSING}:
        through(t, b, c, u)
        counters = {"tls_upstream_missing": 1}
    elif mode == "opportunistic":
        u = fallback(t, b, c, u, fails)
        message(c, u)
        quit_(c, u)
        counters = {"tls_upstream_fallbacks": 1, "tls_upstream_failed": 1}
    else:
        got = c.reply()
        t.check(got in {tls_454(word) for word in fails}, "454 with one of %r, got %r" % (fails, got))
        only_this_in_clear(t, u, server)
        leave(t, c, None)
        counters = {"tls_upstream_missing": 1} if fails == {MISSING} else {"tls_upstream_failed": 1}
    rec = b.rp.record("session")
    t.equal(rec.get("upstream_tls"), u.tls.obj.version() if secured else None, "upstream_tls, in %r" % rec)
    if secured:
        t.equal(rec["upstream_tls_verified"], server.verify is None, "upstream_tls_verified")
        t.check("upstream_tls_cipher" in rec and "upstream_tls_resumed" not in rec, "record: %r" % rec)
    stop = b.rp.stop_now()
    for name in ("tls_upstream_handshakes", "tls_upstream_missing", "tls_upstream_failed", "tls_upstream_fallbacks"):
        t.equal(stop[name], counters.get(name, 0), "counter " + name)
    if server.verify and fails:
        t.check(alert_got, "the server was told by an alert: %r" % alert_got)


# ---- the session lives on ----

@cases({"%s,%s" % x: x for x in itertools.product(STRICT, ("not-offered", "refused-454", "plain-words", "ends"))}, quick=True)
def the_next_hello_tries_anew(t, case):
    """454, and again; then the server is in order, and so is the session."""
    mode, kind = case
    b = Bed(t, "plain", "starttls", to={"mode": mode}, listener={"limits": MANY})
    c, u, _ = at_starttls(t, b, SERVERS[kind], mode)
    c.reply(b"454 4.7.5")
    only_this_in_clear(t, u, SERVERS[kind])
    u.close()
    for command in (MAIL, RCPT, b"DATA\r\n", b"XFOO\r\n"):
        c.send(command)
        c.reply(b"503 5.5.1")
    c.send(b"NOOP\r\nRSET\r\n")
    c.replies(b"250", b"250")
    c.send(EHLO)
    u = b.link()
    u.expect(EHLO).send(ehlo_reply(CAPS))
    c.expect(tls_454(MISSING))
    u.gone()
    u.close()
    c.send(EHLO)
    u = b.link()
    b.secure(u)
    through(t, b, c, u)


@cases({mode: mode for mode in STRICT}, quick=True)
def nothing_leaves_before_a_hello(t, mode):
    b = Bed(t, "plain", "starttls", to={"mode": mode}, listener={"limits": MANY})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    for command, reply in ((b"NOOP\r\n", b"250"), (b"RSET\r\n", b"250"), (MAIL, b"503 5.5.1"), (RCPT, b"503 5.5.1"), (b"DATA\r\n", b"503 5.5.1"),
                           (b"BDAT 6\r\nQUIT\r\n", b"503 5.5.1"), (b"VRFY x\r\n", b"503 5.5.1"), (b"AUTH PLAIN AGEAYg==\r\n", b"5"),
                           (b"XFOO secret\r\n", b"503 5.5.1"), (b"HELP\r\n", b"503 5.5.1")):
        c.send(command)
        c.reply(reply)
    t.equal(u.pending(), b"", "what the upstream got")
    c.send(EHLO)
    b.secure(u)
    through(t, b, c, u)
    t.equal(u.clear, EHLO + STARTTLS, "what came in clear")


@test(quick=True)
def a_group_waits_for_the_hello(t):
    """Pipelined behind EHLO: it goes when the link is secured; when it is not, each is refused and none has left."""
    for good in (True, False):
        t.round(good)
        b = Bed(t, "plain", "starttls", listener={"limits": MANY})
        c = b.arrive()
        u = b.link()
        c.expect(GREETING).send(EHLO + MAIL + RCPT + b"DATA\r\n")
        if good:
            b.secure(u).expect(EHLO).send(ehlo_reply())
            u.expect(MAIL + RCPT + b"DATA\r\n").send(OK_MAIL + OK_RCPT + b"354 go\r\n")
            c.replies(b"250", b"250", b"250", b"354")
            c.send(BODY)
            u.expect(BODY).send(TAKEN)
            c.expect(TAKEN)
        else:
            u.expect(EHLO).send(ehlo_reply(CAPS))
            c.replies(b"454 4.7.5", b"503 5.5.1", b"503 5.5.1", b"503 5.5.1")
            u.gone()
            t.check(IN_CLEAR.fullmatch(u.clear), "what came in clear: %r" % u.clear)
        c.close()
        u.close()


@test(quick=True)
def quit_before_a_hello(t):
    b = Bed(t, "plain", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(b"QUIT\r\n")
    if u.line() == b"QUIT\r\n":
        u.send(BYE)
    c.reply(b"221")
    c.ended()


@test(quick=True)
def helo(t):
    """STARTTLS needs an EHLO in clear (RFC 3207 has it from its list); the client's HELO goes up as it is behind TLS."""
    b = Bed(t, "plain", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(b"HELO client.test\r\n")
    b.secure(u)
    u.expect(b"HELO client.test\r\n").send(b"250 up.test\r\n")
    c.expect(b"250 up.test\r\n")
    message(c, u)
    t.equal(u.clear, EHLO + STARTTLS, "what came in clear")
    quit_(c, u)


@test(quick=True)
def a_second_hello_needs_no_second_handshake(t):
    b = Bed(t, "plain", "starttls")
    c, u = b.connect()
    b.hello(c, u)
    step(c, u, b"HELO client.test\r\n", b"250 up.test\r\n")
    message(c, u)


@test(quick=True)
def the_hello_in_clear_is_refused(t):
    """No list, so no STARTTLS: missing."""
    b = Bed(t, "plain", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    u.expect(EHLO).send(b"502 5.5.1 what\r\n")
    c.expect(tls_454(MISSING))
    u.gone()


@cases({"hello": "hello", "starttls": "starttls", "handshake": "handshake"}, quick=True)
def the_server_ends_on_the_way(t, where):
    """At any step: 454 or 4xx, and the session goes on with the next server's connection."""
    b = Bed(t, "plain", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    u.expect(EHLO)
    if where != "hello":
        u.send(ehlo_reply((b"STARTTLS",))).expect(STARTTLS)
    if where == "handshake":
        u.send(b"220 go\r\n").wait_octets(20)
        u.ignore_rest = True
    u.close()
    c.reply(b"4")
    c.send(EHLO)
    u = b.link()
    b.secure(u)
    through(t, b, c, u)


@cases({"%s,%s" % x: x for x in itertools.product(("starttls", "implicit"), ("silent", "trickle"))}, quick=True)
def a_server_that_takes_its_time(t, case):
    """The handshake as a whole has timeouts.tls; an octet now and then does not renew it."""
    kind, how = case
    b = Bed(t, "plain", kind, up={"timeouts": {"tls": "1s"}})
    c = b.arrive()
    u = b.up.accept()
    if kind == "starttls":
        u.send(GREETING)
        c.expect(GREETING).send(EHLO)
        start_tls(u)
    u.wait_octets(50)
    u.buf = b""
    wire = record(HANDSHAKE, b"\2\0\0\xff\3\3" + b"r" * 200)
    sent = 0
    if how == "trickle":
        end = time.monotonic() + 4 * t.wait
        while not c.pending() and time.monotonic() < end and sent < len(wire) - 1:
            try:
                u.sock.sendall(wire[sent:sent + 1])
            except OSError:
                break
            sent += 1
            time.sleep(0.05)
        t.check(sent < len(wire) - 1, "the handshake has no end of time")
    c.reply(b"454 4.7.5 upstream TLS: " if kind == "starttls" else b"421 4.4.1")
    if kind == "implicit":
        c.ended()
    only_records(t, u.rest(), "what the server got")


# ---- pins, versions, names ----

PINS = {"certificate": ("ecdsa", "certificate", True), "key": ("ecdsa", "key", True), "rsa-key": ("rsa", "key", True),
        "selfsigned": ("selfsigned", "certificate", True), "expired": ("expired", "key", True), "of-another": ("rsa", "certificate", False),
        "upper-case": ("ecdsa", "upper", True)}


@cases(PINS, quick=True)
def pinned(t, case):
    """A pin alone decides, whatever chain and dates say."""
    name, of, good = case
    value = pin(t, name, "certificate" if of == "upper" else of)
    if of == "upper":
        value = value.upper()
    server = server_context(t, name if good else "ecdsa")
    b = Bed(t, "plain", "starttls", to={"mode": "verify", "name": None, "ca": None, "pins": ["00" * 32, value]}, servers=server)
    for key in ("name", "ca"):
        t.check(key not in b.rp.conf["upstreams"]["mta"]["tls"], "only the pin is configured")
    if good:
        c, u = b.connect()
        message(c, u)
        quit_(c, u)
        t.check("upstream_tls" in b.rp.record("session"), "record")
        return
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    start_tls(u).handshake_fails(server, server=True)
    c.expect(tls_454("tls-pin"))
    leave(t, c, None)


@cases({"%s,%s" % (mode, v): (mode, v == "1.2") for mode in ("opportunistic",) + STRICT for v in ("1.2", "1.3")}, quick=True)
def a_server_below_the_minimum(t, case):
    """TLS 1.2 where 1.3 is the least."""
    mode, old = case
    versions = ("1.2", "1.2") if old else ("1.2", "1.3")
    server = Server(versions=versions, fails={"tls-version"} if old else None)
    b = Bed(t, "plain", "starttls", to={"mode": mode, "min-version": "1.3"})
    c, u, _ = at_starttls(t, b, server, mode)
    if not old:
        through(t, b, c, u)
        t.equal(b.rp.record("session")["upstream_tls"], "TLSv1.3", "upstream_tls")
    elif mode == "opportunistic":
        u = fallback(t, b, c, u, {"tls-version"})
        quit_(c, u)
    else:
        c.expect(tls_454("tls-version"))
        leave(t, c, None)


@test(quick=True)
def the_name_that_is_asked_for(t):
    for name, want in ((NAME, NAME), ("a.wild.example", "a.wild.example"), (None, None)):
        t.round(name)
        b = Bed(t, "plain", "starttls", to={"name": name} if name else {"name": None})
        c, u = b.connect()
        t.equal(b.servers.asked, [want], "SNI")
        quit_(c, u)


@cases({"good": (True, "1.3"), "good-1.2": (True, "1.2"), "none": (False, "1.3")}, quick=True)
def a_client_certificate_for_the_upstream(t, case):
    shows, version = case
    server = server_context(t, low=version, high=version, client_ca="client-ca")
    to = {"certificate": "mine"} if shows else {}
    b = Bed(t, "plain", "starttls", to=to, servers=server, conf={"certificates": {"mine": pair(t, "client")}} if shows else {})
    if shows:
        c, u = b.connect()
        t.equal(u.tls.obj.getpeercert()["subject"], ((("commonName", "client.example.com"),),), "our certificate")
        message(c, u)
        return
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    start_tls(u).handshake_fails(server, server=True)
    got = c.reply()
    t.check(got[:1] in b"45", "the client was told %r" % got)


# ---- resumption ----

def again(b):
    """A session with a message; was the server's side of it resumed?"""
    c, u = b.connect()
    resumed = u.tls.obj.session_reused
    message(c, u)
    quit_(c, u)
    u.close()
    c.close()
    return resumed


@cases({"%s,%s" % x: x for x in itertools.product(("starttls", "implicit"), ("1.2", "1.3"))}, quick=True)
def resumption(t, case):
    kind, version = case
    b = Bed(t, "plain", kind, to={"mode": "verify"}, servers=server_context(t, low=version, high=version))
    got = [again(b) for _ in range(6)]
    # Sessions of TLS 1.2 are not kept: wolfSSL does not bear a server that has forgotten them.
    want = [False] + [version == "1.3"] * 5
    t.equal(got, want, "resumed")
    recs = [b.rp.record("session", n + 1) for n in range(6)]
    t.equal([r.get("upstream_tls_resumed", False) for r in recs], want, "upstream_tls_resumed")
    t.equal([r["upstream_tls_verified"] for r in recs], [True] * 6, "verified, also in what was resumed")
    stop = b.rp.stop_now()
    t.equal((stop["tls_upstream_handshakes"], stop["tls_upstream_resumed"]), (6, sum(want)), "counters")


@cases({"1.2": "1.2", "1.3": "1.3"}, quick=True)
def a_server_that_has_forgotten(t, version):
    """Its ticket keys are others than those of the last session: a whole handshake, nothing worse."""
    b = Bed(t, "plain", "starttls", to={"mode": "verify"}, servers=server_context(t, low=version, high=version))
    for _ in range(4):
        again(b)
        b.servers = server_context(t, low=version, high=version)
        t.equal(again(b), False, "resumed at a stranger's")
    t.equal(b.rp.stop_now()["tls_upstream_failed"], 0, "failures")


@test(quick=True)
def resumption_is_not_shared_by_policies(t):
    """What one upstream was content with proves nothing for another at the same server that has to verify."""
    server = server_context(t, "selfsigned")
    b = Bed(t, "plain", "starttls", to={"mode": "require"}, servers=server, conf={
        "listeners": {"strict": {"bind": "127.0.0.1:0", "upstream": "strict"}},
        "upstreams": {"strict": {"servers": [], "tls": {"mode": "verify", "name": NAME, "ca": pem(t, "ca")}}}}, cold=True)
    b.rp.conf["upstreams"]["strict"]["servers"] = [b.up.address]
    rewrite(b.rp)
    b.rp.start()
    for _ in range(2):
        again(b)
    c = b.rp.client(b.rp.addresses[1])
    u = b.link()
    c.expect(GREETING).send(EHLO)
    start_tls(u).handshake_fails(server, server=True)
    c.expect(tls_454("tls-self-signed"))
    leave(t, c, None)


def rewrite(rp):
    import json
    with open(rp.conf_path, "w") as f:
        json.dump(rp.conf, f, indent=1)


# ---- implicit ----

IMPLICIT = {k: v for k, v in SERVERS.items() if v.offers and not v.refuses}


@cases({"%s,%s" % x: x for x in itertools.product(STRICT, IMPLICIT) if x[1] in BRIEF}, quick=True)
def implicit_with_some_servers(t, case):
    implicit_with_server(t, *case)


@cases({"%s,%s" % x: x for x in itertools.product(STRICT, IMPLICIT) if x[1] not in BRIEF})
def implicit_with_the_other_servers(t, case):
    implicit_with_server(t, *case)


def implicit_with_server(t, mode, kind):
    """A handshake that fails is a server that could not be reached."""
    server = IMPLICIT[kind]
    b = Bed(t, "plain", "implicit", to={"mode": mode})
    c = b.arrive()
    u = b.up.accept()
    fails = server.fails or ({server.verify} if mode == "verify" and server.verify else None)
    if not fails:
        u.handshake(server.context(t), server=True)
        u.send(GREETING)
        c.expect(GREETING).send(EHLO)
        through(t, b, c, u)
        t.equal(u.clear, b"", "what came in clear")
        t.equal(b.rp.record("session")["upstream_tls_verified"], server.verify is None, "verified")
        return
    if server.breaks is not None:
        u.wait_octets(50)
        only_records(t, u.buf, "the first octets", kinds=(HANDSHAKE,))
        u.buf = b""
        if server.breaks:
            u.send(server.breaks).settle()
        if server.breaks in (b"", SERVERS["half-a-hello"].breaks):
            u.half_close()
        only_records(t, u.rest(), "the last octets", kinds=(ALERT,))
    else:
        u.handshake_fails(server.context(t), server=True)
    got = c.reply()
    t.check(got in {b"421 4.4.1 upstream mta %s: %s\r\n" % (b.up.address.encode(), word.encode()) for word in fails}, "the client got %r" % got)
    c.ended()
    rec = b.rp.record("session")
    t.equal(rec["reason"], "upstream-unreachable", "reason")
    t.check(rec["cause"] in fails, "cause, in %r" % rec)
    t.equal(b.rp.stop_now()["tls_upstream_failed"], 1, "counter")


@test(quick=True)
def implicit_before_a_server_that_speaks_first(t):
    """Its greeting in clear is no TLS, and not shown."""
    b = Bed(t, "plain", "implicit")
    c = b.arrive()
    u = b.up.accept()
    u.send(b"220 clear.test ESMTP\r\n")
    c.reply(b"421 4.4.1")
    c.ended()
    only_records(t, u.rest(), "what the server got")


@test(quick=True)
def the_next_server_where_the_first_fails(t):
    b = Bed(t, "plain", "implicit", to={"mode": "verify"}, cold=True)
    second = t.upstream()
    b.rp.conf["upstreams"]["mta"]["servers"] = [b.up.address, second.address]
    rewrite(b.rp)
    b.rp.start()
    c = b.arrive()
    t.until(lambda: b.up.waiting() or second.waiting(), "one of the servers is dialled")
    first, other = (b.up, second) if b.up.waiting() else (second, b.up)
    u = first.accept()
    u.handshake_fails(server_context(t, "selfsigned"), server=True)
    u = other.accept()
    u.handshake(b.servers, server=True)
    u.send(GREETING)
    c.expect(GREETING).send(EHLO)
    through(t, b, c, u)
    rec = b.rp.record("upstream", state="down")
    t.equal(rec["reason"], "tls-self-signed", "reason")


# ---- replacements ----

@cases({"starttls": "starttls", "implicit": "implicit"}, quick=True)
def a_replaced_link_is_secured_too(t, kind):
    b = Bed(t, "plain", kind)
    c, u = b.connect()
    message(c, u)
    u.close()
    c.send(MAIL)
    u = b.replayed()
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    t.equal(u.clear, EHLO + STARTTLS if kind == "starttls" else b"", "what came in clear")
    step(c, u, RCPT, OK_RCPT)


@cases({"%s,%s" % x: x for x in itertools.product(STRICT, ("not-offered", "refused-454", "selfsigned", "plain-words"))}, quick=True)
def a_replaced_link_that_cannot_be_secured(t, case):
    """In mid-session: nothing of the client's leaves in clear, and it is told 4xx."""
    mode, kind = case
    server = SERVERS[kind]
    b = Bed(t, "plain", "starttls", to={"mode": mode})
    c, u = b.connect()
    message(c, u)
    u.close()
    if kind == "selfsigned" and mode == "require":
        server = SERVERS["alert"]
    c.send(MAIL)
    u = b.link()
    u.expect(EHLO).send(ehlo_reply(CAPS + ((b"STARTTLS",) if server.offers else ())))
    if server.offers:
        u.expect(STARTTLS).send(server.refuses or b"220 go\r\n")
    if server.offers and not server.refuses:
        if server.breaks:
            u.wait_octets(50)
            u.buf = b""
            u.send(server.breaks).rest()
        else:
            u.handshake_fails(server.context(t), server=True)
    got = c.reply()
    t.check(got[:1] == b"4", "the client was told %r" % got)
    t.check(b"MAIL" not in u.clear, "what came in clear: %r" % u.clear)
    c.ignore_rest = True


@test(quick=True)
def a_message_refused_here_gets_a_new_link_by_tls(t):
    """The link is dropped in mid-body, so that no end is seen; the next one is as the first."""
    b = Bed(t, "starttls", "starttls")
    c, u = b.connect()
    for _ in range(3):
        envelope(c, u)
        step(c, u, b"DATA\r\n", b"354 go\r\n")
        c.send(b"x\n.\ny\r\n.\r\n")
        c.reply(b"550 5.5.2")
        u.rest()
        u.close()
        c.send(MAIL)
        u = b.replayed()
        u.expect(MAIL).send(OK_MAIL)
        c.expect(OK_MAIL)
        step(c, u, b"RSET\r\n", b"250 flushed\r\n")
    message(c, u)


@test(quick=True)
def opportunistic_does_not_forget_what_it_found(t):
    """TLS fails at the first link: its replacement is one in clear again, or by TLS; the session is the same either way."""
    b = Bed(t, "plain", "starttls", to={"mode": "opportunistic"})
    c, u, _ = at_starttls(t, b, SERVERS["plain-words"], "opportunistic")
    u = fallback(t, b, c, u, {"tls-not-tls"})
    message(c, u)
    t.equal(len(b.rp.records("upstream", state="tls-failed")), 1, "records")
    quit_(c, u)


# ---- AUTH on a link in clear ----

AUTH_CAPS = CAPS + (b"AUTH PLAIN LOGIN",)


def auth_of(t, b):
    """In a session over a link in clear: is AUTH shown, and what is said to it?"""
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    u.expect(EHLO).send(ehlo_reply(AUTH_CAPS))
    if b.upstream != "plain":
        u.expect(EHLO).send(ehlo_reply(AUTH_CAPS))  # the first was our own
    shown = b"AUTH" in keywords(c.reply(b"250"))
    c.send(b"AUTH PLAIN AGEAYg==\r\n")
    if shown:
        u.expect(b"AUTH PLAIN AGEAYg==\r\n").send(b"235 2.7.0 welcome\r\n")
    else:
        u.quiet(0.05)
    code = c.reply()[:10]
    t.check(shown or b"AUTH" not in u.clear, "the upstream got %r" % u.clear)
    c.close()
    u.gone()
    return shown, code


PASSED, HIDDEN = (True, b"235 2.7.0 "), (False, b"538 5.7.11")


@cases({"%s,%s" % (mode, name): (mode, *x) for mode in ("off", "opportunistic") for name, x in {
    "off": ("off", HIDDEN), "local": ("local", PASSED), "on": ("on", PASSED), "default": (None, PASSED)}.items()}, quick=True)
def auth_in_clear_to_a_local_server(t, case):
    mode, value, want = case
    up = {"auth-in-clear": value} if value else {}
    b = Bed(t, "plain", "plain" if mode == "off" else "starttls", to={"mode": mode}, up=up)
    t.equal(auth_of(t, b), want, "AUTH in clear")
    t.equal(b.rp.stop_now()["clear_auth_refusals"], int(want is HIDDEN), "counter")


@cases({"off": ("off", HIDDEN), "local": ("local", HIDDEN), "on": ("on", PASSED), "default": (None, HIDDEN)}, quick=True)
def auth_in_clear_to_a_server_elsewhere(t, case):
    value, want = case
    own = own_address()
    if not own:
        raise Skip("this machine has no address but loopback")
    b = Bed(t, "plain", "starttls", to={"mode": "opportunistic"}, up={"auth-in-clear": value} if value else {}, address=own + ":0")
    t.equal(auth_of(t, b), want, "AUTH in clear")


@test(quick=True)
def auth_where_nobody_speaks_of_tls(t):
    """Neither leg has anything to do with it: as it was before there was TLS."""
    b = Bed(t, "plain", "plain", address=(own_address() or "127.0.0.1") + ":0")
    t.equal(auth_of(t, b), PASSED, "AUTH in clear")


@cases({"starttls": "starttls", "implicit": "implicit"}, quick=True)
def auth_over_tls(t, kind):
    b = Bed(t, "plain", kind, up={"auth-in-clear": "off"})
    c, u = b.connect(AUTH_CAPS)
    step(c, u, b"AUTH PLAIN AGEAYg==\r\n", b"235 2.7.0 welcome\r\n")
    t.check(b"AUTH" not in u.clear, "what came in clear")
    message(c, u)


@test(quick=True)
def both_legs_must_allow_auth(t):
    """The client's is TLS, the upstream's is not: hidden all the same."""
    b = Bed(t, "implicit", "plain", up={"auth-in-clear": "off"})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    u.expect(EHLO).send(ehlo_reply(AUTH_CAPS))
    t.check(b"AUTH" not in keywords(c.reply(b"250")), "shown")
    c.send(b"AUTH PLAIN\r\n")
    c.reply(b"538 5.7.11")
    message(c, u)


@test(quick=True)
def capabilities_are_those_behind_tls(t):
    """The list in clear is only looked at for STARTTLS: CHUNKING and PIPELINING of clear times count for nothing."""
    b = Bed(t, "plain", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    start_tls(u, caps=(b"PIPELINING", b"CHUNKING", b"8BITMIME")).handshake(b.servers, server=True)
    u.expect(EHLO).send(ehlo_reply((b"SIZE 1000",)))
    shown = keywords(c.reply(b"250"))
    t.check(b"CHUNKING" not in shown and b"8BITMIME" not in shown and shown.get(b"SIZE"), "shown: %r" % shown)
    c.send(MAIL + RCPT)
    u.expect(MAIL).quiet(0.05)
    u.send(OK_MAIL).expect(RCPT).send(OK_RCPT)
    c.expect(OK_MAIL + OK_RCPT)
    c.send(b"BDAT 3 LAST\r\nabc")
    c.reply(b"502 5.5.1")
