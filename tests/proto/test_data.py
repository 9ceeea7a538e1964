# SPDX-License-Identifier: GPL-3.0-or-later
"""Message bodies by DATA: octet for octet, ends, early answers, deaths before, at and after the dot."""
import hashlib
import random
import time

from lib.core import cases, test
from lib.smtp import (BODY, EHLO, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, again, data_open, envelope, message, no_end_seen,
                      opened, pair, relinked, step, warm_up)

PART = b"Subject: x\r\n\r\nthe first part\r\n"
BODIES = {
    "empty": b".\r\n",
    "only-crlf": b"\r\n.\r\n",
    "dots": b"..\r\n...\r\n..x\r\n.x\r\n..\r\n.\r\n",
    "no-header": b"x\r\n.\r\n",
    "dots-inside": b"a.b\r\nc.\r\n.d.\r\ne..\r\n.\r\n",
    "crs-before-the-end": b"a\r\r\n.\r\n",
    "8-bit": bytes(b for b in range(128, 256)) + b"\r\n.\r\n",
    "control": bytes(b for b in range(1, 32) if b not in (10, 13)) + b"\x7f\r\n.\r\n",
    "5000-octet-line": b"x" * 5000 + b"\r\n" + b"." * 5000 + b"\r\n.\r\n",
    "200000-octet-line": b"x" * 200000 + b"\r\n.\r\n",
    "many-lines": b"..\r\n" * 30000 + b".\r\n",
    "crlfs": b"\r\n" * 40000 + b".\r\n",
}


@cases(BODIES, quick=True)
def body_untouched(t, body):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send_async(body)
    t.equal(u.recv_exact(len(body)), body, "the body")
    u.send(TAKEN)
    c.expect(TAKEN)
    step(c, u, b"NOOP\r\n", b"250 ok\r\n")
    rec = rp.record("transaction")
    t.equal((rec["body"], rec["bytes"]), ("data", len(body) - 3 if body != b".\r\n" else 0), "body and bytes of the record")


@test(quick=True)
def body_octet_by_octet(t):
    rp, up, c, u = pair(t)
    for body in (BODIES["empty"], BODIES["dots"], BODIES["crs-before-the-end"], BODY):
        data_open(c, u)
        c.send_octets(body)
        u.expect(body)
        u.send_octets(TAKEN)
        c.expect(TAKEN)


@test(timeout=60)
def every_split_of_the_end(t):
    """CRLF.CRLF and what stands around it, in two and three pieces, with the next command behind."""
    rp, up, c, u = pair(t)
    for body in (b"ab\r\n.\r\n", b".\r\n", b"..\r\n.\r\n", b"\r\n\r\n.\r\n", b"a\r\n..\r\n.\r\n"):
        stream = body + b"NOOP\r\n"
        n = len(stream)
        for cuts in [(p,) for p in range(1, n)] + [(p, q) for p in range(1, n) for q in range(p + 1, n)]:
            t.round("%r cut at %r" % (stream, cuts))
            data_open(c, u)
            c.send_split(stream, *cuts)
            u.expect(stream).send(TAKEN + b"250 ok\r\n")
            c.expect(TAKEN + b"250 ok\r\n")


@test(quick=True)
def the_body_is_not_held_back(t):
    """Octets go on while the client is still sending: nothing is stored."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    for i in range(20):
        piece = b"line %d of a slow client\r\n" % i
        c.send(piece)
        u.wait_octets(len(piece) - 2)  # a line end may be held back until the next octet tells
        got = u._take(len(u.buf))
        rest = piece[len(got):]
        t.check(piece.startswith(got) and len(rest) <= 2, "passed on: %r" % got)
        if rest:
            c.send(b"x\r\n")
            u.expect(rest + b"x\r\n")
    c.send(b".\r\n")
    u.expect(b".\r\n").send(TAKEN)
    c.expect(TAKEN)


@test(quick=True, timeout=60)
def twenty_megabytes(t):
    rp, up, c, u = pair(t)
    rnd = random.Random(4711)
    block = rnd.randbytes(1 << 20).replace(b"\r", b"r").replace(b"\n", b"\r\n").replace(b"\n.", b"\n..").replace(b"\0", b"0")
    body = block * 20 + b"\r\n.\r\n"
    before = 0
    for _ in range(3):
        before = before or warm_up(rp, up)
        data_open(c, u)
        c.send_async(body)
        got = u.recv_exact(len(body))
        t.equal(hashlib.sha256(got).hexdigest(), hashlib.sha256(body).hexdigest(), "hash of the body")
        u.send(TAKEN)
        c.expect(TAKEN)
        c.join_sender()
    if t.mode == "release":
        t.check(rp.rss_anon() - before < 1024 * t.slow, "RssAnon grew from %d to %d KiB" % (before, rp.rss_anon()))
    step(c, u, b"NOOP\r\n", b"250 ok\r\n")


@test(quick=True)
def early_552_in_mid_data(t):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(PART)
    u.expect(PART)
    u.send(b"552 5.3.4 too big\r\n").settle()
    c.quiet()
    c.send(b"more of the body\r\n" * 10)
    c.quiet(0.05)
    c.send(b".\r\n")
    c.expect(b"552 5.3.4 too big\r\n")
    no_end_seen(u, PART + u.rest())
    u2 = again(up, c, MAIL)
    u2.send(OK_MAIL)
    c.expect(OK_MAIL)
    step(c, u2, RCPT, OK_RCPT)
    rec = rp.record("transaction")
    t.equal((rec["result"], rec["code"], rec["by"]), ("rejected", 552, "upstream"), "record")


@test(quick=True)
def early_250_is_not_believed(t):
    """A 2xx before the dot cannot be the answer to it: never shown as one."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(PART)
    u.expect(PART)
    u.send(b"250 2.0.0 queued already\r\n").settle()
    c.send(b"more\r\n.\r\n")
    got = c.reply()
    t.check(got[:1] == b"4", "an early 250 came through: %r" % got)
    no_end_seen(u, PART + u.rest())


@test(quick=True)
def early_421_in_mid_data(t):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(PART)
    u.expect(PART)
    u.send(b"421 4.3.2 going down\r\n").settle()
    u.close()
    c.send(b"more\r\n.\r\n")
    c.expect(b"421 4.3.2 going down\r\n")
    c.ended()


@test(quick=True)
def early_reply_then_close(t):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(PART)
    u.expect(PART)
    u.send(b"554-5.7.1 this is\r\n554 5.7.1 spam\r\n").close()
    c.send(b"more\r\n.\r\n")
    c.expect(b"554-5.7.1 this is\r\n554 5.7.1 spam\r\n")
    message(c, relinked(up, c))


@cases({"close": "close", "reset": "reset"}, quick=True)
def upstream_dies_before_the_dot(t, how):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(PART)
    u.expect(PART)
    getattr(u, how)()
    c.quiet(0.05)
    c.send(b"more of it\r\n..\r\nand more\r\n")
    c.quiet(0.05)
    c.send(b".\r\n")
    c.reply(b"451 4.4.2")
    message(c, relinked(up, c))
    rec = rp.record("transaction")
    t.check(rec["result"] in ("aborted", "rejected"), "record: %r" % rec)
    rp.no_record("in-doubt")


@cases({"close": "close", "reset": "reset"}, quick=True)
def upstream_dies_while_a_big_body_comes(t, how):
    rp, up, c, u = pair(t)
    data_open(c, u)
    body = b"0123456789abcdef" * 62500 * 5 + b"\r\n.\r\n"
    c.send_async(body)
    u.recv_exact(100000)
    getattr(u, how)()
    c.join_sender()
    c.reply(b"451 4.4.2")
    message(c, relinked(up, c))
    rp.no_record("in-doubt")


@cases({"close": "close", "reset": "reset"}, quick=True)
def upstream_dies_at_the_dot(t, how):
    """It read all, the dot included, and is gone: nobody knows. 451 and a record, never a 250."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY)
    getattr(u, how)()
    c.reply(b"451 4.4.2")
    rec = rp.record("in-doubt")
    tx = rp.record("transaction", result="in-doubt")
    t.equal((rec["sid"], rec["tid"]), (tx["sid"], tx["tid"]), "the ids of the in-doubt record")
    message(c, relinked(up, c))
    t.equal(len(rp.records("in-doubt")), 1, "in-doubt records")


@test(quick=True)
def upstream_dies_with_half_a_final_reply(t):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY)
    u.send(b"250-2.0.0 nearly\r\n250 2.0").close()
    c.reply(b"451 4.4.2")
    rp.record("in-doubt")


@test(quick=True)
def a_complete_250_then_reset_counts(t):
    """What was received before the reset is read first."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY)
    u.send(TAKEN)
    u.settle()
    u.reset()
    c.expect(TAKEN)
    rp.record("transaction", result="accepted")
    rp.no_record("in-doubt")


@test(quick=True)
def upstream_dies_after_its_reply(t):
    rp, up, c, u = pair(t)
    message(c, u)
    u.close()
    rp.record("transaction", result="accepted")
    message(c, relinked(up, c))


@test(quick=True)
def upstream_dies_in_doubt_with_commands_behind(t):
    """What was pipelined behind the dot gets its 451 too."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY + MAIL + RCPT)
    u.expect(BODY + MAIL + RCPT)
    u.close()
    c.replies(b"451 4.4.2", b"451 4.4.2", b"451 4.4.2")
    rp.record("in-doubt")
    c.send(RCPT)
    got = c.reply()
    t.check(got.startswith((b"503 5.5.1", b"451 4.4.2")), "its MAIL is gone: %r" % got)
    up.nobody()
    message(c, relinked(up, c))


@test(quick=True)
def final_rejection_is_the_upstreams(t):
    rp, up, c, u = pair(t)
    for text in (b"550 5.7.1 spam\r\n", b"451-4.7.1 greylisted,\r\n451 4.7.1 come back\r\n", b"552 5.2.2 full\r\n"):
        data_open(c, u)
        c.send(BODY)
        u.expect(BODY).send(text)
        c.expect(text)
    c.send(RCPT)
    c.reply(b"503 5.5.1")
    recs = [rp.record("transaction", n) for n in (1, 2, 3)]
    t.equal([(r["result"], r["code"], r["enhanced"], r["by"], r["stage"]) for r in recs],
            [("rejected", 550, "5.7.1", "upstream", "final"), ("rejected", 451, "4.7.1", "upstream", "final"),
             ("rejected", 552, "5.2.2", "upstream", "final")], "records")


@test(quick=True)
def data_refused(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    step(c, u, b"DATA\r\n", b"451 4.3.0 not now\r\n")
    step(c, u, b"DATA\r\n", GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def answer_354_never_comes(t):
    rp, up, c, u = pair(t, up={"timeouts": {"data-init": "1s"}})
    envelope(c, u)
    c.send(b"DATA\r\n")
    u.expect(b"DATA\r\n")
    c.reply(b"451 4.4.2")
    u.gone()
    message(c, relinked(up, c))


@test(quick=True)
def data_answered_by_250(t):
    """Not 354, not an error: the body must not be sent, and what follows are commands."""
    rp, up, c, u = pair(t)
    envelope(c, u)
    c.send(b"DATA\r\n")
    u.expect(b"DATA\r\n").send(b"250 2.0.0 what now\r\n")
    got = c.reply()
    t.check(got[:3] != b"354", "no 354 was said: %r" % got)
    c.ignore_rest = True
    u.ignore_rest = True
    up.any_number = True


@test(quick=True)
def data_command_unanswered_and_upstream_dies(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    c.send(b"DATA\r\nthis is\r\nNOOP\r\n")
    u.expect(b"DATA\r\n").close()
    c.reply(b"451 4.4.2")
    c.ignore_rest = True  # what the client sent behind DATA unasked are commands now
    up.any_number = True


@cases({"close": "close", "reset": "reset", "half-close": "half_close"}, quick=True)
def client_gone_in_mid_data(t, how):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(PART)
    u.expect(PART[:-2])
    getattr(c, how)()
    got = u.rest()
    t.check(got in (b"", b"\r\n"), "after the client was gone the upstream got %r" % got)
    no_end_seen(u, PART[:-2] + got)
    if how == "half_close":
        c.gone()
    rec = rp.record("transaction")
    t.equal(rec["result"], "aborted", "record")
    rp.no_record("in-doubt")


@cases({"at-cr": b"text\r\n.\r", "at-dot": b"text\r\n.", "at-lf": b"text\r\n", "at-cr1": b"text\r"}, quick=True)
def client_gone_inside_the_end(t, start):
    """Right before the end is complete: nothing of it may be made up."""
    rp, up, c, u = pair(t)
    for how in ("close", "reset", "half_close"):
        data_open(c, u)
        c.send(start)
        c.settle()
        getattr(c, how)()
        got = u.rest()
        t.check(start.startswith(got), "the upstream got %r" % got)
        no_end_seen(u, got)
        if how == "half_close":
            c.gone()
        c.close()
        u.close()
        if how != "half_close":
            c, u = opened(t, rp, up)


@test(quick=True)
def client_closes_after_the_dot(t):
    """The upstream still gets to answer; the outcome is in the log."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY)
    c.reset()
    u.quiet(0.2)
    u.send(TAKEN)
    rec = rp.record("transaction")
    t.equal((rec["result"], rec["code"]), ("client-gone", 250), "record")
    u.gone()
    rp.sockets_back()
    t.equal(rp.stop_now()["messages_client_gone"], 1, "counter")


@test(quick=True)
def client_ends_after_the_dot_and_the_upstream_refuses(t):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY)
    c.reset()
    u.quiet(0.1)
    u.send(b"550 5.7.1 no\r\n")
    rec = rp.record("transaction")
    t.equal(rec["code"], 550, "record")
    u.gone()


@test(quick=True)
def client_half_closes_after_the_dot(t):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY).half_close()
    u.expect(BODY)
    u.quiet(0.2)
    u.send(TAKEN)
    c.expect(TAKEN)
    c.ended()
    u.gone()
    rec = rp.record("transaction")
    t.equal(rec["result"], "accepted", "record")


@test(quick=True)
def message_limit(t):
    rp, up, c, u = pair(t, listener={"limits": {"message": 1000}})
    data_open(c, u)
    body = b"x" * 998 + b"\r\n.\r\n"
    c.send(body)
    u.expect(body).send(TAKEN)
    c.expect(TAKEN)
    for n, size in enumerate((999, 5000, 200000)):
        data_open(c, u)
        c.send_async(b"y" * size + b"\r\n.\r\n")
        c.reply(b"552 5.3.4")
        c.join_sender()
        no_end_seen(u, u.rest())
        rec = rp.record("transaction", n + 2)
        u = relinked(up, c)
    message(c, u, b"small\r\n.\r\n")
    t.equal((rec["result"], rec["by"], rec["code"]), ("rejected", "ringpost", 552), "record")


@test(quick=True)
def after_a_size_rejection_the_envelope_is_empty(t):
    """The bug of 2004: RCPT and DATA behind a rejection at the end must not find the old sender."""
    rp, up, c, u = pair(t, listener={"limits": {"message": 100}})
    data_open(c, u)
    c.send(b"z" * 500 + b"\r\n.\r\n" + RCPT + b"DATA\r\n" + b"BDAT 3 LAST\r\nabc")
    c.replies(b"552 5.3.4", b"503 5.5.1", b"503 5.5.1", b"503 5.5.1")
    no_end_seen(u, u.rest())
    up.nobody()


@test(quick=True)
def back_pressure_a_slow_upstream(t):
    """The client is stopped, not stored: memory stays flat, and every octet comes."""
    up = t.upstream(rcvbuf=8192)
    rp = t.ringpost(up)
    before = warm_up(rp, up)
    c, u = opened(t, rp, up)
    data_open(c, u)
    body = b"".join(b"%014d\r\n" % i for i in range(1 << 19)) + b".\r\n"
    c.send_async(body)
    time.sleep(0.5)
    t.check(rp.rss_anon() - before < 2048 * t.slow, "RssAnon grew from %d to %d KiB" % (before, rp.rss_anon()))
    t.equal(u.recv_exact(len(body), 30 * t.slow), body, "the body")
    u.send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def upstream_that_stops_reading(t):
    up = t.upstream(rcvbuf=8192)
    rp = t.ringpost(up, up={"timeouts": {"send": "1s"}})
    c, u = opened(t, rp, up)
    data_open(c, u)
    body = b"0123456789abcdef" * (1 << 20) + b"\r\n.\r\n"
    c.send_async(body)
    c.reply(b"451 4.4.2", seconds=10 * t.slow)
    c.join_sender()
    u.ignore_rest = True
    rp.no_record("in-doubt")


@test(quick=True)
def silent_client_in_mid_data(t):
    rp, up, c, u = pair(t, listener={"timeouts": {"data": "1s"}})
    data_open(c, u)
    c.send(PART)
    u.expect(PART[:-2])
    c.reply(b"421 4.4.2")
    c.ended()
    got = u.rest()
    t.check(got in (b"", b"\r\n"), "after the time-out the upstream got %r" % got)


@test(quick=True)
def many_messages_in_one_session(t):
    srv = t.auto()
    rp = t.ringpost(srv)
    c = rp.client()
    c.reply(b"220")
    c.send(EHLO)
    c.reply(b"250")
    for i in range(300):
        t.round(i)
        body = b"message %d\r\n" % i + b"." * (i % 7 + 2) + b"x" * i * 10 + b"\r\n.\r\n"
        c.send(MAIL + RCPT + b"DATA\r\n")
        c.replies(b"250", b"250", b"354")
        c.send(body)
        c.reply(b"250 2.0.0 taken as %d" % (i + 1))
        t.equal(srv.messages[i].body, body, "body")
    c.close()
    t.equal(rp.stop_now()["messages_accepted"], 300, "counter")
