# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile review of the session machine asked: replies that meet nobody, transactions that come back, records of
messages that may have been taken, input that waits for an event that does not come."""
import select
import signal
import socket
import time

from lib.core import Failure, cases, test
from lib.peers import sockaddr
from lib.smtp import BODY, CAPS, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, envelope, message, opened, pair, replayed, step

MAIL2 = b"MAIL FROM:<second@x.test>\r\n"
RCPT2 = b"RCPT TO:<second@y.test>\r\n"
BAD_RCPT = b"RCPT TO:<two words@y.test>\r\n"
GO_TLS = b"220 2.0.0 go ahead\r\n"
NO_PIPELINING = tuple(k for k in CAPS if k != b"PIPELINING")


def bdat(data, last=False):
    return b"BDAT %d%s\r\n" % (len(data), b" LAST" if last else b"") + data


def serves(rp, up):
    """The process is alive and takes a message."""
    c, u = opened(rp.t, rp, up)
    message(c, u)


# ---- nobody reads the replies any more ----

@test(quick=True)
def client_gone_with_a_local_reply_in_the_queue(t):
    """A refusal of ours stands between two replies of the upstream when the client resets."""
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + BAD_RCPT + bdat(b"Subject: x\r\n\r\nx\r\n", last=True))
    u.expect(MAIL + RCPT + bdat(b"Subject: x\r\n\r\nx\r\n", last=True))
    c.reset()
    u.quiet(0.1)
    u.send(OK_MAIL + OK_RCPT).quiet(0.1)
    u.send(TAKEN)
    t.equal(rp.record("transaction")["result"], "client-gone", "result")
    u.gone()
    serves(rp, up)


@test(quick=True)
def client_gone_and_421_with_a_local_reply_in_the_queue(t):
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + BAD_RCPT + bdat(b"x\r\n", last=True))
    u.expect(MAIL + RCPT + bdat(b"x\r\n", last=True))
    c.reset()
    u.quiet(0.1)
    u.send(OK_MAIL + OK_RCPT).quiet(0.1)
    u.send(b"421 4.3.2 going down\r\n")
    rp.record("transaction")
    u.gone()
    serves(rp, up)


@cases({"end": b"", "reset": None, "nonsense": b"hello\r\n", "354": GO}, quick=True)
def client_gone_and_then_the_upstream(t, last_words):
    """First the client, then the upstream instead of its final reply: in doubt, and the session is over."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY)
    c.reset()
    u.quiet(0.1)
    if last_words is None:
        u.reset()
    elif last_words:
        u.send(last_words)
        u.gone()
    else:
        u.close()
    rp.record("in-doubt")
    t.equal(rp.record("transaction")["result"], "in-doubt", "result")
    rp.record("session")
    serves(rp, up)


@test(quick=True)
def client_gone_and_the_upstream_dies_between_its_replies(t):
    """The same with BDAT: MAIL is answered when its message has long been sent."""
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + bdat(b"x\r\n", last=True))
    u.expect(MAIL + RCPT + bdat(b"x\r\n", last=True))
    c.reset()
    u.quiet(0.1)
    u.send(OK_MAIL).quiet(0.1)
    u.close()
    rp.record("in-doubt")
    rp.record("session")
    serves(rp, up)


# ---- transactions that are over stay over ----

@test(quick=True)
def in_doubt_with_bdat_in_one_group(t):
    """MAIL, RCPT and the whole message in one segment; the upstream dies instead of the last reply."""
    rp, up, c, u = pair(t)
    chunk = bdat(b"x\r\n", last=True)
    c.send(MAIL + RCPT + chunk)
    u.expect(MAIL + RCPT + chunk)
    u.send(OK_MAIL + OK_RCPT)
    c.expect(OK_MAIL + OK_RCPT)
    u.close()
    c.reply(b"451 4.4.2")
    c.send(b"QUIT\r\n")
    c.reply(b"221")
    c.ended()
    t.equal(rp.record("transaction")["result"], "in-doubt", "result")
    rp.record("in-doubt")


@test(quick=True)
def mail_answered_behind_rset(t):
    """MAIL, RCPT, RSET in one group: their replies do not bring the transaction back."""
    rp, up, c, u = pair(t)
    group = MAIL + RCPT + b"RSET\r\n"
    c.send(group)
    u.expect(group)
    u.send(OK_MAIL + OK_RCPT + b"250 flushed\r\n")
    c.expect(OK_MAIL + OK_RCPT + b"250 flushed\r\n")
    for command in (RCPT2, b"DATA\r\n", bdat(b"QUIT\r\n", last=True)):
        c.send(command)
        c.reply(b"503 5.5.1")
    u.quiet()
    t.equal(rp.record("transaction")["reason"], "rset", "reason")
    message(c, u)


@test(quick=True)
def two_transactions_under_way(t):
    """MAIL RSET MAIL in one group; the second one's RCPT comes between the replies: it belongs to the second."""
    rp, up, c, u = pair(t)
    group = MAIL + b"RSET\r\n" + MAIL2
    c.send(group)
    u.expect(group)
    u.send(OK_MAIL)
    c.expect(OK_MAIL)
    c.send(RCPT2)
    u.expect(RCPT2)
    u.send(b"250 flushed\r\n" + OK_MAIL + OK_RCPT)
    c.expect(b"250 flushed\r\n" + OK_MAIL + OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    step(c, u, BODY, TAKEN)
    rec = rp.record("transaction", result="accepted")
    t.equal((rec["from"], rec["to"], rec["rcpts"]), ("second@x.test", "second@y.test", 1), "the record")


@test(quick=True)
def second_message_begins_before_the_first_mail_is_answered(t):
    """BDAT: MAIL RCPT BDAT LAST MAIL in one group, the rest of the second message when the first MAIL was answered."""
    rp, up, c, u = pair(t)
    group = MAIL + RCPT + bdat(b"one\r\n", last=True) + MAIL2
    c.send(group)
    u.expect(group)
    u.send(OK_MAIL)
    c.expect(OK_MAIL)
    c.send(RCPT2)
    u.expect(RCPT2)
    u.send(OK_RCPT + TAKEN + OK_MAIL + OK_RCPT)
    c.expect(OK_RCPT + TAKEN + OK_MAIL + OK_RCPT)
    c.send(bdat(b"two\r\n", last=True))
    u.expect(bdat(b"two\r\n", last=True)).send(TAKEN)
    c.expect(TAKEN)
    for sender, rcpt in (("a@x.test", "b@y.test"), ("second@x.test", "second@y.test")):
        rec = rp.record("transaction", **{"from": sender})
        t.equal((rec["result"], rec["to"], rec["rcpts"]), ("accepted", rcpt, 1), "the record of " + sender)


@test(quick=True)
def data_answered_354_behind_a_refused_mail(t):
    """A server that refuses MAIL and asks for the body all the same: whatever is made of it, the process lives."""
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT + b"DATA\r\n")
    u.send(b"550 5.7.1 no\r\n503 5.5.1 no\r\n" + GO)
    c.expect(b"550 5.7.1 no\r\n503 5.5.1 no\r\n")
    got = c.reply()
    t.check(got == GO or got.startswith(b"451 4.4.2"), "the reply to DATA: %r" % got)
    c.reset()
    u.ignore_rest = True
    u.gone()
    serves(rp, up)


@cases({"upstream-ends": b"", "lookalike": b"\n.\n"}, quick=True)
def body_behind_a_refused_mail_breaks_off(t, case):
    """The same, and then the body goes wrong: its end is found, and the session goes on."""
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT + b"DATA\r\n")
    u.send(b"550 5.7.1 no\r\n503 5.5.1 no\r\n" + GO)
    c.expect(b"550 5.7.1 no\r\n503 5.5.1 no\r\n")
    got = c.reply()
    u.ignore_rest = True
    if got == GO:
        c.send(b"half a body" + case)
        u.close() if not case else u.gone()
        c.settle()
        time.sleep(0.1)
        c.send(b"\r\nthe other half\r\n.\r\n")
        c.reply(b"550 5.5.2" if case else b"451 4.4.2")
    c.send(b"QUIT\r\n")
    c.reply(b"221")
    c.ended()
    serves(rp, up)


@test(quick=True)
def refused_for_its_size_before_the_recipient_is_answered(t):
    """MAIL RCPT BDAT in one group, the chunk too big: RCPT's 250 comes later and changes nothing."""
    rp, up, c, u = pair(t, listener={"limits": {"message": "1k"}})
    c.send(MAIL + RCPT + bdat(b"x" * 2000, last=True))
    u.expect(MAIL + RCPT + b"RSET\r\n").send(OK_MAIL + OK_RCPT + b"250 flushed\r\n")
    c.expect(OK_MAIL + OK_RCPT)
    c.reply(b"552 5.3.4")
    step(c, u, b"RSET\r\n", b"250 flushed\r\n")
    rec = rp.record("transaction")
    t.equal((rec["result"], rec.get("code")), ("rejected", 552), "the record")


@test(quick=True)
def aborted_behind_a_refused_recipient(t):
    """One recipient refused, one taken, the client gone in mid-body: the record says aborted, not rejected."""
    rp, up, c, u = pair(t)
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, b"550 5.1.1 unknown\r\n")
    step(c, u, RCPT2, OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    c.send(b"Subject: half\r\n")
    u.expect(b"Subject: half\r\n"[:-2])
    c.reset()
    u.ignore_rest = True
    rec = rp.record("transaction")
    t.equal((rec["result"], rec["rcpts"]), ("aborted", 1), "result and rcpts")


# ---- lines ----

LONG = b"NOOP " + b"x" * 4200 + b"\r\n"


@cases({"next-behind": (LONG + b"HELP\r\n", 4000), "alone": (LONG, 4000), "octet-before-the-end": (LONG + b"HELP\r\n", len(LONG) - 1),
        "at-the-limit": (LONG + b"HELP\r\n", 4096)}, quick=True)
def long_line_in_two_pieces(t, case):
    """Exactly the long line is thrown away: the command behind it has its reply."""
    octets, cut = case
    rp, up, c, u = pair(t)
    c.send_split(octets, cut)
    c.reply(b"500 5.5.2")
    if octets is LONG:
        c.send(b"HELP\r\n")
    u.expect(b"HELP\r\n").send(b"214 none\r\n")
    c.expect(b"214 none\r\n")


@cases({"one-piece": 0, "two-pieces": 12000}, quick=True)
def long_auth_line(t, cut):
    rp, up, c, u = pair(t, caps=CAPS + (b"AUTH LOGIN",))
    step(c, u, b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n")
    line = b"A" * 12400 + b"\r\n"
    c.send_split(line, *([cut] if cut else []))
    c.reply(b"500 5.5.6")
    u.expect(b"*\r\n").send(b"501 5.7.0 cancelled\r\n")
    step(c, u, b"HELP\r\n", b"214 none\r\n")


@test(quick=True)
def big_replies_in_one_piece(t):
    """The rest of a large reply and many others behind it in one read."""
    rp, up, c, u = pair(t)
    n = 60
    c.send(b"HELP\r\n" + b"NOOP\r\n" * n)
    u.expect(b"HELP\r\n" + b"NOOP\r\n" * n)
    big = b"".join(b"214-%s\r\n" % (b"h" * 290) for _ in range(95)) + b"214 end\r\n"
    rest = b"".join(b"250 %03d %s\r\n" % (i, b"n" * 400) for i in range(n))
    u.send(big[:20000])
    u.settle()
    u.send(big[20000:] + rest)
    c.expect(big + rest)


# ---- BDAT as the server behind reads it ----

@cases({"before-the-size": b"BDAT\t%d LAST\r\n", "before-last": b"BDAT %d\tLAST\r\n", "both": b"BDAT\t%d\tLAST\r\n"}, quick=True)
def bdat_with_a_tab(t, command):
    """Exim knows a verb by the space behind it: it would read the octets of this chunk as commands."""
    rp, up, c, u = pair(t)
    envelope(c, u)
    payload = b"RCPT TO:<smuggled@y.test>\r\n"
    c.send(command % len(payload) + payload)
    c.settle()
    time.sleep(0.1)
    got = u.pending()
    t.check(b"\t" not in got, "the upstream was given %r" % got)
    u.ignore_rest = c.ignore_rest = True


# ---- STARTTLS ----

def passthrough(t, caps=CAPS + (b"STARTTLS",), **kw):
    listener = dict({"starttls": "passthrough"}, **kw)
    return pair(t, caps=caps, listener=listener)


@test(quick=True)
def starttls_needs_a_new_link(t):
    """Nothing stands behind it; it only had to wait."""
    rp, up, c, u = passthrough(t)
    u.close()
    t.until(lambda: rp.sockets() <= rp.base_sockets + 1, "the link is gone")
    c.send(b"STARTTLS\r\n")
    u = replayed(up, caps=CAPS + (b"STARTTLS",))
    u.expect(b"STARTTLS\r\n").send(GO_TLS)
    c.expect(GO_TLS)
    c.send(b"\x16\x03\x01")
    u.expect(b"\x16\x03\x01")


@test(quick=True)
def starttls_waits_in_lock_step(t):
    """RSET STARTTLS in one group behind a server without PIPELINING."""
    rp, up, c, u = passthrough(t, caps=NO_PIPELINING + (b"STARTTLS",))
    c.send(b"RSET\r\nSTARTTLS\r\n")
    u.expect(b"RSET\r\n").send(b"250 flushed\r\n")
    c.expect(b"250 flushed\r\n")
    u.expect(b"STARTTLS\r\n").send(GO_TLS)
    c.expect(GO_TLS)


@test(quick=True)
def opaque_silence_ends_without_a_word(t):
    """Plain text of ours in the middle of somebody's TLS is an octet nobody sent."""
    rp, up, c, u = passthrough(t, timeouts={"command": "1s"})
    step(c, u, b"STARTTLS\r\n", GO_TLS)
    c.send(b"\x16\x03\x01")
    u.expect(b"\x16\x03\x01").send(b"\x16\x03\x03")
    c.expect(b"\x16\x03\x03")
    got = c.rest(t.wait * 2)
    t.equal(got, b"", "octets of our own")
    u.gone()


# ---- events that do not come ----

@test(quick=True)
def upstream_stops_reading_and_the_dot_comes(t):
    """A server that cannot be written to any more but stays: the end of the body must not hang on it."""
    up = t.upstream(address="unix:" + t.path("up.sock"))
    rp = t.ringpost(up)
    c, u = opened(t, rp, up)
    data_open(c, u)
    u.sock.shutdown(socket.SHUT_RD)
    c.send(b"Subject: x\r\n\r\n")
    c.settle()
    time.sleep(0.1)
    c.send(b"more\r\n.\r\n")
    c.reply(b"451 4.4.2", seconds=t.wait * 2)
    u.ignore_rest = True
    rp.no_record("in-doubt")


@test(quick=True)
def silent_in_the_next_chunk_while_a_final_reply_is_due(t):
    """The client's own time-out must not cost it the answer to a message that was sent whole."""
    rp, up, c, u = pair(t, listener={"timeouts": {"data": "1s"}})
    first = MAIL + RCPT + bdat(b"one\r\n", last=True)
    second = MAIL2 + RCPT2 + b"BDAT 100 LAST\r\nhalf"
    c.send(first + second)
    u.expect(first + second)
    u.send(OK_MAIL + OK_RCPT)
    c.expect(OK_MAIL + OK_RCPT)
    time.sleep(2)
    u.send(TAKEN)
    c.expect(TAKEN)
    rp.no_record("in-doubt")
    u.ignore_rest = c.ignore_rest = True


@test(timeout=30)
def every_listener_answers_while_one_worker_drains(t):
    """Two workers, one session left: a client whose connection falls to the idle worker's socket is told too."""
    up = t.upstream()
    rp = t.ringpost(up, workers=2, conf={"shutdown-grace": "20s"})
    c, u = opened(t, rp, up)
    data_open(c, u)
    rp.signal(signal.SIGTERM)
    rp.record("drain")
    time.sleep(0.5)
    silent = 0
    for _ in range(12):
        s = socket.create_connection(sockaddr(rp.address), timeout=t.wait)
        if not select.select([s], [], [], 0.7)[0]:
            silent += 1
        elif not s.recv(100).startswith(b"421 4.3.2"):
            raise Failure("a client was not told 421")
        s.close()
    step(c, u, BODY, TAKEN)
    c.reply(b"421 4.3.2")
    c.ended()
    u.gone()
    t.equal(silent, 0, "clients of 12 that were told nothing")
