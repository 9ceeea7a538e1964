# SPDX-License-Identifier: GPL-3.0-or-later
"""What the simulated kernel found, told again to the real binary where two scripted peers can."""
import signal
import time

from lib.core import test
from lib.smtp import CAPS, EHLO, MAIL, OK_MAIL, RCPT, TAKEN, data_open, ehlo_reply, envelope, keywords, message, opened, pair, relinked, step

EHLO2 = b"EHLO other.test\r\n"


@test(quick=True)
def refused_hello_changes_nothing(t):
    """RFC 5321 4.1.4: a replacement is told the hello that was accepted last, not the one that was said last."""
    rp, up, c, u = pair(t)
    step(c, u, EHLO2, b"550 5.7.1 not this time\r\n")
    u.close()
    time.sleep(0.1)
    u = relinked(up, c, ehlo=EHLO)
    message(c, u)


@test(quick=True)
def hello_that_was_never_answered_changes_nothing(t):
    rp, up, c, u = pair(t)
    c.send(EHLO2)
    u.expect(EHLO2)
    u.close()
    c.reply(b"451 4.4.2")
    u = relinked(up, c, ehlo=EHLO)
    message(c, u)


@test(quick=True)
def second_hello_replaces_the_first(t):
    rp, up, c, u = pair(t)
    c.send(EHLO2)
    u.expect(EHLO2)
    u.send(ehlo_reply(CAPS))
    keywords(c.reply(b"250"))
    u.close()
    time.sleep(0.1)
    u = relinked(up, c, ehlo=EHLO2)
    message(c, u)


@test(quick=True)
def refused_body_behind_a_refused_hello(t):
    """The link is dropped on purpose; nothing binds the session to it."""
    rp, up, c, u = pair(t)
    step(c, u, EHLO2, b"550 5.7.1 not this time\r\n")
    data_open(c, u)
    c.send(b"Subject: x\r\n\n.\r\nmore\r\n.\r\n")
    c.reply(b"550 5.5.2")
    u.rest()
    u = relinked(up, c, ehlo=EHLO)
    message(c, u)


@test()
def refused_chunk_that_takes_its_time(t):
    """Octets that are thrown away are octets all the same: their client is not silent."""
    rp, up, c, u = pair(t, listener={"timeouts": {"data": "1s"}})
    c.send(b"BDAT 30 LAST\r\n")
    for _ in range(5):
        c.send(b"012345")
        time.sleep(0.6)
    c.reply(b"503 5.5.1")
    message(c, u)


@test()
def command_that_waits_for_our_own_delay(t):
    """A client that has said its command is not silent while we make it wait for an error's sake."""
    rp, up, c, u = pair(t, listener={"limits": {"soft-errors": 1, "error-delay": "2s"}, "timeouts": {"command": "1s"}})
    c.send(RCPT + RCPT)
    c.reply(b"503 5.5.1")
    c.reply(b"503 5.5.1")
    c.send(MAIL)
    u.expect(MAIL)
    u.send(OK_MAIL)
    c.expect(OK_MAIL)


@test(quick=True)
def xclient_that_was_taken_binds(t):
    """Whatever 2xx takes it (220 is the usual one): no other link knows what it said."""
    rp, up, c, u = pair(t, listener={"trusted": ["127.0.0.0/8"]})
    step(c, u, b"XCLIENT NAME=spike.test\r\n", b"250 2.0.0 ok\r\n")
    u.close()
    c.reply(b"421 4.4.2")
    c.gone()


@test(quick=True)
def starttls_with_octets_behind_waits_its_turn(t):
    """The refusal stands behind the replies that are due, and the message before it gets its own."""
    rp, up, c, u = pair(t, caps=CAPS + (b"STARTTLS",), listener={"starttls": "passthrough"})
    envelope(c, u)
    chunk = b"BDAT 3 LAST\r\nx\r\n"
    c.send(chunk + b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
    u.expect(chunk)
    c.quiet(0.2)
    u.send(TAKEN)
    c.expect(TAKEN)
    c.reply(b"501 5.5.1")
    c.gone()
    t.check(b"evil" not in u.rest(), "octets went through")
    t.equal(rp.record("transaction")["result"], "accepted", "result")



@test(quick=True)
def octets_before_the_220_has_left(t):
    """They come in the turn of the upstream's 220, behind it: nobody has read it yet, so they are no handshake."""
    up = t.upstream()
    rp = t.ringpost(up, listener={"starttls": "passthrough"})
    c, u = opened(t, rp, up, CAPS + (b"STARTTLS",))
    c.send(b"STARTTLS\r\n")
    u.expect(b"STARTTLS\r\n")
    rp.signal(signal.SIGSTOP)
    time.sleep(0.1)
    u.send(b"220 go on\r\n")
    time.sleep(0.05)
    c.send(b"NOOP injected\r\n")
    time.sleep(0.05)
    rp.signal(signal.SIGCONT)
    t.equal(u.rest(), b"", "what the upstream was given")
    c.expect(b"220 go on\r\n")
    c.ended(reset_ok=True)
    t.equal(rp.stop_now()["starttls_injection"], 1, "counter")
