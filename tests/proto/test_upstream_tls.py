# SPDX-License-Identifier: GPL-3.0-or-later
"""The upstream's leg: what a link says before it is secured, what becomes of the client's hello when it cannot be, and of
links that are replaced. Octets where none should be are in test_tls_injection.py."""
import signal
import time

from lib.core import Skip, cases, test
from lib.smtp import (BODY, BYE, CAPS, EHLO, GREETING, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, ehlo_reply, keywords, message,
                      quit_, step)
from lib.tls import (NAME, STARTTLS, Bed, only_records, own_address, pin, server_context, start_tls)

FIRST = b"503 5.5.1 EHLO first\r\n"
DONE = b"250 2.0.0 ok\r\n"
CLEAR = b"538 5.7.11 encryption required for authentication\r\n"
PLAIN = b"AUTH PLAIN AGEAYg==\r\n"
AUTH_CAPS = CAPS + (b"AUTH PLAIN LOGIN",)
MANY = {"errors": 1000, "soft-errors": 1000, "per-client-sessions": 0}
STRICT = {"require": "require", "verify": "verify"}
ALL = dict(STRICT, opportunistic="opportunistic")
OFFER = ehlo_reply((b"PIPELINING", b"STARTTLS"))


def denied(word):
    return b"454 4.7.5 upstream TLS: " + word + b"\r\n"


def before(t, mode="require", hello=EHLO, to=None, **kw):
    """A bed, a client whose hello waits, and an upstream that has got the first EHLO."""
    kw["listener"] = dict({"limits": MANY}, **kw.get("listener", {}))
    b = Bed(t, "plain", "starttls", to=dict({"mode": mode}, **(to or {})), **kw)
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(hello)
    u.expect(EHLO)
    return b, c, u


def counter(t, b, **want):
    stop = b.rp.stop_now()
    t.equal({k: stop[k] for k in want}, want, "counters")


def shut(*conns):
    for c in conns:
        c.shut()


def anew(b, c, hello=EHLO):
    """The next hello: another connection, which is secured."""
    c.send(hello)
    u = b.link()
    b.secure(u).expect(hello).send(ehlo_reply() if hello.startswith(b"E") else b"250 up.test\r\n")
    c.reply(b"250")
    return u


# ---- the dialogue ----

@cases({"%s,%s" % (m, v): (m, v) for m in ALL for v in ("EHLO", "HELO")}, quick=True)
def the_whole_dialogue(t, case):
    """EHLO with the client's name, STARTTLS, and then what the client said."""
    mode, verb = case
    hello = verb.encode() + b" client.test\r\n"
    b, c, u = before(t, mode, hello)
    u.send(ehlo_reply((b"XEVIL", b"STARTTLS"))).expect(STARTTLS).send(b"220-go\r\n220 now\r\n")
    u.handshake(b.servers, server=True)
    c.quiet(0.02)
    u.expect(hello).send(ehlo_reply((b"DSN", b"STARTTLS", b"PIPELINING")) if verb == "EHLO" else b"250 up.test\r\n")
    c.expect(ehlo_reply((b"DSN", b"PIPELINING")) if verb == "EHLO" else b"250 up.test\r\n")
    c.send(EHLO)  # another one needs nothing of it
    u.expect(EHLO).send(ehlo_reply())
    c.reply(b"250")
    message(c, u)
    quit_(c, u)
    t.equal(u.clear, EHLO + STARTTLS, "what came in clear")
    t.equal(b.servers.asked, [NAME], "the name that was asked for")
    rec = b.rp.record("session")
    t.equal((rec["upstream_tls"], rec["upstream_tls_verified"], "cause" in rec), ("TLSv1.3", True, False), "record")
    t.check(rec["upstream_tls_cipher"].startswith("TLS_") and "tls" not in rec, "record: %r" % rec)
    counter(t, b, tls_upstream_handshakes=1, tls_upstream_failed=0, tls_upstream_missing=0, tls_upstream_fallbacks=0)


@test(quick=True)
def the_name_as_it_was_said(t):
    b = Bed(t, "plain", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(b"helo  [192.0.2.1] x\r\n")
    u.expect(b"EHLO  [192.0.2.1] x\r\n").send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    u.handshake(b.servers, server=True)
    u.expect(b"helo  [192.0.2.1] x\r\n")


@cases(ALL, quick=True)
def before_a_hello(t, mode):
    """Nothing but QUIT leaves; what ringpost can answer itself it does."""
    b = Bed(t, "plain", "starttls", to={"mode": mode}, listener={"limits": MANY, "trusted": ["127.0.0.0/8"]})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    for command in (MAIL, RCPT, b"DATA\r\n", b"VRFY x\r\n", b"HELP\r\n", b"XYZZY\r\n", PLAIN, b"XCLIENT NAME=a\r\n",
                    b"XFORWARD NAME=a\r\n", b"ETRN x\r\n"):
        c.send(command).expect(FIRST)
    c.send(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\nRSET\r\n").expect(FIRST + DONE + DONE)
    c.send(STARTTLS).reply(b"502 5.5.1")
    u.quiet(0.05)
    c.send(EHLO)
    b.secure(u).expect(EHLO).send(ehlo_reply())
    c.reply(b"250")
    message(c, u)


@test(quick=True)
def quit_before_a_hello(t):
    b = Bed(t, "plain", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    quit_(c, u)


@test(quick=True)
def passed_through_only_when_it_is_secured(t):
    """`passthrough` before such an upstream: the client's own STARTTLS is no way round it."""
    b = Bed(t, "plain", "starttls", listener={"starttls": "passthrough"})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    c.send(STARTTLS).expect(FIRST)
    u.quiet(0.05)


@test(quick=True)
def a_client_that_sends_ahead(t):
    """All of it waits, and then leaves in one piece."""
    b, c, u = before(t, hello=EHLO + MAIL + RCPT + b"DATA\r\n")
    start_tls_from_here(b, u)
    u.expect(EHLO).quiet(0.02).send(ehlo_reply())
    c.reply(b"250")
    u.expect(MAIL + RCPT + b"DATA\r\n").send(OK_MAIL + OK_RCPT + b"354 go\r\n")
    c.expect(OK_MAIL + OK_RCPT + b"354 go\r\n").send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)


def start_tls_from_here(b, u):
    """Behind the EHLO in clear."""
    u.send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    return u.handshake(b.servers, server=True)


@test(quick=True)
def replies_octet_by_octet(t):
    b, c, u = before(t)
    u.send_octets(OFFER)
    u.expect(STARTTLS).send_octets(b"220-a\r\n220 b\r\n")
    u.handshake(b.servers, server=True)
    u.expect(EHLO).send_octets(ehlo_reply())
    c.reply(b"250")


@test(quick=True)
def xclient_inside(t):
    """A trusted client's word on who is who goes where TLS is."""
    b = Bed(t, "plain", "starttls", listener={"trusted": ["127.0.0.0/8"]})
    c, u = b.connect(CAPS + (b"XCLIENT NAME ADDR",))
    step(c, u, b"XCLIENT NAME=a.test\r\n", GREETING)
    b.hello(c, u)
    message(c, u)


# ---- STARTTLS cannot be had ----

NOT_THERE = {"not-offered": (ehlo_reply(), None), "in-the-first-line": (ehlo_reply((b"DSN",), b"STARTTLS"), None),
             "ehlo-refused": (b"502 5.5.1 what\r\n", None), "refused-4xx": (OFFER, b"454 4.7.0 later\r\n"),
             "refused-5xx": (OFFER, b"502 5.5.1 what\r\n"), "250": (OFFER, b"250 ok\r\n")}


@cases({"%s,%s" % (m, k): (m,) + v for m in STRICT for k, v in NOT_THERE.items()}, quick=True)
def missing(t, case):
    """The hello is answered, the session lives on, and the next one tries anew."""
    mode, ehlo, starttls = case
    b, c, u = before(t, mode)
    u.send(ehlo)
    if starttls:
        u.expect(STARTTLS).send(starttls)
    c.expect(denied(b"upstream-tls-missing"))
    t.equal(u.rest(), b"", "what came behind that")
    u.shut()
    c.send(MAIL + b"NOOP\r\n").expect(FIRST + DONE)
    b.up.nobody(0.05)
    u = anew(b, c)
    message(c, u)
    quit_(c, u)
    t.check("cause" not in b.rp.record("session"), "a cause of what went well in the end")
    t.equal(b.rp.record("upstream", state="tls-failed")["reason"], "upstream-tls-missing", "record")
    b.rp.record("upstream", state="tls-ok")
    counter(t, b, tls_upstream_missing=1, tls_upstream_handshakes=1, tls_upstream_failed=0)


@cases(NOT_THERE, quick=True)
def missing_and_opportunistic(t, case):
    """On in clear, on the same connection; told once, not once per session."""
    ehlo, starttls = case
    b, c, u = before(t, "opportunistic")
    for i in range(2):
        u.send(ehlo)
        if starttls:
            u.expect(STARTTLS).send(starttls)
        u.expect(EHLO).send(ehlo_reply())
        c.reply(b"250")
        message(c, u)
        quit_(c, u)
        if i == 0:
            c = b.arrive()
            u = b.link()
            c.expect(GREETING).send(EHLO)
            u.expect(EHLO)
    rec = b.rp.record("session")
    t.check("upstream_tls" not in rec and "cause" not in rec, "record: %r" % rec)
    told = starttls is not None or ehlo[:3] == b"250"  # a hello that is refused may be to blame itself
    t.equal(len(b.rp.records("upstream", state="tls-failed")), 1 if told else 0, "records")
    counter(t, b, tls_upstream_missing=2 if told else 0, tls_upstream_fallbacks=0)


@test(quick=True)
def a_refused_hello_does_not_take_tls_away(t):
    """The server does not like the name. With the next one TLS is looked for again."""
    b, c, u = before(t, "opportunistic", hello=EHLO)
    u.send(b"501 5.5.4 what a name\r\n")
    u.expect(EHLO).send(b"501 5.5.4 what a name\r\n")
    c.reply(b"501 5.5.4")
    c.send(EHLO)
    b.secure(u).expect(EHLO).send(ehlo_reply())
    c.reply(b"250")
    message(c, u)
    quit_(c, u)
    counter(t, b, tls_upstream_missing=0, tls_upstream_handshakes=1, tls_upstream_fallbacks=0)


@cases({"%s,%s" % (m, w): (m, w) for m in ALL for w in ("hello", "starttls")}, quick=True)
def a_server_that_is_leaving(t, case):
    """421 says nothing of TLS, and nothing goes on in clear."""
    mode, where = case
    b, c, u = before(t, mode)
    if where == "starttls":
        u.send(OFFER).expect(STARTTLS)
    u.send(b"421 4.3.2 going down\r\n")
    c.expect(denied(b"upstream-eof"))
    t.equal(u.rest(), b"", "what came behind that")
    u.shut()
    u = anew(b, c)
    message(c, u)
    quit_(c, u)
    t.equal(b.rp.records("upstream", state="tls-failed"), [], "records")
    counter(t, b, tls_upstream_missing=0, tls_upstream_handshakes=1)


# ---- the handshake fails ----

def garbage(u):
    u.wait_octets(1)
    u.buf = b""
    u.wire(b"500 what is that\r\n")


FAILURES = {"garbage": garbage, "end": lambda u: u.close(), "reset": lambda u: u.reset()}
WORDS = {"garbage": (b"tls-not-tls", b"tls-protocol", b"tls-record", b"tls-version"), "end": (b"tls-truncated", b"ECONNRESET"),
         "reset": (b"ECONNRESET",)}


@cases({"%s,%s" % (m, k): (m, k) for m in STRICT for k in FAILURES}, quick=True)
def a_handshake_that_fails(t, case):
    mode, how = case
    b, c, u = before(t, mode)
    u.send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    FAILURES[how](u)
    got = c.reply(b"454 4.7.5 upstream TLS: ")
    t.check(got[24:-2] in WORDS[how], "the reply %r" % got)
    u.shut()
    message(c, anew(b, c))
    shut(c, *t.conns)
    counter(t, b, tls_upstream_failed=1, tls_upstream_fallbacks=0, tls_upstream_handshakes=1)


@cases({how: how for how in FAILURES}, quick=True)
def a_handshake_that_fails_and_opportunistic(t, how):
    """The same server once more, in clear; the second one is not asked."""
    one, other = t.upstream(), t.upstream()
    rp = t.ringpost(one, other, up={"tls": {"mode": "opportunistic"}})
    c = rp.client()
    t.until(lambda: one.waiting() or other.waiting(), "a connection")
    up, idle = (one, other) if one.waiting() else (other, one)
    u = up.accept()
    u.send(GREETING)
    c.expect(GREETING).send(EHLO + MAIL)
    u.expect(EHLO).send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    FAILURES[how](u)
    u.shut()
    u = up.accept()
    u.send(GREETING).expect(EHLO).send(ehlo_reply((b"PIPELINING", b"STARTTLS")))
    t.check(b"STARTTLS" not in c.reply(b"250"), "STARTTLS is shown")
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    idle.nobody(0)
    shut(c, u)
    rec = rp.record("upstream", state="tls-failed")
    t.check(rec["reason"].encode() in WORDS[how], "record: %r" % rec)
    rp.no_record("upstream", state="down")
    t.equal(rp.stop_now()["tls_upstream_fallbacks"], 1, "counter")


@test(quick=True)
def a_fallback_that_cannot_be_dialled(t):
    b, c, u = before(t, "opportunistic")
    u.send(OFFER).expect(STARTTLS)
    b.up.stop_listening()
    u.close()
    got = c.reply(b"421 4.4.1 upstream mta ")
    t.check(got.endswith(b": ECONNREFUSED\r\n"), "the reply %r" % got)
    c.ended()


@test(quick=True)
def half_a_reply_is_forgotten_with_its_connection(t):
    b, c, u = before(t, "opportunistic")
    u.send(OFFER).expect(STARTTLS).send(b"220-half of\r\n220").settle()
    u.close()
    u = b.link()
    u.expect(EHLO).send(ehlo_reply())
    c.expect(ehlo_reply())
    message(c, u)


@test(quick=True)
def fallbacks_are_told_once_per_change(t):
    b = Bed(t, "plain", "starttls", to={"mode": "opportunistic"}, listener={"limits": MANY})
    for i in range(5):
        t.round(i)
        c = b.arrive()
        u = b.link()
        c.expect(GREETING).send(EHLO)
        u.expect(EHLO).send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
        if i == 3:
            u.handshake(b.servers, server=True)
        else:
            garbage(u)
            u.shut()
            u = b.link()
        u.expect(EHLO).send(ehlo_reply())
        c.reply(b"250")
        quit_(c, u)
        shut(c, u)
    b.rp.record("session", 5)
    got = [r["state"] for r in b.rp.records("upstream")]
    t.equal(got, ["tls-failed", "tls-ok", "tls-failed"], "records")
    counter(t, b, tls_upstream_fallbacks=4, tls_upstream_handshakes=1)


CERTIFICATES = {"other-name": b"tls-name", "expired": b"tls-expired", "selfsigned": b"tls-self-signed", "unknown-ca": b"tls-unknown-ca"}


@cases({"%s,%s" % (n, m): (n, m) for n in CERTIFICATES for m in ("verify", "require")}, quick=True)
def certificates(t, case):
    """`verify` wants a good one; `require` notes that it is not."""
    name, mode = case
    b, c, u = before(t, mode, servers=server_context(t, name))
    u.send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    if mode == "verify":
        u.handshake_fails(b.servers, server=True)
        c.expect(denied(CERTIFICATES[name]))
        c.send(b"QUIT\r\n").expect(b"221 2.0.0 bye\r\n").ended()
        t.equal(b.rp.record("session")["cause"], CERTIFICATES[name].decode(), "record")
        return
    u.handshake(b.servers, server=True)
    u.expect(EHLO).send(ehlo_reply())
    c.reply(b"250")
    quit_(c, u)
    t.equal(b.rp.record("session")["upstream_tls_verified"], False, "record")


@cases({"right": True, "wrong": False}, quick=True)
def pins(t, right):
    """A pin stands for the certificate, whoever has signed it and for whatever name."""
    pinned = pin(t, "selfsigned") if right else pin(t, "ecdsa")
    b, c, u = before(t, "verify", to={"pins": [pinned], "name": "elsewhere.test"}, servers=server_context(t, "selfsigned"))
    u.send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    if not right:
        u.handshake_fails(b.servers, server=True)
        c.expect(denied(b"tls-pin"))
        return
    u.handshake(b.servers, server=True)
    u.expect(EHLO).send(ehlo_reply())
    c.reply(b"250")


# ---- times, and going away ----

SHORT = {"timeouts": {"tls": "1s"}}


@cases(ALL, quick=True)
def a_server_too_slow_for_a_handshake(t, mode):
    b, c, u = before(t, mode, up=SHORT)
    u.send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    if mode == "opportunistic":
        u.ignore_rest = True
        u = b.link()
        u.expect(EHLO).send(ehlo_reply())
        c.reply(b"250")
        message(c, u)
        return
    c.expect(denied(b"tls-timeout"))
    only_records(t, u.rest(), "what the server got")


@test(quick=True)
def a_silent_server_on_the_way_there(t):
    b, c, u = before(t, up={"timeouts": {"reply": "1s"}})
    c.expect(denied(b"upstream-timeout"))
    u.gone()
    shut(u)
    c.send(EHLO)
    u = b.link()
    u.expect(EHLO).send(OFFER).expect(STARTTLS)
    c.expect(denied(b"tls-timeout"))


@cases({"ehlo": 1, "starttls": 2}, quick=True)
def a_server_that_goes_on_the_way_there(t, where):
    b, c, u = before(t)
    if where == 2:
        u.send(OFFER).expect(STARTTLS)
    u.close()
    c.expect(denied(b"upstream-eof" if where == 1 else b"tls-truncated"))
    message(c, anew(b, c))


@cases({"ehlo": 1, "starttls": 2, "handshake": 3}, quick=True)
def a_client_that_goes_meanwhile(t, where):
    """Nothing is owed to anybody."""
    b, c, u = before(t)
    if where > 1:
        u.send(OFFER).expect(STARTTLS)
    if where > 2:
        u.send(b"220 go\r\n").wait_octets(1)
        u.buf = b""
    c.reset()
    only_records(t, u.rest(), "what the server got")
    t.equal(b.rp.record("session")["reason"], "client-reset", "record")


@cases({"drain": 1, "kill": 2}, quick=True)
def going_down_meanwhile(t, terms):
    b, c, u = before(t)
    u.send(OFFER).expect(STARTTLS).send(b"220 go\r\n").wait_octets(1)
    u.buf = b""
    for _ in range(terms):
        b.rp.signal(signal.SIGTERM)
        time.sleep(0.05)
    got = c.rest()
    t.equal(got, b"421 4.3.2 going down, try again later\r\n", "what the client got")
    only_records(t, u.rest(), "what the server got")


# ---- links that are replaced ----

@cases(ALL, quick=True)
def a_link_that_is_replaced(t, mode):
    b = Bed(t, "plain", "starttls", to={"mode": mode})
    c, u = b.connect()
    message(c, u)
    u.close()
    time.sleep(0.05)
    c.send(MAIL)
    u = b.replayed()
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    t.equal(u.clear, EHLO + STARTTLS, "what came in clear")


def lose(b, c, u):
    message(c, u)
    u.close()
    time.sleep(0.05)
    c.send(MAIL)
    return b.link()


@cases(STRICT, quick=True)
def a_replacement_without_starttls(t, mode):
    b = Bed(t, "plain", "starttls", to={"mode": mode})
    u = lose(b, *(b.connect()))
    c = t.conns[0]
    u.expect(EHLO).send(ehlo_reply())
    c.expect(b"421 4.4.2 connection to the upstream lost\r\n").ended()
    t.equal(u.rest(), b"", "what came behind that")
    rec = b.rp.record("session")
    t.equal((rec["reason"], rec["cause"], rec["upstream_tls"]), ("upstream-lost", "upstream-tls-missing", "TLSv1.3"), "record")


@test(quick=True)
def a_replacement_whose_handshake_fails(t):
    b = Bed(t, "plain", "starttls")
    u = lose(b, *(b.connect()))
    c = t.conns[0]
    u.expect(EHLO).send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    garbage(u)
    c.reply(b"421 4.4.2")
    c.ended()
    t.check(b.rp.record("session")["cause"].startswith("tls-"), "record")


@test(quick=True)
def a_replacement_with_an_injection(t):
    b = Bed(t, "plain", "starttls")
    u = lose(b, *(b.connect()))
    c = t.conns[0]
    u.expect(EHLO).send(OFFER).expect(STARTTLS).send(b"220 go\r\n250 evil\r\n")
    c.reply(b"421 4.4.2")
    c.ended()
    t.equal(u.rest(), b"", "what came behind that")
    shut(*t.conns)
    counter(t, b, starttls_injection=1)


@test(quick=True)
def a_replacement_that_differs_inside(t):
    """What counts is the list behind the handshake."""
    b = Bed(t, "plain", "starttls")
    u = lose(b, *(b.connect()))
    c = t.conns[0]
    b.secure(u).expect(EHLO).send(ehlo_reply(CAPS + (b"XNEW",)))
    c.reply(b"421 4.4.2")
    c.ended()
    t.equal(b.rp.record("session")["reason"], "upstream-differs", "record")


@test(quick=True)
def a_replacement_that_falls_back(t):
    """The handshake fails now: in clear, with the hello of before, which must be answered as before."""
    b = Bed(t, "plain", "starttls", to={"mode": "opportunistic"})
    u = lose(b, *(b.connect()))
    c = t.conns[0]
    u.expect(EHLO).send(OFFER).expect(STARTTLS).send(b"220 go\r\n")
    garbage(u)
    u.shut()
    u = b.link()
    u.expect(EHLO).send(ehlo_reply())
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)


@test(quick=True)
def behind_auth_it_is_not_replaced(t):
    b = Bed(t, "plain", "starttls")
    c, u = b.connect(AUTH_CAPS)
    step(c, u, PLAIN, b"235 2.7.0 welcome\r\n")
    u.close()
    c.expect(b"421 4.4.2 connection to the upstream lost\r\n").ended()


@test(quick=True)
def the_link_stays_when_the_client_begins_anew(t):
    """TLS of the client's leg is nothing to the upstream's."""
    b = Bed(t, "starttls", "starttls")
    c, u = b.connect()
    message(c, u)
    quit_(c, u)
    t.equal(u.clear, EHLO + STARTTLS, "what came in clear")
    t.equal(b.up.count, 1, "connections")


# ---- implicit ----

def inner(t, *servers, **kw):
    """A ringpost before two servers that are TLS from the first octet."""
    return t.ringpost(*servers, up=dict({"tls": {"mode": "require", "implicit": True, "name": NAME}, "retry-down": "300s"}, **kw))


@test(quick=True)
def implicit_the_next_server(t):
    """One whose handshake fails is one that cannot be reached, for a while."""
    bad, good = t.upstream(), t.upstream()
    rp = inner(t, bad, good)
    context = server_context(t)
    met_bad = 0
    for i in range(3):
        t.round(i)
        c = rp.client()
        while True:
            t.until(lambda: bad.waiting() or good.waiting(), "a connection")
            if not bad.waiting():
                break
            met_bad += 1
            u = bad.accept()
            garbage(u)
            u.shut()
        u = good.accept()
        u.handshake(context, server=True).send(GREETING)
        c.expect(GREETING).send(EHLO)
        u.expect(EHLO).send(ehlo_reply())
        c.reply(b"250")
        quit_(c, u)
        shut(c, u)
    t.equal(met_bad, 1, "tries of the bad one")
    rec = rp.record("upstream", state="down")
    t.check(rec["reason"].startswith("tls-"), "record: %r" % rec)


@cases({"garbage": "garbage", "timeout": "timeout", "name": "name"}, quick=True)
def implicit_nobody_left(t, how):
    """The reason is told, in the place of the greeting."""
    b = Bed(t, "plain", "implicit", to={"mode": "verify"}, up=SHORT, servers=server_context(t, "other-name"))
    c = b.rp.client()
    u = b.up.accept()
    if how == "garbage":
        garbage(u)
    elif how == "name":
        u.handshake_fails(b.servers, server=True)
    got = c.reply(b"421 4.4.1 upstream mta ")
    t.check(got.split(b": ")[-1].startswith(b"tls-" + (b"" if how == "garbage" else how.encode())), "the reply %r" % got)
    c.ended()
    u.ignore_rest = True
    t.equal(b.rp.record("session")["reason"], "upstream-unreachable", "record")


@test(quick=True)
def implicit_replaced(t):
    b = Bed(t, "plain", "implicit")
    c, u = b.connect()
    message(c, u)
    u.close()
    time.sleep(0.05)
    c.send(MAIL)
    u = b.replayed()
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    t.equal(u.clear, b"", "what came in clear")


@test(quick=True)
def implicit_needs_no_hello(t):
    """Everything is inside: commands are the upstream's to refuse."""
    b = Bed(t, "plain", "implicit")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    step(c, u, MAIL, b"503 5.5.1 polite people say EHLO first\r\n")
    step(c, u, b"NOOP\r\n", b"250 mine\r\n")


# ---- AUTH ----

RULES = {"default": (None, False), "off": ("off", False), "local": ("local", False), "on": ("on", True)}


@cases({"%s,%s" % (name, where): (rule, there or where == "local" and rule != "off", where)
        for name, (rule, there) in RULES.items() for where in ("local", "remote")}, quick=True)
def auth_in_clear(t, case):
    """On a link without TLS, where it might have had it."""
    rule, passes, where = case
    host = "127.0.0.1" if where == "local" else own_address()
    if host is None:
        raise Skip("no address but loopback")
    b, c, u = before(t, "opportunistic", up={"auth-in-clear": rule} if rule else {}, address=host + ":0")
    u.send(ehlo_reply()).expect(EHLO).send(ehlo_reply(AUTH_CAPS))
    t.equal(b"AUTH" in keywords(c.reply(b"250")), passes, "AUTH is shown")
    if passes:
        step(c, u, PLAIN, b"535 5.7.8 no\r\n")
    else:
        c.send(PLAIN).expect(CLEAR)
        u.quiet(0.05)
    quit_(c, u)
    shut(c, u)
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    b.secure(u).expect(EHLO).send(ehlo_reply(AUTH_CAPS))
    t.check(b"AUTH" in keywords(c.reply(b"250")), "AUTH is shown inside")
    step(c, u, PLAIN, b"235 2.7.0 welcome\r\n")
    shut(c, u)
    counter(t, b, clear_auth_refusals=0 if passes else 1)


@cases({"as-ever": (None, True), "off": ("off", False)}, quick=True)
def auth_where_there_is_no_tls_at_all(t, case):
    """Neither leg has anything to do with TLS: `local` is as if there were no such rule."""
    rule, passes = case
    host = own_address()
    if host is None:
        raise Skip("no address but loopback")
    up = t.upstream(address=host + ":0")
    rp = t.ringpost(up, up={"auth-in-clear": rule} if rule else {})
    c = rp.client()
    u = up.accept()
    u.send(GREETING)
    c.expect(GREETING).send(EHLO)
    u.expect(EHLO).send(ehlo_reply(AUTH_CAPS))
    t.equal(b"AUTH" in keywords(c.reply(b"250")), passes, "AUTH is shown")


@test(quick=True)
def auth_behind_a_fallback_in_mid_session(t):
    """It was shown inside TLS; the link that took the place of that one is in clear."""
    host = own_address()
    if host is None:
        raise Skip("no address but loopback")
    b = Bed(t, "plain", "starttls", to={"mode": "opportunistic"}, address=host + ":0")
    c, u = b.connect(AUTH_CAPS)
    u.close()
    time.sleep(0.05)
    c.send(PLAIN)
    u = b.link()
    u.expect(EHLO).send(ehlo_reply()).expect(EHLO).send(ehlo_reply(AUTH_CAPS))
    c.expect(CLEAR)
    u.quiet(0.05)


@test(quick=True)
def data_in_the_middle_of_it_all(t):
    """The link fails in mid-body as any does: 451 at the end, and the next message on a new one."""
    b = Bed(t, "plain", "starttls")
    c, u = b.connect()
    data_open(c, u)
    c.send(b"part\r\n")
    u.expect(b"part")
    u.wire(b"garbage that is no record at all\r\n")
    u.ignore_rest = True
    c.quiet(0.05)
    c.send(b".\r\n").reply(b"451 4.4.2")
    c.send(MAIL)
    u = b.replayed()
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    t.equal(b.rp.record("transaction")["reason"], "upstream-tls", "record")
