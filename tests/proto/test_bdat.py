# SPDX-License-Identifier: GPL-3.0-or-later
"""BDAT (RFC 3030): framed by count, whatever the octets are; pipelined; swallowed when refused; every mover."""
import hashlib
import random
import threading
import time

from lib.core import cases, test
from lib.smtp import MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, envelope, message, opened, pair, relinked, replayed, step, warm_up

CHUNK_OK = b"250 2.0.0 chunk ok\r\n"
MOVERS = {m: m for m in ("auto", "copy", "splice", "ring-splice", "zero-copy")}
NASTY = b"\r\n.\r\nQUIT\r\nMAIL FROM:<evil@x.test>\r\n\n.\n\0\r.\r"


def bdat(data, last=False):
    return b"BDAT %d%s\r\n" % (len(data), b" LAST" if last else b"") + data


@test(quick=True)
def one_chunk(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    chunk = bdat(b"Subject: x\r\n\r\nno final newline", last=True)
    step(c, u, chunk, TAKEN)
    rec = rp.record("transaction")
    t.equal((rec["result"], rec["body"], rec["bytes"]), ("accepted", "bdat", 30), "record")


@test(quick=True)
def several_chunks(t):
    rp, up, c, u = pair(t)
    for _ in range(2):
        envelope(c, u)
        for data in (b"one", b"", b"two\r\n" * 100, NASTY):
            step(c, u, bdat(data), CHUNK_OK)
        step(c, u, b"BDAT 0 LAST\r\n", TAKEN)
    step(c, u, b"NOOP\r\n", b"250 ok\r\n")


@test(quick=True)
def nasty_octets_are_not_commands(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    data = NASTY * 50
    for cut in (1, 2, 13, 14, 200, 1500):
        c.send_split(bdat(data), cut)
        u.expect(bdat(data)).send(CHUNK_OK)
        c.expect(CHUNK_OK)
    step(c, u, bdat(NASTY, last=True), TAKEN)


@test(quick=True)
def pipelined_in_one_segment(t):
    rp, up, c, u = pair(t)
    stream = MAIL + RCPT + bdat(b"first \r\n.\r\n") + bdat(NASTY) + bdat(b"") + bdat(b"end", last=True) + b"NOOP\r\n"
    u.mark_segments()
    c.send(stream)
    u.expect(stream)
    n = u.segments()
    t.check(n is None or n == 1, "the group came in %s segments" % n)
    replies = OK_MAIL + OK_RCPT + CHUNK_OK * 3 + TAKEN + b"250 noop\r\n"
    c.mark_segments()
    u.send(replies)
    c.expect(replies)


@test(quick=True)
def octet_by_octet(t):
    rp, up, c, u = pair(t)
    stream = MAIL + RCPT + bdat(b"a\r\n.\r\n") + bdat(b"b", last=True) + b"NOOP\r\n"
    c.send_octets(stream)
    u.expect(stream)
    replies = OK_MAIL + OK_RCPT + CHUNK_OK + TAKEN + b"250 noop\r\n"
    u.send_octets(replies)
    c.expect(replies)


@test(timeout=60)
def every_split(t):
    rp, up, c, u = pair(t)
    stream = MAIL + RCPT + bdat(b"a\r\n.\r\nb") + bdat(b"") + bdat(b".\r\n", last=True) + b"NOOP\r\n"
    replies = OK_MAIL + OK_RCPT + CHUNK_OK * 2 + TAKEN + b"250 noop\r\n"
    for p in range(1, len(stream)):
        t.round("cut at %d" % p)
        c.send_split(stream, p)
        u.expect(stream).send(replies)
        c.expect(replies)


@test(quick=True)
def lock_step_upstream(t):
    rp, up, c, u = pair(t, caps=(b"CHUNKING", b"8BITMIME"))
    c.send(MAIL + RCPT + bdat(b"first") + bdat(NASTY) + bdat(b"end", last=True) + b"NOOP\r\n")
    for line, reply in ((MAIL, OK_MAIL), (RCPT, OK_RCPT), (bdat(b"first"), CHUNK_OK), (bdat(NASTY), CHUNK_OK),
                        (bdat(b"end", True), TAKEN), (b"NOOP\r\n", b"250 ok\r\n")):
        u.expect(line)
        u.quiet(0.03)
        u.send(reply)
        c.expect(reply)


@test(quick=True)
def chunks_keep_coming_after_an_upstream_refusal(t):
    """RFC 3030: the server swallows what follows; each chunk has its reply."""
    rp, up, c, u = pair(t)
    envelope(c, u)
    step(c, u, bdat(b"first"), b"552 5.3.4 too big\r\n")
    c.send(bdat(NASTY) + b"RSET\r\n")
    u.expect(bdat(NASTY) + b"RSET\r\n").send(b"503 5.5.1 no\r\n250 reset\r\n")
    c.expect(b"503 5.5.1 no\r\n250 reset\r\n")


@test(quick=True)
def chunk_taken_behind_a_refused_mail(t):
    """A server that did not forget the envelope before (its RSET was refused, say) may take it: its reply is the client's."""
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + bdat(b"first"))
    u.expect(MAIL + RCPT + bdat(b"first"))
    replies = b"503 5.5.1 one at a time\r\n" + OK_RCPT + b"250 2.0.0 octets taken\r\n"
    u.send(replies)
    c.expect(replies)
    message(c, u)


@test(quick=True)
def chunk_without_a_mail_is_swallowed(t):
    rp, up, c, u = pair(t)
    c.send(bdat(NASTY) + bdat(NASTY * 1000, last=True) + b"NOOP\r\n")
    c.replies(b"503 5.5.1", b"503 5.5.1")
    u.expect(b"NOOP\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")


@test(quick=True)
def chunk_after_a_local_rejection_is_swallowed(t):
    rp, up, c, u = pair(t, listener={"hooks": ["r"]},
                        conf={"hooks": {"r": {"type": "rules", "reject-senders": ["evil@x.test"]}}})
    c.send(b"MAIL FROM:<evil@x.test>\r\n" + RCPT + bdat(NASTY) + bdat(b"end", last=True) + b"NOOP\r\n")
    c.replies(b"550 5.7.1", b"503 5.5.1", b"503 5.5.1", b"503 5.5.1")
    u.expect(b"NOOP\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")


@test(quick=True)
def chunk_when_every_recipient_was_refused_here(t):
    rp, up, c, u = pair(t, listener={"hooks": ["r"]},
                        conf={"hooks": {"r": {"type": "rules", "reject-recipients": ["b@y.test"]}}})
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT + bdat(NASTY, last=True) + b"RSET\r\n")
    c.replies(b"550 5.7.1", b"554 5.5.1")
    u.expect(b"RSET\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")


@cases({"words": b"BDAT many\r\n", "none": b"BDAT\r\n", "negative": b"BDAT -1\r\n", "plus": b"BDAT +1\r\n", "hex": b"BDAT 0x10\r\n",
        "last-only": b"BDAT LAST\r\n", "word-behind": b"BDAT 10 FIRST\r\n", "two-lasts": b"BDAT 10 LAST LAST\r\n",
        "huge": b"BDAT 99999999999999999999999999\r\n", "comma": b"BDAT 1,000\r\n"}, quick=True)
def size_that_cannot_be_read_ends_the_session(t, line):
    rp, up, c, u = pair(t)
    envelope(c, u)
    c.send(line + b"MAIL FROM:<evil@x.test>\r\n")
    c.reply(b"501 5.5.4")
    c.gone()
    got = u.rest()
    t.check(b"evil" not in got and b"BDAT" not in got, "the upstream got %r" % got)


@test(quick=True)
def data_and_bdat_do_not_mix(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    step(c, u, bdat(b"first"), CHUNK_OK)
    c.send(b"DATA\r\n")
    c.reply(b"503 5.5.1")
    step(c, u, bdat(b"end", last=True), TAKEN)
    message(c, u)


@test(quick=True)
def message_limit_over_chunks(t):
    rp, up, c, u = pair(t, listener={"limits": {"message": 1000}})
    envelope(c, u)
    step(c, u, bdat(b"x" * 900), CHUNK_OK)
    c.send(bdat(b"y" * 101) + bdat(b"z" * 5000) + bdat(b"", last=True))
    u.expect(b"RSET\r\n").send(b"250 forgotten\r\n")
    c.replies(b"552 5.3.4", b"552 5.3.4", b"552 5.3.4")
    c.send(RCPT + b"DATA\r\n")
    c.replies(b"5", b"5")
    u.quiet(0.05)
    step(c, u, b"RSET\r\n", b"250 reset\r\n")
    message(c, u)


@test(quick=True)
def tiny_chunks_cost_nothing(t):
    srv = t.auto()
    rp = t.ringpost(srv)
    c = rp.client()
    c.send(b"EHLO client.test\r\n" + MAIL + RCPT)
    c.replies(b"220", b"250", b"250", b"250")
    before = rp.rss_anon()
    n = 20000
    c.send_async(b"BDAT 1\r\nx" * n + b"BDAT 0 LAST\r\n")
    for _ in range(n):
        c.reply(b"250 2.0.0 chunk")
    c.reply(b"250 2.0.0 taken")
    t.equal(srv.messages[0].body, b"x" * n, "body")
    if t.mode == "release":
        t.check(rp.rss_anon() - before < 2048 * t.slow, "RssAnon grew from %d to %d KiB" % (before, rp.rss_anon()))


def random_body(n, seed=4711):
    return random.Random(seed).randbytes(n)


@cases(MOVERS, quick=True, timeout=60)
def big_chunks_by_every_mover(t, mover):
    """Identical octets, and the command pipelined behind is intact."""
    rp, up, c, u = pair(t, up={"mover": mover})
    for size, seed in ((2 << 20, 1), (20 << 20, 2), ((256 << 10) - 1, 3), (256 << 10, 4), ((256 << 10) + 1, 5), (1 << 20, 6)):
        data = random_body(size, seed)
        head, tail = b"BDAT %d\r\n" % size, b"BDAT 0 LAST\r\nNOOP behind\r\n"
        envelope(c, u)
        c.send_async(head + data + tail)
        got = u.recv_exact(len(head) + size)
        t.equal(got[:len(head)], head, "command")
        t.equal(hashlib.sha256(got[len(head):]).hexdigest(), hashlib.sha256(data).hexdigest(), "octets of %d" % size)
        u.expect(tail).send(CHUNK_OK + TAKEN + b"250 behind\r\n")
        c.expect(CHUNK_OK + TAKEN + b"250 behind\r\n")
        c.join_sender()
    rec = rp.record("transaction", 2)
    t.equal(rec["bytes"], 20 << 20, "bytes in the record")
    c.close()
    u.gone()
    stop = rp.stop_now()
    if mover in ("splice", "auto"):
        t.check(stop["ring_splices"] > 0, "splice(2) was used")


@cases(MOVERS, timeout=60)
def chunks_in_pieces_by_every_mover(t, mover):
    """Slow and ragged sender, two big chunks behind each other, commands between."""
    rp, up, c, u = pair(t, up={"mover": mover})
    rnd = random.Random(7)
    data = random_body(1 << 20)
    stream = MAIL + RCPT + bdat(data) + bdat(NASTY) + bdat(data[::-1]) + b"BDAT 0 LAST\r\nNOOP\r\n"
    at = 0
    parts = []
    while at < len(stream):
        n = rnd.choice((1, 2, 100, 5000, 65536, 200000))
        parts.append(stream[at:at + n])
        at += n

    def feed():
        for p in parts:
            c.sock.sendall(p)
            time.sleep(rnd.random() * 0.002)
    th = threading.Thread(target=feed, daemon=True)
    th.start()
    t.equal(u.recv_exact(len(stream)), stream, "stream")
    th.join()
    replies = OK_MAIL + OK_RCPT + CHUNK_OK * 3 + TAKEN + b"250 noop\r\n"
    u.send(replies)
    c.expect(replies)


@cases(MOVERS, quick=True)
def client_gone_in_mid_chunk(t, mover):
    rp, up, c, u = pair(t, up={"mover": mover})
    envelope(c, u)
    data = random_body(1 << 20)
    c.send_async(b"BDAT 10000000 LAST\r\n" + data)
    u.recv_exact(len(b"BDAT 10000000 LAST\r\n") + 900000)
    c.join_sender()
    c.reset()
    u.rest()
    rec = rp.record("transaction")
    t.equal(rec["result"], "aborted", "record")
    rp.sockets_back()


@cases(MOVERS, quick=True)
def upstream_gone_in_mid_chunk(t, mover):
    """The rest of the chunk is swallowed, not read as commands."""
    rp, up, c, u = pair(t, up={"mover": mover})
    envelope(c, u)
    data = random_body(32 << 20)
    c.send_async(bdat(data, last=True) + MAIL)
    u.recv_exact(500000)
    u.reset()
    replayed(up).expect(MAIL).send(OK_MAIL)
    c.reply(b"451 4.4.2")
    c.expect(OK_MAIL)
    c.join_sender()
    rp.no_record("transaction", result="accepted")
    rp.no_record("in-doubt")


@cases(MOVERS, quick=True)
def upstream_that_stops_reading_a_chunk(t, mover):
    up = t.upstream(rcvbuf=8192)
    rp = t.ringpost(up, up={"mover": mover, "timeouts": {"send": "1s"}})
    before = warm_up(rp, up)
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send_async(bdat(random_body(16 << 20), last=True))
    c.reply(b"451 4.4.2", seconds=15 * t.slow)
    t.check(rp.rss_anon() - before < 4096 * t.slow, "RssAnon grew from %d to %d KiB" % (before, rp.rss_anon()))
    c.join_sender()
    u.ignore_rest = True


@test(quick=True)
def upstream_lost_between_chunks(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    step(c, u, bdat(b"first"), CHUNK_OK)
    u.close()
    c.send(bdat(NASTY, last=True))
    c.reply(b"451 4.4.2")
    message(c, relinked(up, c))


@test(quick=True)
def upstream_dies_after_last_chunk(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    c.send(bdat(b"all of it", last=True))
    u.expect(bdat(b"all of it", last=True)).close()
    c.reply(b"451 4.4.2")
    rp.record("in-doubt")


@test(quick=True)
def client_gone_after_last_chunk(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    c.send(bdat(b"all of it", last=True))
    u.expect(bdat(b"all of it", last=True))
    c.reset()
    u.quiet(0.1)
    u.send(TAKEN)
    rec = rp.record("transaction")
    t.equal((rec["result"], rec["code"]), ("client-gone", 250), "record")
    u.gone()


@test(quick=True)
def client_gone_after_a_chunk_that_is_not_the_last(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    step(c, u, bdat(b"half"), CHUNK_OK)
    c.close()
    u.gone()
    t.equal(rp.record("transaction")["result"], "aborted", "record")


@test(quick=True)
def chunking_stripped_means_refused_or_passed_but_framed(t):
    """The keyword is hidden by configuration; a client that says BDAT anyway must not desynchronise."""
    rp, up, c, u = pair(t, listener={"extensions": {"CHUNKING": "strip"}})
    envelope(c, u)
    c.send(bdat(NASTY) + b"NOOP\r\n")
    u.wait_octets(6)
    if u.buf.startswith(b"BDAT"):
        u.expect(bdat(NASTY) + b"NOOP\r\n").send(b"502 5.5.1 no\r\n250 ok\r\n")
    else:
        u.expect(b"NOOP\r\n").send(b"250 ok\r\n")
    c.replies(b"5", b"250 ok")
