# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and replies: relayed octet for octet, in any split, in order."""
from lib.core import cases, test
from lib.smtp import (BYE, CAPS, EHLO, GO, GREETING, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, again, ehlo_reply,
                      envelope, greet, hello, message, opened, pair, quit_, relinked, step, warm_up)
from lib.autoserver import EHLO as AUTO_EHLO, ehlo_reply as auto_ehlo

SESSION = [b"EHLO client.test\r\n", b"NOOP hello\r\n", b"MAIL FROM:<a@x.test> BODY=8BITMIME\r\n", b"RCPT TO:<b@y.test>\r\n",
           b"RCPT TO:<c@y.test>\r\n", b"DATA\r\n", b"Subject: x\r\n\r\n..dots\r\n.\r\n", b"RSET\r\n", b"QUIT\r\n"]
STREAM = b"".join(SESSION)
BODY_TAKEN = SESSION[6]


def replies_of_session(n):
    return (b"220 auto.test ESMTP\r\n" + auto_ehlo(AUTO_EHLO) + b"250 2.0.0 ok\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n"
            b"250 2.1.5 ok\r\n354 go on\r\n250 2.0.0 taken as %d\r\n250 2.0.0 ok\r\n221 2.0.0 bye\r\n" % n)


def check_session(t, c, srv, n):
    t.equal(c.rest(), replies_of_session(n), "what the client got")
    c.close()
    m = srv.messages[n - 1]
    t.equal((m.sender, m.rcpts), (b"FROM:<a@x.test> BODY=8BITMIME", [b"TO:<b@y.test>", b"TO:<c@y.test>"]), "envelope")
    t.equal(m.body, BODY_TAKEN, "body")


@test(quick=True)
def two_full_transactions(t):
    rp, up, c, u = pair(t)
    message(c, u)
    step(c, u, b"RSET\r\n", b"250 flushed\r\n")
    message(c, u, b".\r\n")
    quit_(c, u)
    recs = [rp.record("transaction", n) for n in (1, 2)]
    for r in recs:
        t.equal((r["result"], r["from"], r["to"], r["rcpts"], r["code"], r["enhanced"]),
                ("accepted", "a@x.test", "b@y.test", 1, 250, "2.0.0"), "transaction record")
    s = rp.record("session")
    t.equal((s["sid"], s["messages"], s["reason"], s["helo"]), (recs[0]["sid"], 2, "quit", "client.test"), "session record")


@test(quick=True)
def commands_pass_as_written(t):
    rp, up, c, u = pair(t)
    for line in (b"noop\r\n", b"NoOp  two  spaces \r\n", b"vrfy a b c\r\n", b"HELP\r\n", b"EXPN list\r\n", b"X-FOO bar\t\xc3\xa4\r\n",
                 b"ETRN a.test\r\n", b"mail from:<A@x.test>\r\n", b"RSET\r\n", b"MAIL FROM: <a@x.test>\r\n", b"RSET \r\n",
                 b"MAIL FROM:<>\r\n", b"RCPT TO:<postmaster>\r\n", b"RCPT TO:<@a,@b:c@d.test>\r\n",
                 b"RCPT TO:<\"quo ted\"@d.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@c\r\n", b"rcpt to:<x@[127.0.0.1]>\r\n",
                 b"RSET\r\n", b"MAIL FROM:<\xc3\xa4@x.test> SMTPUTF8 RET=HDRS ENVID=a+3D BODY=8BITMIME AUTH=<>\r\n"):
        step(c, u, line, b"250 2.0.0 fine\r\n")


@test(quick=True)
def replies_pass_as_written(t):
    rp, up, c, u = pair(t)
    for text in (b"250 ok\r\n", b"250\r\n", b"250 \r\n", b"250-a\r\n250-b\r\n250 c\r\n", b"252 cannot verify\r\n", b"450 busy\r\n",
                 b"550 5.1.1 <x>: unknown\r\n", b"214-help\r\n214-\r\n214\r\n", b"250 \xc3\xa4 8-bit\r\n", b"250 a\tb\r\n",
                 b"250 " + b"x" * 1000 + b"\r\n"):
        step(c, u, b"HELP me\r\n", text)


@test(quick=True)
def every_octet_alone_from_the_client(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    for line, reply in zip(SESSION, (ehlo_reply(), b"250 a\r\n", OK_MAIL, OK_RCPT, OK_RCPT, GO, TAKEN, b"250 b\r\n", BYE)):
        c.send_octets(line)
        u.expect(line)
        u.send(reply)
        if line.startswith(b"EHLO"):
            c.reply(b"250")
        else:
            c.expect(reply)


@test(quick=True)
def every_octet_alone_from_the_upstream(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    u.send_octets(GREETING)
    c.expect(GREETING)
    for line, reply in zip(SESSION, (ehlo_reply(), b"250 a\r\n", OK_MAIL, OK_RCPT, OK_RCPT, GO, TAKEN, b"250 b\r\n", BYE)):
        c.send(line)
        u.expect(line)
        u.send_octets(reply)
        if line.startswith(b"EHLO"):
            c.reply(b"250")
        else:
            c.expect(reply)


@test(quick=True)
def every_octet_alone_both_ways(t):
    srv = t.auto(octets=True)
    rp = t.ringpost(srv)
    c = rp.client()
    c.send_octets(STREAM)
    check_session(t, c, srv, 1)


@test(quick=True)
def a_whole_session_in_one_segment(t):
    srv = t.auto()
    rp = t.ringpost(srv)
    c = rp.client()
    c.send(STREAM)
    check_session(t, c, srv, 1)


@test(quick=True)
def two_messages_in_one_segment(t):
    srv = t.auto()
    rp = t.ringpost(srv)
    c = rp.client()
    one = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\nfirst\r\n.\r\n"
    c.send(EHLO + one + one.replace(b"first", b"second") + b"QUIT\r\n")
    got = c.rest()
    t.check(got.endswith(b"taken as 1\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go on\r\n250 2.0.0 taken as 2\r\n221 2.0.0 bye\r\n"),
            "replies: %r" % got)
    t.equal([m.body for m in srv.messages], [b"first\r\n.\r\n", b"second\r\n.\r\n"], "bodies")


@test(timeout=60)
def every_split_of_the_client_side(t):
    srv = t.auto()
    rp = t.ringpost(srv)
    for p in range(1, len(STREAM)):
        t.round("cut at %d: %r | %r" % (p, STREAM[max(0, p - 12):p], STREAM[p:p + 12]))
        c = rp.client()
        c.send_split(STREAM, p)
        check_session(t, c, srv, p)


@test(timeout=60)
def every_split_of_the_upstream_side(t):
    srv = t.auto()
    rp = t.ringpost(srv)
    total = len(replies_of_session(1))
    for p in range(1, total):
        t.round("replies cut at %d" % p)
        srv.cut = p
        c = rp.client()
        c.send(STREAM)
        check_session(t, c, srv, p)


@test(timeout=60)
def pieces_of_every_size(t):
    srv = t.auto()
    rp = t.ringpost(srv)
    for n, size in enumerate(range(2, 42), 1):
        t.round("pieces of %d" % size)
        c = rp.client()
        c.send_split(STREAM, *range(size, len(STREAM), size))
        check_session(t, c, srv, n)


@test(quick=True)
def ehlo_of_20_lines_in_fragments(t):
    up = t.upstream()
    rp = t.ringpost(up)
    caps = CAPS + tuple(b"X-EXT%d with arguments %s" % (i, b"a" * i) for i in range(16))
    reply = ehlo_reply(caps)
    for size in (1, 2, 3, 7, 100):
        t.round("fragments of %d" % size)
        c = rp.client()
        u = up.accept()
        greet(c, u)
        c.send(EHLO)
        u.expect(EHLO)
        u.send_split(reply, *range(size, len(reply), size))
        c.expect(reply)
        c.close()
        u.close()


@test(timeout=60)
def multi_line_reply_split_everywhere(t):
    rp, up, c, u = pair(t, listener={"limits": {"errors": 100000, "soft-errors": 100000}})
    text = b"550-5.7.1 first line\r\n550-5.7.1 2nd\r\n550 5.7.1 last\r\n"
    for p in range(1, len(text)):
        c.send(b"EXPN x\r\n") if p % 50 else None
        if p % 50 == 0:  # a message, so that the junk limit does not end the loop
            message(c, u)
            c.send(b"EXPN x\r\n")
        u.expect(b"EXPN x\r\n")
        u.send(text[:p])
        u.settle()
        if p % 10 == 0:
            c.quiet(0.02)
        u.send(text[p:])
        c.expect(text)


@test(quick=True)
def a_reply_in_parts_is_never_shown(t):
    rp, up, c, u = pair(t)
    c.send(b"NOOP\r\n")
    u.expect(b"NOOP\r\n").send(b"250-part one\r\n250-part two\r\n")
    c.quiet()
    u.close()
    c.reply(b"451 4.4.2")


@test(quick=True)
def unknown_verbs_pass(t):
    rp, up, c, u = pair(t)
    for line in (b"FOO\r\n", b"XDEBUG on\r\n", b"A\r\n", b"Q2 x\r\n", b"SEND FROM:<a@b>\r\n", b"WIZ\r\n"):
        step(c, u, line, b"500 5.5.1 what is that\r\n")


@test(quick=True)
def refused_verbs_never_pass(t):
    rp, up, c, u = pair(t, listener={"limits": {"errors": 100, "soft-errors": 100}})
    for line in (b"XCLIENT ADDR=1.2.3.4\r\n", b"XFORWARD NAME=a\r\n", b"ATRN a\r\n", b"TURN\r\n", b"BURL imap://x LAST\r\n",
                 b"XEXCH50 10 2\r\n", b"LHLO a\r\n", b"STARTTLS\r\n", b"xclient a=b\r\n", b"XcLiEnT\r\n", b"starttls\r\n"):
        c.send(line)
        c.reply(b"502 5.5.1")
    step(c, u, b"NOOP\r\n", b"250 ok\r\n")


@test(quick=True)
def trusted_client_may_xclient(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"trusted": ["127.0.0.0/8"]})
    c = rp.client()
    u = up.accept()
    greet(c, u)
    shown = hello(c, u, CAPS + (b"XCLIENT NAME ADDR", b"XFORWARD NAME ADDR"))
    t.check(b"XCLIENT" in shown and b"XFORWARD" in shown, "shown to the trusted: %r" % shown)
    step(c, u, b"XFORWARD NAME=spike.test ADDR=1.2.3.4\r\n", b"250 ok\r\n")
    step(c, u, b"XCLIENT NAME=spike.test ADDR=1.2.3.4\r\n", GREETING)
    hello(c, u)
    message(c, u)


@test(quick=True)
def not_commands(t):
    """Refused by ringpost, never passed; the session goes on."""
    rp, up, c, u = pair(t, listener={"limits": {"errors": 1000, "soft-errors": 1000}})
    for line, code in ((b"\r\n", b"500 5.5.2"), (b"   \r\n", b"500 5.5.2"), (b"123\r\n", b"500 5.5.2"), (b"NOOP\n", b"500 5.5.2"),
                       (b"NO\0OP\r\n", b"500 5.5.2"), (b"NOOP a\rb\r\n", b"500 5.5.2"), (b"NOOP \x01\r\n", b"500 5.5.2"),
                       (b"NOOP \x7f\r\n", b"500 5.5.2"), (b"\x80\xff\r\n", b"500 5.5.2"), (b"<html>\r\n", b"500 5.5.2"),
                       (b"NOOP\r\r\n", b"500 5.5.2"),
                       (b"MAIL\r\n", b"501 5."), (b"MAIL FROM\r\n", b"501 5."), (b"MAIL TO:<a@b>\r\n", b"501 5."),
                       (b"MAIL FROM:<a@b\r\n", b"501 5.1.7"), (b"MAIL FROM:<a@b> SIZE=abc\r\n", b"501 5.5.4"),
                       (b"MAIL FROM:<a@b> SIZE=1 SIZE=2\r\n", b"501 5.5.4"), (b"MAIL FROM:<a@b> BODY=9BIT\r\n", b"501 5.5.4")):
        c.send(line)
        c.reply(code)
    step(c, u, MAIL, OK_MAIL)
    for line, code in ((b"RCPT\r\n", b"501 5."), (b"RCPT TO\r\n", b"501 5."), (b"RCPT FROM:<a@b>\r\n", b"501 5."),
                       (b"RCPT TO:<a@b\r\n", b"501 5.1.3"), (b"RCPT TO:<a@b> NOTIFY=SOMETIMES\r\n", b"501 5.5.4")):
        c.send(line)
        c.reply(code)
    step(c, u, RCPT, OK_RCPT)


@test(quick=True)
def long_command_lines(t):
    rp, up, c, u = pair(t)
    step(c, u, b"NOOP " + b"a" * (4096 - 7) + b"\r\n", b"250 long\r\n")
    c.send(b"NOOP " + b"a" * (4097 - 7) + b"\r\n")
    c.reply(b"500 5.5.2")
    step(c, u, b"NOOP\r\n", b"250 ok\r\n")
    c.send(b"NOOP " + b"a" * 100000 + b"\r\nNOOP behind\r\n")
    c.reply(b"500 5.5.2")
    u.expect(b"NOOP behind\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")


@test(quick=True)
def command_line_limit_by_configuration(t):
    rp, up, c, u = pair(t, listener={"limits": {"command-line": 512}})
    step(c, u, b"NOOP " + b"a" * (512 - 7) + b"\r\n", b"250 long\r\n")
    c.send(b"NOOP " + b"a" * (513 - 7) + b"\r\n")
    c.reply(b"500 5.5.2")


@test(timeout=60, serial=True)
def line_without_an_end_costs_no_memory(t):
    up = t.upstream()
    rp = t.ringpost(up)
    before = warm_up(rp, up)
    c, u = opened(t, rp, up)
    block = b"a" * (1 << 20)
    peak = before
    sent = 0
    try:
        for _ in range(64):
            c.sock.sendall(block)
            sent += 1
            peak = max(peak, rp.rss_anon())
    except OSError:
        t.note("closed after %d MiB" % sent)
    t.check(peak - before < 2048 * t.slow, "RssAnon grew from %d to %d KiB" % (before, peak))
    u.quiet(0.05)
    if sent == 64:
        c.sock.sendall(b"\r\n")
    c.ignore_rest = True
    c.reply(b"500 5.5.2")


@test(quick=True)
def sequence_errors_are_local(t):
    rp, up, c, u = pair(t)
    for line in (RCPT, b"DATA\r\n", b"BDAT 5\r\nhello", b"BDAT 0 LAST\r\n"):
        c.send(line)
        c.reply(b"503 5.5.1")
    step(c, u, MAIL, b"550 5.7.1 not you\r\n")
    c.send(RCPT)
    c.reply(b"503 5.5.1")
    envelope(c, u)
    step(c, u, b"RSET\r\n", b"250 ok\r\n")
    c.send(RCPT + b"DATA\r\n")
    c.replies(b"503 5.5.1", b"503 5.5.1")
    message(c, u)
    c.send(RCPT)
    c.reply(b"503 5.5.1")
    step(c, u, MAIL, OK_MAIL)
    hello(c, u)
    c.send(RCPT)
    c.reply(b"503 5.5.1")


@test(quick=True)
def upstream_421_at_any_reply(t):
    up = t.upstream()
    rp = t.ringpost(up)
    for n in range(4):
        c, u = opened(t, rp, up)
        for line, ok in ((MAIL, OK_MAIL), (RCPT, OK_RCPT), (b"DATA\r\n", GO))[:n]:
            step(c, u, line, ok)
        last = (b"NOOP\r\n", RCPT, b"DATA\r\n", b"text\r\n.\r\n")[n]
        c.send(last)
        u.expect(last).send(b"421-4.3.2 going\r\n421 4.3.2 down\r\n")
        c.expect(b"421-4.3.2 going\r\n421 4.3.2 down\r\n")
        c.ended()
        u.gone()
        c.close()
        u.close()


@test(quick=True)
def reply_521_to_a_command_ends(t):
    rp, up, c, u = pair(t)
    c.send(MAIL)
    u.expect(MAIL).send(b"521 5.2.1 no mail here\r\n")
    c.expect(b"521 5.2.1 no mail here\r\n")
    c.ended()
    u.gone()


@cases({"3xx": b"354 go on\r\n", "334": b"334 what\r\n", "words": b"hello\r\n", "mixed": b"250-a\r\n251 b\r\n",
        "nul": b"250 a\0b\r\n", "bare-cr": b"250 a\rb\r\n", "long-line": b"250 " + b"x" * 5000 + b"\r\n",
        "many-lines": b"250-x\r\n" * 400 + b"250 x\r\n", "code": b"199 x\r\n"}, quick=True)
def replies_that_are_none(t, text):
    """The link ends; what it leaves open gets 451 4.4.2; the session goes on over a new link."""
    rp, up, c, u = pair(t)
    c.send(b"NOOP\r\nVRFY b\r\n")
    u.expect(b"NOOP\r\n")
    u.send(text)
    c.replies(b"451 4.4.2", b"451 4.4.2")
    u.rest()
    u2 = relinked(up, c)
    c.close()
    u2.gone()
    t.check(rp.stop_now()["upstream_bad_replies"] >= 1, "counted")


@test(quick=True)
def a_reply_nobody_waits_for(t):
    rp, up, c, u = pair(t)
    u.send(b"250 surprise\r\n")
    c.quiet()
    u.gone()
    relinked(up, c)


@test(quick=True)
def one_reply_too_many(t):
    """Two replies to one command: the second is never taken for the next command's."""
    rp, up, c, u = pair(t)
    c.send(MAIL)
    u.expect(MAIL).send(b"550 5.1.0 no\r\n250 2.0.0 yes\r\n")
    c.expect(b"550 5.1.0 no\r\n")
    u.gone()
    c.quiet()
    u2 = again(up, c, MAIL)
    u2.send(OK_MAIL)
    c.expect(OK_MAIL)


@test(quick=True)
def quit_is_answered_and_everything_closes(t):
    rp, up, c, u = pair(t)
    quit_(c, u)
    c.close()
    rp.sockets_back()


@test(quick=True)
def quit_client_closes_at_once(t):
    """A client that does not wait for the 221 still gives its QUIT to the upstream."""
    rp, up, c, u = pair(t)
    c.send(b"QUIT\r\n").half_close()
    u.expect(b"QUIT\r\n").send(BYE)
    c.expect(BYE)
    c.ended()
    u.gone()


@test(quick=True)
def upstream_closes_without_answering_quit(t):
    rp, up, c, u = pair(t)
    c.send(b"QUIT\r\n")
    u.expect(b"QUIT\r\n").close()
    got = c.rest()
    t.check(got == b"" or got[:4] in (b"221 ", b"451 ", b"421 "), "what the client got: %r" % got)


@test(quick=True)
def half_close_behind_complete_commands(t):
    """Exim sends QUIT and shuts down its side before it reads the replies."""
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + b"NOOP\r\n").half_close()
    u.expect(MAIL + RCPT + b"NOOP\r\n")
    u.send(OK_MAIL).settle()
    u.send(OK_RCPT + b"250 ok\r\n")
    c.expect(OK_MAIL + OK_RCPT + b"250 ok\r\n")
    c.ended()
    u.gone()


@test(quick=True)
def half_close_behind_half_a_command(t):
    rp, up, c, u = pair(t)
    c.send(b"NOOP\r\nMAIL FR").half_close()
    u.expect(b"NOOP\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")
    c.ended()
    u.gone()


@cases({"close": "close", "reset": "reset"}, quick=True)
def client_gone_while_a_command_is_open(t, how):
    rp, up, c, u = pair(t)
    c.send(MAIL)
    u.expect(MAIL)
    getattr(c, how)()
    if how == "close":
        u.send(OK_MAIL)
    u.gone()
    rp.sockets_back()
