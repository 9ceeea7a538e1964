# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's leg, where TLS ends here: what is said before the handshake, during it and behind it, and every refusal.
Octets where none should be are in test_tls_injection.py."""
import signal
import time

from lib.core import Skip, cases, test
from lib.policy import HOLD, PolicyServer
from lib.smtp import (BYE, CAPS, EHLO, GREETING, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, ehlo_reply, envelope, keywords, message, quit_,
                      step)
from lib.tls import (GO_TLS, NAME, STARTTLS, Bed, client_context, first_flight, only_records, own_address, pem, record)

FIRST = b"503 5.5.1 EHLO first\r\n"
NEED_TLS = b"530 5.7.0 must issue a STARTTLS command first\r\n"
BOUND = b"503 5.5.1 no STARTTLS after AUTH\r\n"
ALREADY = b"503 5.5.1 TLS is in use already\r\n"
CLEAR = b"538 5.7.11 encryption required for authentication\r\n"
DONE = b"250 2.0.0 ok\r\n"
PLAIN = b"AUTH PLAIN AGEAYg==\r\n"
AUTH_CAPS = CAPS + (b"AUTH PLAIN LOGIN",)
SHORT = {"timeouts": {"tls": "1s"}}
# The shortest command time there is, so that what is measured can only be the handshake's.
MANY = {"errors": 1000, "soft-errors": 1000}


def before(t, mode="offer", caps=CAPS, site=None, **kw):
    """A bed, and a session in clear behind its EHLO: (bed, client, upstream, what it was shown)."""
    b = Bed(t, "starttls", site=dict({"mode": mode}, **(site or {})), **kw)
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    return b, c, u, b.hello(c, u, caps)


def counter(t, b, **want):
    stop = b.rp.stop_now()
    t.equal({k: stop[k] for k in want}, want, "counters")


def shut(*conns):
    for c in conns:
        c.shut()


# ---- the dialogue ----

@cases({"offer": "offer", "require": "require"}, quick=True)
def the_whole_dialogue(t, mode):
    """The server offers STARTTLS too: it is never shown, and never said to it."""
    b = Bed(t, "starttls", site={"mode": mode})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    u.expect(EHLO).send(ehlo_reply((b"STARTTLS", b"DSN", b"REQUIRETLS", b"PIPELINING")))
    c.expect(ehlo_reply((b"DSN", b"PIPELINING", b"STARTTLS")))
    b.upgrade(c)
    c.send(EHLO)
    u.expect(EHLO).send(ehlo_reply((b"STARTTLS", b"DSN", b"REQUIRETLS", b"PIPELINING")))
    c.expect(ehlo_reply((b"DSN", b"PIPELINING")))
    message(c, u)
    quit_(c, u)
    rec = b.rp.record("session")
    t.equal((rec["tls"], rec["tls_sni"], rec["reason"]), ("TLSv1.3", NAME, "quit"), "record")
    t.check(rec["tls_cipher"].startswith("TLS_"), "record: %r" % rec)
    t.check(not {"tls_resumed", "tls_subject", "tls_verified", "upstream_tls", "cause"} & set(rec), "record: %r" % rec)
    counter(t, b, tls_handshakes=1, tls_failed=0, tls_timeouts=0, tls_truncated=0, starttls_injection=0, starttls_passed=0)


@test(quick=True)
def the_verb_in_any_case(t):
    b, c, u, shown = before(t)
    c.send(b"starttls \r\n").expect(GO_TLS)
    c.handshake(b.clients, name=NAME)
    b.hello(c, u)


@test(quick=True)
def refused(t):
    """Each refusal leaves the session as it was, in clear."""
    b = Bed(t, "starttls", listener={"limits": MANY})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    c.send(STARTTLS).expect(FIRST)
    b.hello(c, u)
    c.send(b"STARTTLS now\r\n").reply(b"501 5.5.4")
    u.quiet(0.05)
    b.upgrade(c)
    c.send(STARTTLS).expect(ALREADY)
    c.send(STARTTLS + b"NOOP\r\n").expect(ALREADY + DONE)  # in TLS nothing can stand behind it
    b.hello(c, u)
    c.send(STARTTLS).expect(ALREADY)
    message(c, u)


@test(quick=True)
def refused_in_implicit_tls(t):
    b = Bed(t, "implicit")
    c, u = b.connect()
    c.send(STARTTLS).expect(ALREADY)
    message(c, u)
    quit_(c, u)
    t.equal(b.rp.record("session")["tls"], "TLSv1.3", "record")


@cases({"AUTH": (PLAIN, b"235 2.7.0 welcome\r\n"), "unknown": (b"XYZZY\r\n", b"250 nothing happens\r\n"),
        "XCLIENT": (b"XCLIENT NAME=a.test\r\n", b"250 ok\r\n")}, quick=True)
def refused_behind_what_cannot_be_forgotten(t, case):
    command, reply = case
    b, c, u, _shown = before(t, caps=AUTH_CAPS, listener={"trusted": ["127.0.0.0/8"]})
    step(c, u, command, reply)
    c.send(STARTTLS).expect(BOUND)
    message(c, u)


@test(quick=True)
def xclient_in_several_commands(t):
    """Behind XCLIENT no hello counts any more, but the next XCLIENT needs none: the one in TLS was there."""
    b, c, u, _shown = before(t, listener={"trusted": ["127.0.0.0/8"]})
    b.upgrade(c)
    b.hello(c, u)
    step(c, u, b"XCLIENT NAME=a.test\r\n", b"220 up.test\r\n")
    step(c, u, b"XCLIENT ADDR=192.0.2.1\r\n", b"220 up.test\r\n")
    b.hello(c, u)
    message(c, u)


@test(quick=True)
def a_refused_auth_does_not_stand_in_the_way(t):
    b, c, u, _shown = before(t, caps=AUTH_CAPS)
    step(c, u, PLAIN, b"535 5.7.8 no\r\n")
    b.upgrade(c)
    b.hello(c, u, AUTH_CAPS)
    step(c, u, PLAIN, b"235 2.7.0 welcome\r\n")


@test(quick=True)
def behind_a_refused_hello(t):
    b = Bed(t, "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    step(c, u, EHLO, b"550 5.7.1 not you\r\n")
    c.send(STARTTLS).expect(FIRST)
    step(c, u, b"HELO client.test\r\n", b"250 up.test\r\n")
    b.upgrade(c)


# ---- when the 220 is given ----

@test(quick=True)
def it_waits_for_replies_before_it(t):
    b, c, u, _shown = before(t)
    c.send(b"NOOP\r\nVRFY x\r\n" + STARTTLS)
    u.expect(b"NOOP\r\nVRFY x\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n").quiet(0.05)
    u.send(b"252 who knows\r\n")
    c.expect(b"252 who knows\r\n" + GO_TLS)
    c.handshake(b.clients, name=NAME)
    b.hello(c, u)


@test(quick=True)
def it_waits_behind_a_hello(t):
    b = Bed(t, "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO + STARTTLS)
    u.expect(EHLO).quiet(0.05).send(ehlo_reply())
    c.reply(b"250")
    c.expect(GO_TLS)
    c.handshake(b.clients, name=NAME)
    b.hello(c, u)


@test(quick=True)
def it_waits_behind_a_hello_that_hooks_think_about(t):
    srv = PolicyServer(t, lambda r: HOLD)
    b = Bed(t, "starttls", listener={"hooks": ["p"]},
            conf={"hooks": {"p": {"type": "policy", "endpoint": srv.address, "events": ["ehlo"], "deadline": "20s"}}})
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO + STARTTLS)
    srv.asked(1)
    c.quiet(0.05)
    srv.answer(0, "DUNNO")
    u.expect(EHLO).send(ehlo_reply())
    c.reply(b"250")
    c.expect(GO_TLS)
    c.handshake(b.clients, name=NAME)
    c.send(EHLO)
    srv.asked(2)
    srv.answer(1, "REJECT not you")
    c.reply(b"554 5.7.1")
    c.send(MAIL).expect(FIRST)


@cases({"two": 2, "twenty": 20}, quick=True)
def a_slow_server_before_it(t, n):
    """What the client said behind STARTTLS waits in the same read: 501, behind the replies that are due."""
    b, c, u, _shown = before(t)
    c.send(b"NOOP\r\n" * n + STARTTLS + b"EHLO evil\r\n")
    u.expect(b"NOOP\r\n" * n).send(b"250 ok\r\n" * n)
    c.expect(b"250 ok\r\n" * n)
    c.reply(b"501 5.5.1")
    c.ended()
    u.gone()
    shut(c, u)
    counter(t, b, starttls_injection=1, tls_handshakes=0)


@test(quick=True)
def octets_in_the_turn_of_the_last_reply_before_it(t):
    """The reply to the command before and what stands behind STARTTLS come at once: the one is given, the other is seen."""
    b, c, u, _shown = before(t)
    c.send(b"NOOP\r\n" + STARTTLS)
    u.expect(b"NOOP\r\n")
    c.settle()
    b.rp.signal(signal.SIGSTOP)
    time.sleep(0.1)
    u.send(b"250 ok\r\n")
    time.sleep(0.05)
    c.send(b"NOOP injected\r\n")
    time.sleep(0.05)
    b.rp.signal(signal.SIGCONT)
    c.expect(b"250 ok\r\n").reply(b"501 5.5.1")
    c.ended()
    t.equal(u.rest(), b"", "what the upstream was given")
    shut(c, u)
    counter(t, b, starttls_injection=1)


# ---- what is forgotten ----

@test(quick=True)
def the_session_begins_anew(t):
    b, c, u, _shown = before(t)
    b.upgrade(c)
    for command in (MAIL, RCPT, b"DATA\r\n", b"VRFY x\r\n", b"XYZZY\r\n", b"HELP\r\n", b"ETRN x\r\n", b"AUTH PLAIN\r\n"):
        c.send(command).expect(FIRST)
    c.send(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\nRSET\r\n").expect(FIRST + DONE + DONE)
    u.quiet(0.05)
    b.hello(c, u)
    message(c, u)
    c.send(b"NOOP\r\n")
    u.expect(b"NOOP\r\n").send(b"250 mine\r\n")
    c.expect(b"250 mine\r\n")


@test(quick=True)
def quit_behind_the_handshake(t):
    b, c, u, _shown = before(t)
    b.upgrade(c)
    quit_(c, u)


@test(quick=True)
def extensions_of_clear_times_are_forgotten(t):
    """CHUNKING was shown in clear, and is not any more."""
    b, c, u, _shown = before(t, caps=CAPS)
    b.upgrade(c)
    b.hello(c, u, (b"PIPELINING",))
    c.send(b"BDAT 6 LAST\r\nQUIT\r\n").reply(b"502 5.5.1")
    c.send(MAIL)
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)


@cases({"mail": (MAIL,), "rcpt": (MAIL, RCPT), "chunk": (MAIL, RCPT, b"BDAT 2\r\nab")}, quick=True)
def in_mid_transaction(t, commands):
    """It is left, and the upstream told to forget it."""
    b, c, u, _shown = before(t)
    for command in commands:
        step(c, u, command, b"250 2.0.0 ok\r\n")
    c.send(STARTTLS)
    u.expect(b"RSET\r\n")
    c.expect(GO_TLS)
    c.handshake(b.clients, name=NAME)
    u.send(b"250 flushed\r\n")
    rec = b.rp.record("transaction")
    t.equal((rec["result"], rec["reason"]), ("aborted", "starttls"), "record")
    c.send(RCPT).expect(FIRST)
    b.hello(c, u)
    message(c, u)


@test(quick=True)
def messages_before_it_count(t):
    b, c, u, _shown = before(t)
    message(c, u)
    b.upgrade(c)
    b.hello(c, u)
    message(c, u)
    quit_(c, u)
    t.equal(b.rp.record("session")["messages"], 2, "messages in the record")


@test(quick=True)
def a_new_link_behind_it(t):
    """The upstream goes away in the middle of the handshake: the next hello gets another."""
    b, c, u, _shown = before(t)
    c.send(STARTTLS).expect(GO_TLS)
    u.close()
    time.sleep(0.05)
    c.handshake(b.clients, name=NAME)
    c.send(b"NOOP\r\n").expect(DONE)
    c.send(EHLO)
    u = b.up.accept()
    u.send(GREETING).expect(EHLO).send(ehlo_reply())
    c.reply(b"250")
    message(c, u)


@test(quick=True)
def words_of_the_upstream_wait_for_the_handshake(t):
    """It says 421 in the middle of it: the client hears that inside TLS, and nothing in clear."""
    b, c, u, _shown = before(t)
    c.send(STARTTLS).expect(GO_TLS)
    u.send(b"421 4.3.2 going\r\n").close()
    c.quiet(0.1)
    c.handshake(b.clients, name=NAME)
    c.expect(b"421 4.3.2 going\r\n").ended()


@test(quick=True)
def words_before_the_220_has_left(t):
    """Both in one turn, again and again: never a word behind the 220 in clear."""
    b = Bed(t, "starttls", listener={"limits": {"per-client-sessions": 0}})
    for i in range(40):
        t.round(i)
        c = b.arrive()
        u = b.link()
        c.expect(GREETING)
        b.hello(c, u)
        c.sock.sendall(STARTTLS)
        u.sock.sendall(b"421 4.3.2 going\r\n")
        got = c.reply()
        if got == GO_TLS:
            c.quiet(0.01)
            c.handshake(b.clients, name=NAME)
            got = c.reply()
        t.equal(got, b"421 4.3.2 going\r\n", "the word")
        c.ended()
        shut(c, u)


# ---- handshakes that come to nothing ----

def no_word(t, c, so_far=b""):
    """The connection ends, and at most an alert stands before that."""
    got = c.rest()
    t.check(got.startswith(so_far), "the client got %r" % got)
    only_records(t, got[len(so_far):], "what the client got")


WAYS = {"starttls": "starttls", "implicit": "implicit"}


def at_the_handshake(t, way, **kw):
    """A session that waits for the client's hello of TLS: (bed, client, upstream or None)."""
    if way == "starttls":
        b, c, u, _shown = before(t, **kw)
        c.send(STARTTLS).expect(GO_TLS)
        return b, c, u
    b = Bed(t, "implicit", **kw)
    return b, b.rp.client(), None


def over(t, b, c, u, **want):
    """The record of the session; the upstream's connection is over."""
    rec = b.rp.record("session")
    t.equal({k: rec.get(k) for k in want}, want, "record")
    t.check("tls" not in rec, "record: %r" % rec)
    c.shut()
    if u:
        u.gone()
        u.shut()


@cases({"%s,%s" % (way, what): (way, what) for way in WAYS for what in ("silent", "half", "trickle")}, quick=True)
def too_slow(t, case):
    """One deadline for all of it, whatever trickles."""
    way, what = case
    b, c, u = at_the_handshake(t, way, listener=SHORT)
    began = time.monotonic()
    if what != "silent":
        _tls, hello = first_flight(b.clients)
        try:
            for i in range(len(hello) - 1 if what == "trickle" else 1):
                c.sock.sendall(hello[i:i + 1])
                time.sleep(0.05 if what == "trickle" else 0)
                if time.monotonic() > began + 5 * t.slow:
                    t.fail("still there")
        except OSError:
            pass
    no_word(t, c)
    over(t, b, c, u, reason="tls-timeout", code=None)
    counter(t, b, tls_timeouts=1, tls_failed=0, tls_handshakes=0)


@cases(WAYS, quick=True)
def slow_but_in_time(t, way):
    """Octet by octet."""
    b, c, u = at_the_handshake(t, way)
    c.tls, hello = first_flight(b.clients)
    c.wire_split(hello, *range(1, len(hello), 7))
    c.handshake()
    if u is None:
        u = b.link()
        c.expect(GREETING)
    b.hello(c, u)


@cases({"%s,%s" % (way, name): (way, octets) for way in WAYS for name, octets in
        {"words": b"EHLO client.test\r\n", "record-of-data": record(23, b"x" * 40), "nothing-known": b"\0" * 60}.items()}, quick=True)
def no_tls_at_all(t, case):
    way, octets = case
    b, c, u = at_the_handshake(t, way)
    c.wire(octets)
    no_word(t, c)
    rec = b.rp.record("session")
    t.check(rec["cause"].startswith("tls-"), "record: %r" % rec)
    over(t, b, c, u, reason="tls-failed")
    counter(t, b, tls_failed=1, tls_timeouts=0, tls_handshakes=0)


@cases(WAYS, quick=True)
def too_old(t, way):
    b, c, u = at_the_handshake(t, way, clients=client_context(t, "1.1", "1.1"))
    t.check(c.handshake_fails(b.clients, name=NAME), "an alert says why")
    over(t, b, c, u, reason="tls-failed", cause="tls-version")


@cases({"%s,%s" % (way, how): (way, how) for way in WAYS for how in ("truncate", "reset")}, quick=True)
def gone_in_the_middle(t, case):
    way, how = case
    b, c, u = at_the_handshake(t, way)
    _tls, hello = first_flight(b.clients)
    c.wire(hello[:40]).settle()
    getattr(c, how)()
    over(t, b, c, u, reason="tls-failed", cause="tls-truncated" if how == "truncate" else "ECONNRESET")
    counter(t, b, tls_failed=1)


@cases(WAYS, quick=True)
def gone_before_it(t, way):
    b, c, u = at_the_handshake(t, way)
    c.truncate()
    no_word(t, c)
    over(t, b, c, u, reason="tls-failed", cause="tls-truncated")


@cases({"optional": "optional", "require": "require"}, quick=True)
def certificates_of_clients(t, how):
    site = {"client-certificates": how, "client-ca": pem(t, "client-ca")}
    b, c, u, _shown = before(t, site=site, clients=client_context(t, name="client"), listener={"limits": MANY})
    b.upgrade(c)
    b.hello(c, u)
    quit_(c, u)
    rec = b.rp.record("session")
    t.equal((rec["tls_subject"], rec["tls_verified"]), ("client.example.com", True), "record")
    b.clients = client_context(t)
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    b.hello(c, u)
    c.send(STARTTLS).expect(GO_TLS)
    if how == "require":
        c.handshake(b.clients, name=NAME)  # as far as a client of TLS 1.3 can tell
        t.equal(c.rest(), b"", "what the client got")
        rec = b.rp.record("session", 2)
        t.equal((rec["reason"], rec["cause"]), ("tls-failed", "tls-no-certificate"), "record")
        return
    c.handshake(b.clients, name=NAME)
    b.hello(c, u)
    quit_(c, u)
    t.check("tls_subject" not in b.rp.record("session", 2), "a subject without a certificate")


# ---- going down ----

@test(quick=True)
def drained_in_the_handshake(t):
    """An upstream knows of the session: it is told inside."""
    b, c, u = at_the_handshake(t, "starttls")
    b.rp.signal(signal.SIGTERM)
    c.quiet(0.1)
    c.handshake(b.clients, name=NAME)
    c.expect(b"421 4.3.2 going down, try again later\r\n").ended()


@test(quick=True)
def drained_in_the_handshake_with_nobody_behind(t):
    b, c, _u = at_the_handshake(t, "implicit")
    _tls, hello = first_flight(b.clients)
    c.wire(hello[:40]).settle()
    b.rp.signal(signal.SIGTERM)
    no_word(t, c)
    t.equal(b.rp.record("session")["reason"], "draining", "record")
    b.up.nobody(0)


@test(quick=True)
def drained_when_the_upstream_is_lost(t):
    b, c, u = at_the_handshake(t, "starttls")
    b.rp.signal(signal.SIGTERM)
    c.quiet(0.05)
    u.close()
    no_word(t, c)
    t.equal(b.rp.record("session")["reason"], "draining", "record")


@cases(WAYS, quick=True)
def killed_in_the_handshake(t, way):
    b, c, u = at_the_handshake(t, way)
    b.rp.signal(signal.SIGTERM)
    time.sleep(0.05)
    if b.rp.alive():
        b.rp.signal(signal.SIGTERM)
    no_word(t, c)
    t.check(b.rp.record("session")["reason"] in ("killed", "draining"), "record")
    c.shut()
    if u:
        u.gone()


# ---- require ----

@test(quick=True)
def nothing_goes_without_it(t):
    b, c, u, shown = before(t, "require", listener={"limits": MANY, "trusted": ["127.0.0.0/8"]}, caps=AUTH_CAPS)
    t.check(b"AUTH" in shown, "on loopback AUTH is shown: %r" % shown)
    commands = (MAIL, RCPT, b"DATA\r\n", PLAIN, b"AUTH\r\n", b"VRFY x\r\n", b"EXPN x\r\n", b"HELP\r\n", b"ETRN x\r\n", b"XYZZY\r\n",
                b"XCLIENT NAME=a\r\n", b"XFORWARD NAME=a\r\n", b"BURL x\r\n")
    for command in commands:
        c.send(command).expect(NEED_TLS)
    c.send(b"BDAT 10 LAST\r\nSTARTTLS\r\nNOOP x\r\n").expect(NEED_TLS)
    u.expect(b"NOOP x\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")
    for command in (b"RSET\r\n", b"HELO client.test\r\n", EHLO):
        c.send(command)
        u.expect(command).send(ehlo_reply() if command == EHLO else b"250 ok\r\n")
        c.reply(b"250")
    b.upgrade(c)
    c.send(MAIL).expect(FIRST)
    b.hello(c, u)
    message(c, u)
    quit_(c, u)
    shut(c, u)
    counter(t, b, tls_required_refusals=len(commands) + 1, tls_handshakes=1)


@test(quick=True)
def quit_without_it(t):
    b, c, u, _shown = before(t, "require")
    quit_(c, u)


# ---- AUTH in clear ----

RULES = {"default": (None, False), "off": ("off", False), "local": ("local", False), "on": ("on", True)}


def auth_round(t, b, c, u, passes):
    shown = b.hello(c, u, AUTH_CAPS)
    t.equal(b"AUTH" in shown, passes, "AUTH is shown")
    if passes:
        step(c, u, PLAIN, b"535 5.7.8 no\r\n")
    else:
        c.send(PLAIN + b"auth login\r\n").expect(CLEAR + CLEAR)
        u.quiet(0.05)


@cases({"%s,%s" % (name, where): (rule, there or where == "local" and rule != "off", where)
        for name, (rule, there) in RULES.items() for where in ("local", "remote")}, quick=True)
def auth_in_clear(t, case):
    rule, passes, where = case
    host = "127.0.0.1" if where == "local" else own_address()
    if host is None:
        raise Skip("no address but loopback")
    listener = {"clients": ["any"]}
    if rule:
        listener["auth-in-clear"] = rule
    b = Bed(t, "starttls", listener=listener, bind=host + ":0", up={"auth-in-clear": "on"})
    c = b.arrive(source=host)
    u = b.link()
    c.expect(GREETING)
    auth_round(t, b, c, u, passes)
    b.upgrade(c)
    auth_round(t, b, c, u, True)
    quit_(c, u)
    shut(c, u)
    counter(t, b, clear_auth_refusals=0 if passes else 2)


# ---- implicit ----

@test(quick=True)
def nobody_is_dialled_before_the_handshake(t):
    b = Bed(t, "implicit")
    c = b.rp.client()
    c.quiet(0.1)
    b.up.nobody(0.1)
    c.start_tls(b.clients, name=NAME).tls.shake()
    wire = c.tls.take()
    c.wire(wire[:100]).settle()
    b.up.nobody(0.05)
    c.wire(wire[100:]).handshake()
    u = b.link()
    c.expect(GREETING)
    b.hello(c, u)


@test(quick=True)
def no_upstream_behind_the_handshake(t):
    """The reason is told inside."""
    b = Bed(t, "implicit")
    b.up.stop_listening()
    c = b.arrive()
    got = c.reply(b"421 4.4.1 upstream mta ")
    t.check(got.endswith(b": ECONNREFUSED\r\n"), "the reply %r" % got)
    c.ended()


@test(quick=True)
def turned_away_without_a_word(t):
    """In clear there is nothing to say to somebody who waits for TLS; it is counted and logged as always."""
    b = Bed(t, "implicit", listener={"clients": ["192.0.2.0/24"]})
    c = b.rp.client()
    t.equal(c.rest(), b"", "what the client got")
    t.equal(b.rp.record("refused")["reason"], "client-not-allowed", "record")
    counter(t, b, refused_clients=1)


@cases({"at-once": False, "late": True}, quick=True)
def turned_away_by_hooks_without_a_word(t, late):
    srv = PolicyServer(t, lambda r: HOLD if late else "REJECT not you")
    b = Bed(t, "implicit", listener={"hooks": ["p"]},
            conf={"hooks": {"p": {"type": "policy", "endpoint": srv.address, "events": ["connect"], "deadline": "20s"}}})
    c = b.rp.client()
    _tls, hello = first_flight(b.clients)
    c.wire(hello)
    srv.asked(1)
    if late:
        c.quiet(0.1)
        srv.answer(0, "REJECT not you")
    t.equal(c.rest(), b"", "what the client got")
    b.up.nobody(0)


@test(quick=True)
def a_handshake_that_waits_for_hooks(t):
    """Its octets are there long before anybody may read them."""
    srv = PolicyServer(t, lambda r: HOLD)
    b = Bed(t, "implicit", listener=dict(SHORT, hooks=["p"]),
            conf={"hooks": {"p": {"type": "policy", "endpoint": srv.address, "events": ["connect"], "deadline": "20s"}}})
    c = b.rp.client()
    c.tls, hello = first_flight(b.clients)
    c.wire(hello)
    srv.asked(1)
    c.quiet(1.3)  # longer than a handshake may take
    srv.answer(0, "DUNNO")
    c.handshake()
    u = b.link()
    c.expect(GREETING)
    b.hello(c, u)
    envelope(c, u)


@test(quick=True)
def drained_while_hooks_think(t):
    srv = PolicyServer(t, lambda r: HOLD)
    b = Bed(t, "implicit", listener={"hooks": ["p"]},
            conf={"hooks": {"p": {"type": "policy", "endpoint": srv.address, "events": ["connect"], "deadline": "20s"}}})
    c = b.rp.client()
    srv.asked(1)
    b.rp.signal(signal.SIGTERM)
    t.equal(c.rest(), b"", "what the client got")


@test(quick=True)
def the_command_clock_inside(t):
    """Silence is told inside TLS, which then ends as it should."""
    b = Bed(t, "starttls", listener={"timeouts": {"command": "1s"}})
    c, u = b.connect()
    c.expect(b"421 4.4.2 timeout, closing connection\r\n").ended()
    u.gone()


@test(quick=True)
def errors_end_it_inside(t):
    """Those before TLS count on."""
    b, c, u, _shown = before(t, listener={"limits": {"errors": 4, "soft-errors": 4}})
    for _ in range(2):
        c.send(b"STARTTLS x\r\n").reply(b"501 5.5.4")
    b.upgrade(c)
    c.send(MAIL * 2).expect(FIRST * 2)
    c.reply(b"421 4.7.0")
    c.ended()
    u.gone()
