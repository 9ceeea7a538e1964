# SPDX-License-Identifier: GPL-3.0-or-later
"""AUTH is passed through with its continuations and never shows in a log; STARTTLS none and passthrough."""
import hashlib
import random
import threading

from lib.core import cases, test
from lib.smtp import BYE, CAPS, MAIL, OK_MAIL, greet, hello, message, pair, step

AUTH_CAPS = CAPS + (b"AUTH PLAIN LOGIN CRAM-MD5",)
OK = b"235 2.7.0 welcome\r\n"
CANARY = b"Y2FuYXJ5LXNlY3JldC00NzEx"
MOVERS = {m: m for m in ("auto", "copy", "splice", "ring-splice", "zero-copy")}


def no_secret(t, rp):
    text = rp.raw_log() + rp.stderr().encode()
    for s in (CANARY, b"canary", CANARY.lower()):
        t.check(s not in text, "a secret is in the log")


@test(quick=True)
def plain_with_initial_response(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH PLAIN " + CANARY + b"\r\n", OK)
    message(c, u)
    step(c, u, b"QUIT\r\n", BYE)
    u.close()
    c.ended()
    rec = rp.record("session")
    t.check("PLAIN" in str(rec), "the mechanism is in the session record: %r" % rec)
    no_secret(t, rp)


@test(quick=True)
def plain_without_initial_response(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"auth plain\r\n", b"334 \r\n")
    step(c, u, CANARY + b"\r\n", OK)
    step(c, u, MAIL, OK_MAIL)
    no_secret(t, rp)


@test(quick=True)
def login_with_two_challenges(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n")
    step(c, u, CANARY + b"\r\n", b"334 UGFzc3dvcmQ6\r\n")
    step(c, u, b"QUIT\r\n", b"535 5.7.8 no\r\n")  # a response that looks like a command is none
    step(c, u, b"NOOP\r\n", b"250 ok\r\n")
    step(c, u, b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n")
    step(c, u, CANARY + b"\r\n", b"334-UGFz\r\n334 c3dvcmQ6\r\n")
    step(c, u, b"\r\n", OK)
    message(c, u)
    c.close()
    rp.record("session")
    no_secret(t, rp)


@test(quick=True)
def octet_by_octet(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    for line, reply in ((b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n"), (CANARY + b"\r\n", b"334 UGFzc3dvcmQ6\r\n"),
                        (CANARY + b"\r\n", OK)):
        c.send_octets(line)
        u.expect(line)
        u.send_octets(reply)
        c.expect(reply)


@test(quick=True)
def responses_sent_ahead_wait(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    c.send(b"AUTH LOGIN\r\n" + CANARY + b"\r\nc2Vjb25k\r\n" + MAIL)
    u.expect(b"AUTH LOGIN\r\n").quiet(0.05)
    u.send(b"334 VXNlcm5hbWU6\r\n").expect(CANARY + b"\r\n").quiet(0.05)
    u.send(b"334 UGFzc3dvcmQ6\r\n").expect(b"c2Vjb25k\r\n").quiet(0.05)
    u.send(OK).expect(MAIL).send(OK_MAIL)
    c.expect(b"334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n" + OK + OK_MAIL)


@test(quick=True)
def cancelled(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n")
    step(c, u, b"*\r\n", b"501 5.7.0 cancelled\r\n")
    message(c, u)


@test(quick=True)
def refused_mechanism(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH FOO " + CANARY + b"\r\n", b"504 5.5.4 no such\r\n")
    step(c, u, b"AUTH PLAIN " + CANARY + b"\r\n", b"535 5.7.8 wrong\r\n")
    step(c, u, b"AUTH PLAIN " + CANARY + b"\r\n", b"454 4.7.0 later\r\n")
    no_secret(t, rp)


@test(quick=True)
def long_lines_in_auth(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH PLAIN\r\n", b"334 \r\n")
    step(c, u, b"A" * 12286 + b"\r\n", b"535 5.7.8 wrong\r\n")
    c.send(b"AUTH GSSAPI " + b"B" * (12288 - 14) + b"\r\n")
    u.expect(b"AUTH GSSAPI " + b"B" * (12288 - 14) + b"\r\n").send(b"504 5.5.4 no such\r\n")
    c.expect(b"504 5.5.4 no such\r\n")


@test(quick=True)
def too_long_in_auth(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH PLAIN\r\n", b"334 \r\n")
    c.send(b"A" * 12287 + b"\r\nNOOP\r\n")
    cancelled_for_the_client(t, c, u)
    u.expect(b"NOOP\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")


def cancelled_for_the_client(t, c, u):
    """A line that may not be passed ends the exchange: the upstream is told `*` (RFC 4954 4), the client why."""
    u.expect(b"*\r\n").send(b"501 5.7.0 cancelled\r\n")
    c.reply(b"500 5.5.")


@test(quick=True)
def no_new_link_after_auth(t):
    """The identity cannot be repeated: the session ends with 421."""
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH PLAIN " + CANARY + b"\r\n", OK)
    u.close()
    c.settle()
    c.sock.settimeout(t.wait)
    try:
        c.sock.sendall(b"NOOP\r\n")
    except OSError:
        pass
    got = c.rest()
    t.check(got.startswith(b"421 4.4.2"), "the client got %r" % got)
    up.nobody()


@test(quick=True)
def upstream_lost_in_auth(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n")
    u.close()
    c.settle()
    c.send(CANARY + b"\r\n")
    got = c.reply(b"4")
    t.check(b"4.4.2" in got, "the reply: %r" % got)
    up.nobody()  # the response is nobody's command: no new link may get it
    no_secret(t, rp)


@test(quick=True)
def upstream_421_in_auth(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n")
    c.send(CANARY + b"\r\n")
    u.expect(CANARY + b"\r\n").send(b"421 4.7.0 too many\r\n")
    c.expect(b"421 4.7.0 too many\r\n")
    c.ended()


@test(quick=True)
def secrets_in_bad_lines_are_not_logged(t):
    rp, up, c, u = pair(t, caps=AUTH_CAPS)
    step(c, u, b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n")
    c.send(CANARY + b"\0\r\n")
    cancelled_for_the_client(t, c, u)
    c.close()
    rp.record("session")
    no_secret(t, rp)


# ---- STARTTLS ----

TLS_CAPS = CAPS + (b"STARTTLS",)
GO_TLS = b"220 2.0.0 ready to start TLS\r\n"


def passthrough(t, **kw):
    up = t.upstream()
    rp = t.ringpost(up, listener={"starttls": "passthrough"}, **kw)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    shown = hello(c, u, TLS_CAPS)
    t.check(b"STARTTLS" in shown, "STARTTLS is shown: %r" % shown)
    return rp, up, c, u


@test(quick=True)
def starttls_none(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    shown = hello(c, u, TLS_CAPS)
    t.check(b"STARTTLS" not in shown, "hidden: %r" % shown)
    c.send(b"STARTTLS\r\n")
    c.reply(b"502 5.5.1")
    message(c, u)


@test(quick=True)
def starttls_shown_only_when_the_upstream_has_it(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"starttls": {"mode": "passthrough"}})
    c = rp.client()
    u = up.accept()
    greet(c, u)
    shown = hello(c, u)
    t.check(b"STARTTLS" not in shown, "shown: %r" % shown)


@test(quick=True)
def starttls_opaque_both_ways(t):
    rp, up, c, u = passthrough(t)
    step(c, u, b"STARTTLS\r\n", GO_TLS)
    hello_tls = b"\x16\x03\x01" + bytes(range(256))
    c.send(hello_tls)
    u.expect(hello_tls)
    u.send_octets(b"\x16\x03\x03\0.\r\n421 not a reply\r\n")
    c.expect(b"\x16\x03\x03\0.\r\n421 not a reply\r\n")
    c.send_octets(b"QUIT\n\0\r\nXCLIENT\r\n")
    u.expect(b"QUIT\n\0\r\nXCLIENT\r\n")
    c.half_close()
    u.ended()
    u.send(b"last words").close()
    c.expect(b"last words")
    c.ended()
    rec = rp.record("session")
    t.check(rec.get("tls_opaque"), "tls_opaque in the record: %r" % rec)


@test(quick=True)
def starttls_upstream_closes_first(t):
    rp, up, c, u = passthrough(t)
    step(c, u, b"STARTTLS\r\n", GO_TLS)
    u.send(b"x" * 1000).close()
    c.expect(b"x" * 1000)
    c.ended()
    c.close()
    rp.sockets_back()


@test(quick=True)
def starttls_refused_by_the_upstream(t):
    rp, up, c, u = passthrough(t)
    step(c, u, b"STARTTLS\r\n", b"454 4.7.0 not now\r\n")
    message(c, u)


@test(quick=True)
def octets_behind_starttls_end_the_session(t):
    """CVE-2011-0411: nothing that was sent in the clear may be read on the other side of the handshake."""
    rp, up, c, u = passthrough(t)
    c.send(b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
    c.reply(b"501 5.5.1")
    c.gone()
    got = u.rest()
    t.check(b"evil" not in got, "the upstream got %r" % got)
    t.equal(rp.stop_now()["starttls_injection"], 1, "counter")


@test(quick=True)
def octets_behind_starttls_later(t):
    """They come before the 220, in a segment of their own."""
    rp, up, c, u = passthrough(t)
    c.send(b"STARTTLS\r\n")
    u.expect(b"STARTTLS\r\n")
    c.send(b"MAIL FROM:<evil@x.test>\r\n")
    c.settle()
    try:
        u.sock.sendall(GO_TLS)
    except OSError:
        pass
    got = c.rest()
    t.check(not got.startswith(b"220"), "the client was told %r" % got)
    got = u.rest()
    t.check(b"evil" not in got, "the upstream got %r" % got)


@test(quick=True)
def half_a_command_behind_starttls(t):
    rp, up, c, u = passthrough(t)
    c.send(b"STARTTLS\r\nM")
    c.settle()
    c.reply(b"501 5.5.1")
    c.gone()
    t.check(b"M" not in u.rest().replace(b"STARTTLS", b""), "octets went through")


@test(quick=True)
def octets_behind_the_220_end_the_session(t):
    """The response injection of 2021: what the upstream says in the clear is no word of the session behind TLS."""
    rp, up, c, u = passthrough(t)
    c.send(b"STARTTLS\r\n")
    u.expect(b"STARTTLS\r\n").send(GO_TLS + b"250 injected\r\n")
    got = c.rest()
    t.check(b"injected" not in got and not got.startswith(b"220"), "the client got %r" % got)
    u.gone()


@test(quick=True)
def starttls_in_a_group_with_commands_before(t):
    rp, up, c, u = passthrough(t)
    c.send(b"NOOP\r\nSTARTTLS\r\n")
    u.expect(b"NOOP\r\nSTARTTLS\r\n").send(b"250 ok\r\n" + GO_TLS)
    c.expect(b"250 ok\r\n" + GO_TLS)
    c.send(b"\x16\x03")
    u.expect(b"\x16\x03")


@cases(MOVERS, quick=True, timeout=60)
def opaque_5_mb_both_ways(t, mover):
    rp, up, c, u = passthrough(t, up={"mover": mover})
    step(c, u, b"STARTTLS\r\n", GO_TLS)
    a = random.Random(1).randbytes(5 << 20)
    b = random.Random(2).randbytes(5 << 20)
    c.send_async(a)
    u.send_async(b)
    got = {}
    th = threading.Thread(target=lambda: got.update(b=c.recv_exact(len(b))), daemon=True)
    th.start()
    got["a"] = u.recv_exact(len(a))
    th.join(t.wait * 4)
    t.equal(hashlib.sha256(got["a"]).hexdigest(), hashlib.sha256(a).hexdigest(), "client to upstream")
    t.equal(hashlib.sha256(got.get("b", b"")).hexdigest(), hashlib.sha256(b).hexdigest(), "upstream to client")
    c.join_sender()
    u.join_sender()
    c.send(b"small again")
    u.expect(b"small again").send(b"and back")
    c.expect(b"and back")
    c.half_close()
    u.ended()
    u.close()
    c.ended()
    rec = rp.record("session")
    t.check(rec["bytes_in"] >= len(a) and rec["bytes_out"] >= len(b), "octets in the record: %r" % rec)


@cases(MOVERS, quick=True)
def opaque_reset_in_mid_flow(t, mover):
    rp, up, c, u = passthrough(t, up={"mover": mover})
    step(c, u, b"STARTTLS\r\n", GO_TLS)
    c.send_async(random.Random(1).randbytes(3 << 20))
    u.recv_exact(1 << 20)
    u.reset()
    c.join_sender(ok=False)
    c.rest()
    c.close()
    rp.sockets_back()


@test(quick=True)
def ehlo_behind_starttls_is_not_seen(t):
    """After the switch nothing is parsed: neither verbs nor replies, nor sizes of lines."""
    rp, up, c, u = passthrough(t)
    step(c, u, b"STARTTLS\r\n", GO_TLS)
    c.send(b"\r\n" * 100 + b"x" * 10000)
    u.expect(b"\r\n" * 100 + b"x" * 10000)
    u.send(b"999 nonsense\n")
    c.expect(b"999 nonsense\n")
