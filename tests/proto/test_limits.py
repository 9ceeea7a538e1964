# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits and timeouts: a clear reply, counted, and nobody else pays."""
import select
import time

from lib.core import cases, test
from lib.smtp import (EHLO, GO, GREETING, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, again, data_open, ehlo_reply, envelope, greet, message,
                      opened, pair, relinked, step, warm_up_auto)


@test(quick=True)
def recipients(t):
    rp, up, c, u = pair(t, listener={"limits": {"recipients": 100, "soft-errors": 1000, "errors": 1000, "pipeline": 250}})
    for _ in range(2):
        step(c, u, MAIL, OK_MAIL)
        c.send(RCPT * 103 + b"NOOP\r\n")
        u.expect(RCPT * 100 + b"NOOP\r\n").send(OK_RCPT * 100 + b"250 noop\r\n")
        c.expect(OK_RCPT * 100)
        c.replies(b"452 4.5.3", b"452 4.5.3", b"452 4.5.3", b"250 noop")
        step(c, u, b"RSET\r\n", b"250 ok\r\n")
    c.close()
    u.gone()
    t.equal(rp.stop_now()["limit_recipients"], 6, "counter")


@test(quick=True)
def declared_size(t):
    rp, up, c, u = pair(t, listener={"limits": {"message": 5000}})
    c.send(b"MAIL FROM:<a@x.test> SIZE=5001\r\n" + RCPT)
    c.replies(b"552 5.3.4", b"503 5.5.1")
    step(c, u, b"MAIL FROM:<a@x.test> SIZE=5000\r\n", OK_MAIL)
    step(c, u, b"RSET\r\n", b"250 ok\r\n")
    c.send(b"MAIL FROM:<a@x.test> SIZE=99999999999999999999999\r\n")
    c.reply(b"5")
    step(c, u, b"MAIL FROM:<a@x.test>\r\n", OK_MAIL)


@test(quick=True)
def errors_end_the_session(t):
    rp, up, c, u = pair(t, listener={"limits": {"errors": 5, "soft-errors": 100}})
    replies = []
    c.send(b"XCLIENT a\r\n" * 3)
    replies += c.replies(b"502", b"502", b"502")
    for _ in range(3):
        try:
            c.sock.sendall(b"FOO\r\n")
        except OSError:
            break
        got = u_line(u)
        if got:
            u.send(b"500 5.5.1 what\r\n")
        replies.append(c.reply())
        if replies[-1].startswith(b"421"):
            break
        if len(replies) >= 5 and ended_with_421(c):
            replies.append(b"421")
            break
    t.check(replies[-1].startswith(b"421"), "after 5 errors: %r" % replies)
    t.check(5 <= len(replies) <= 6, "%d replies before the end" % len(replies))
    u.gone()
    c.close()
    t.equal(rp.stop_now()["limit_errors"], 1, "counter")


def u_line(u):
    if not select.select([u.sock], [], [], 0.5)[0]:
        return None
    try:
        return u.line()
    except AssertionError:
        return None


def ended_with_421(c):
    if not select.select([c.sock], [], [], 0.3)[0] and not c.buf:
        return False
    c.reply(b"421 4.7.0")
    c.gone()
    return True


@test(quick=True)
def errors_from_the_upstream_in_one_group(t):
    rp, up, c, u = pair(t, listener={"limits": {"errors": 4, "soft-errors": 100}})
    c.send(b"EXPN a\r\n" * 10)
    u.wait_octets(8 * 4)
    u.sock.sendall(b"550 no\r\n" * 10)
    got = c.rest()
    lines = got.split(b"\r\n")
    t.check(lines[-2].startswith(b"421 4.7.0"), "the last words: %r" % got)
    t.check(4 <= lines.count(b"550 no") <= 10, "%d errors were shown" % lines.count(b"550 no"))
    u.rest()


@test(quick=True)
def soft_errors_wait(t):
    rp, up, c, u = pair(t, listener={"limits": {"errors": 100, "soft-errors": 2, "error-delay": "400ms"}})
    t0 = time.monotonic()
    for _ in range(2):
        c.send(b"LHLO x\r\n")
        c.reply(b"502")
    quick = time.monotonic() - t0
    t0 = time.monotonic()
    for _ in range(3):
        c.send(b"LHLO x\r\n")
        c.reply(b"502")
    slow = time.monotonic() - t0
    t.check(slow >= 0.75, "three more errors took %.2f s (the first two %.2f s)" % (slow, quick))


@test(quick=True)
def a_penalty_stops_only_its_session(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": {"errors": 100, "soft-errors": 1, "error-delay": "1s"}})
    c, u = opened(t, rp, up)
    c2, u2 = opened(t, rp, up)
    c.send(b"LHLO x\r\n" * 4)
    t0 = time.monotonic()
    for _ in range(20):
        step(c2, u2, b"NOOP\r\n", b"250 ok\r\n")
    t.check(time.monotonic() - t0 < 0.9 * t.slow, "another session waited")
    c.ignore_rest = True


@test(quick=True)
def junk(t):
    rp, up, c, u = pair(t, listener={"limits": {"junk": 5, "errors": 5, "soft-errors": 100}})
    n = 0
    while n < 20:
        try:
            c.sock.sendall(b"NOOP\r\n")
        except OSError:
            break
        if u_line(u):
            u.send(b"250 ok\r\n")
        got = c.reply()
        n += 1
        if got.startswith(b"421 4.7.0"):
            break
    t.check(got.startswith(b"421 4.7.0"), "the last reply: %r" % got)
    t.check(8 <= n <= 14, "%d NOOPs were taken with junk 5 and errors 5" % n)


@test(quick=True)
def junk_is_forgiven_by_a_message(t):
    rp, up, c, u = pair(t, listener={"limits": {"junk": 5, "errors": 2}})
    for _ in range(4):
        for _ in range(5):
            step(c, u, b"NOOP\r\n", b"250 ok\r\n")
        message(c, u)


@test(quick=True)
def per_client_sessions(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": {"per-client-sessions": 3}})
    held = [opened(t, rp, up) for _ in range(3)]
    for _ in range(3):
        c = rp.client()
        c.reply(b"421 4.7.0")
        c.ended()
        c.close()
    up.nobody()
    c = rp.client(source="127.0.0.2")
    greet(c, up.accept())
    c0, u0 = held[0]
    c0.close()
    u0.gone()
    rp.record("session")
    c = rp.client()
    greet(c, up.accept())


@test(quick=True)
def per_client_sessions_two_workers(t):
    """One table for the whole process."""
    up = t.upstream()
    rp = t.ringpost(up, workers=2, listener={"limits": {"per-client-sessions": 4}})
    up.any_number = True
    got = []
    for _ in range(8):
        c = rp.client()
        if up.waiting(0.2):
            greet(c, up.accept())
            got.append(True)
        else:
            c.reply(b"421 4.7.0")
            got.append(False)
    t.equal(got.count(True), 4, "admitted of 8: %r" % got)


@test(quick=True)
def per_client_rate(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": {"per-client-rate": "3/min"}})
    for _ in range(3):
        c = rp.client()
        u = up.accept()
        greet(c, u)
        c.close()
        u.gone()
        u.close()
    c = rp.client()
    c.reply(b"421 4.7.0")
    c.ended()
    c = rp.client(source="127.0.0.2")
    greet(c, up.accept())


@test(quick=True)
def sessions_of_the_process(t):
    up = t.upstream()
    rp = t.ringpost(up, conf={"limits": {"sessions": 4, "pressure": False}})
    held = [opened(t, rp, up) for _ in range(4)]
    for _ in range(3):
        c = rp.client()
        c.reply(b"421 4.3.2")
        c.ended()
        c.close()
    up.nobody()
    c, u = held.pop()
    c.close()
    u.gone()
    rp.record("session")
    c = rp.client()
    greet(c, up.accept())
    for c, u in held:
        step(c, u, b"NOOP\r\n", b"250 ok\r\n")


@test(quick=True)
def pressure_shortens_and_goes_away(t):
    """Above 80 % of the sessions one error ends a session; below half of that all is as before."""
    up = t.upstream()
    rp = t.ringpost(up, conf={"limits": {"sessions": 10, "pressure": True}})
    held = [opened(t, rp, up) for _ in range(9)]
    rp.record("pressure", on=True)
    c, u = held.pop()
    c.send(b"LHLO x\r\n")
    c.replies(b"502", b"421 4.7.0")
    c.ended()
    u.gone()
    while len(held) > 2:
        c, u = held.pop()
        c.close()
        u.gone()
    rp.record("pressure", on=False, seconds=10)
    c, u = held.pop()
    c.send(b"LHLO x\r\n")
    c.reply(b"502")
    message(c, u)


def pressed(t, **kw):
    """A session on a ringpost that is under pressure."""
    up = t.upstream()
    rp = t.ringpost(up, conf={"limits": {"sessions": 10, "pressure": True}}, **kw)
    held = [opened(t, rp, up) for _ in range(9)]
    rp.record("pressure", on=True)
    return rp, held.pop(), held


BODIES = {"data": ("DATA", "copy"), "chunk_copied": ("BDAT", "copy"), "chunk_moved": ("BDAT", "splice")}


def trickle(t, c, seconds, others):
    """An octet now and then, until it is told to go. The others go on with their transactions: if they were silent for 10 s
    they would be told to go, and the pressure would end with them (and a second NOOP is an error then)."""
    began = spoke = time.monotonic()
    commands = MAIL, OK_MAIL
    while not c.pending() and time.monotonic() < began + seconds:
        c.send(b"x")
        time.sleep(0.5)
        if time.monotonic() > spoke + 4:
            for other in others:
                step(*other, *commands)
            commands, spoke = (RCPT, OK_RCPT), time.monotonic()


@cases(BODIES, timeout=60)
def body_that_trickles_under_pressure(t, case):
    """Less than 500 octets a second over 10 s: far below the limit for silence, which is 5 min."""
    how, mover = case
    rp, (c, u), held = pressed(t, up={"mover": mover})
    if how == "DATA":
        data_open(c, u)
    else:
        envelope(c, u)
        c.send(b"BDAT 1000000 LAST\r\n")
    trickle(t, c, 30 * t.slow, held)
    c.reply(b"421 4.4.2")
    c.ended(reset_ok=True)
    u.ignore_rest = True
    rp.record("session", reason="client-slow")


@test(quick=True)
def silent_client(t):
    rp, up, c, u = pair(t, listener={"timeouts": {"command": "1s"}})
    t0 = time.monotonic()
    c.reply(b"421 4.4.2")
    took = time.monotonic() - t0
    c.ended()
    u.gone()
    t.check(0.8 < took < 2.5 * t.slow, "after %.2f s" % took)
    t.equal(rp.record("session")["reason"], "client-timeout", "reason")


@test(quick=True)
def slow_loris_in_a_command(t):
    """The time-out is for the whole line: an octet now and then does not help."""
    rp, up, c, u = pair(t, listener={"timeouts": {"command": "1s"}})
    t0 = time.monotonic()
    while time.monotonic() - t0 < 4 * t.slow:
        try:
            c.sock.sendall(b"N")
        except OSError:
            break
        time.sleep(0.1)
        if select.select([c.sock], [], [], 0)[0]:
            break
    took = time.monotonic() - t0
    t.check(took < 2.5 * t.slow, "cut after %.2f s" % took)
    got = c.rest()
    t.check(got.startswith(b"421 4.4.2"), "the last words: %r" % got)


@test(quick=True)
def silent_upstream_gets_no_second_chance(t):
    rp, up, c, u = pair(t, up={"timeouts": {"reply": "1s"}})
    c.send(MAIL + RCPT)
    u.expect(MAIL + RCPT)
    u.send(OK_MAIL)
    c.expect(OK_MAIL)
    c.reply(b"451 4.4.2", seconds=3 * t.slow)
    u.gone()
    c.send(RCPT)
    got = c.reply()
    t.check(got[:3] in (b"503", b"451"), "the transaction is over: %r" % got)
    up.any_number = True


@test(quick=True)
def silent_upstream_at_ehlo(t):
    up = t.upstream()
    rp = t.ringpost(up, up={"timeouts": {"reply": "1s"}})
    c = rp.client()
    u = up.accept()
    greet(c, u)
    c.send(EHLO)
    u.expect(EHLO)
    c.reply(b"4", seconds=3 * t.slow)
    u.gone()
    up.any_number = True


@test(quick=True)
def half_a_reply_then_silence(t):
    rp, up, c, u = pair(t, up={"timeouts": {"reply": "1s"}})
    c.send(b"NOOP\r\n")
    u.expect(b"NOOP\r\n").send(b"250-half\r\n250 ha")
    c.reply(b"451 4.4.2", seconds=3 * t.slow)
    u.gone()


@test(quick=True)
def patience_after_the_dot(t):
    """None of the other time-outs may end the wait for the final reply."""
    short = {"connect": "1s", "greeting": "1s", "reply": "1s", "data-init": "1s", "send": "1s"}
    rp, up, c, u = pair(t, up={"timeouts": short}, listener={"timeouts": {"command": "1s", "data": "1s", "send": "1s"}})
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    c.send(b"x\r\n.\r\n")
    u.expect(b"x\r\n.\r\n")
    u.quiet(3.0)
    c.quiet(0.05)
    u.send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def client_that_does_not_read(t):
    """Replies pile up: reading its commands stops, memory stays flat, then the send time-out ends it."""
    srv = t.auto(on_command=lambda p, line: b"250-" + b"x" * 500 + b"\r\n250 " + b"y" * 500 + b"\r\n" if line == b"HELP" else None)
    rp = t.ringpost(srv, listener={"timeouts": {"send": "1s"}, "limits": {"junk": 1000000}})
    before = warm_up_auto(rp)
    c = rp.client(rcvbuf=4096)
    c.reply(b"220")
    c.send(EHLO)
    c.reply(b"250")
    c.sock.settimeout(1.0)
    try:
        for _ in range(2000):
            c.sock.sendall(b"HELP\r\n" * 500)
    except OSError:
        pass
    t.check(rp.rss_anon() - before < 2048 * t.slow, "RssAnon grew from %d to %d KiB" % (before, rp.rss_anon()))
    rp.record("session", seconds=8)
    c.ignore_rest = True


@test(quick=True)
def idle_sessions_do_not_time_out_early(t):
    rp, up, c, u = pair(t, listener={"timeouts": {"command": "2s"}})
    for _ in range(4):
        time.sleep(1.2)
        step(c, u, b"NOOP\r\n", b"250 ok\r\n")


@test(quick=True)
def upstream_idle_close_then_next_command(t):
    rp, up, c, u = pair(t)
    u.close()
    c.quiet(0.1)
    message(c, relinked(up, c))
    c.close()
    t.equal(rp.stop_now()["relinks"], 1, "counter relinks")


@test(quick=True)
def upstream_lost_inside_a_transaction(t):
    """Between RCPT and DATA: the envelope is gone with the link; nothing is invented."""
    rp, up, c, u = pair(t)
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    u.close()
    c.settle()
    time.sleep(0.05)
    c.send(b"DATA\r\n")
    got = c.reply()
    t.check(got[:3] in (b"451", b"503"), "DATA without an envelope: %r" % got)
    t.check(not up.waiting(0.1) or b"DATA" not in _first(up, c), "DATA went to a link without an envelope")
    up.any_number = True


def _first(up, c):
    u = up.accept()
    u.send(GREETING).expect(EHLO).send(ehlo_reply())
    return u.line() if select.select([u.sock], [], [], 0.2)[0] else b""


@test(quick=True)
def helo_and_ehlo_again_on_a_new_link(t):
    """The last EHLO that was accepted is the one repeated."""
    rp, up, c, u = pair(t)
    step(c, u, b"EHLO second.test\r\n", b"250-up.test\r\n250 PIPELINING\r\n")
    u.close()
    c.send(MAIL)
    u2 = up.accept()
    u2.send(b"220 x\r\n").expect(b"EHLO second.test\r\n").send(b"250-up.test\r\n250 PIPELINING\r\n").expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)


@test(quick=True)
def upstream_lost_before_any_ehlo(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    u.close()
    c.send(EHLO)
    u = up.accept()
    u.send(b"220 again\r\n")
    hello2(c, u)
    message(c, u)


def hello2(c, u):
    u.expect(EHLO).send(ehlo_reply())
    c.reply(b"250")


@test(quick=True)
def upstream_lost_with_a_group_open(t):
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT + RCPT + b"DATA\r\n").send(OK_MAIL + b"250-par").settle()
    u.reset()
    c.expect(OK_MAIL)
    c.replies(b"451 4.4.2", b"451 4.4.2", b"451 4.4.2")
    u = again(up, c, MAIL)
    u.send(OK_MAIL)
    c.expect(OK_MAIL)
