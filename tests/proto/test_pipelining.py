# SPDX-License-Identifier: GPL-3.0-or-later
"""PIPELINING: one send per group each way, order kept, lock-step where the upstream has none.
Segments are counted by the kernel (tcp_info): on loopback one send is one segment."""
from lib.core import test
from lib.smtp import (BODY, BYE, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, envelope, greet, hello, message,
                      opened, pair, quit_, step)

GROUP = MAIL + RCPT + b"RCPT TO:<c@y.test>\r\nRCPT TO:<d@y.test>\r\nDATA\r\n"
ANSWERS = OK_MAIL + OK_RCPT * 3 + GO
NO_PIPELINING = (b"8BITMIME", b"CHUNKING")


def one_segment(t, conn, what):
    n = conn.segments()
    if n is not None:
        t.check(n == 1, "%s came in %d segments, not in one" % (what, n))


@test(quick=True)
def group_leaves_in_one_send(t):
    rp, up, c, u = pair(t)
    for _ in range(3):
        u.mark_segments()
        c.send(GROUP)
        u.expect(GROUP)
        one_segment(t, u, "the group")
        c.mark_segments()
        u.send(ANSWERS)
        c.expect(ANSWERS)
        one_segment(t, c, "the replies")
        c.send(BODY)
        u.expect(BODY).send(TAKEN)
        c.expect(TAKEN)


@test(quick=True)
def local_and_upstream_replies_leave_together(t):
    rp, up, c, u = pair(t)
    u.mark_segments()
    c.send(MAIL + b"XCLIENT a=b\r\n" + RCPT + b"LHLO x\r\n")
    u.expect(MAIL + RCPT)
    one_segment(t, u, "the group")
    c.mark_segments()
    u.send(OK_MAIL + OK_RCPT)
    c.expect(OK_MAIL)
    c.reply(b"502 5.5.1")
    c.expect(OK_RCPT)
    c.reply(b"502 5.5.1")
    one_segment(t, c, "the replies")


@test(quick=True)
def local_rejections_keep_their_place(t):
    rp, up, c, u = pair(t)
    c.send(b"XCLIENT a=b\r\nNOOP 1\r\nATRN\r\nNOOP 2\r\nNOOP 3\r\n\r\nNOOP 4\r\n")
    u.expect(b"NOOP 1\r\nNOOP 2\r\nNOOP 3\r\nNOOP 4\r\n")
    c.reply(b"502")
    c.quiet(0.05)
    u.send(b"250 one\r\n")
    c.expect(b"250 one\r\n")
    c.reply(b"502")
    c.quiet(0.05)
    u.send(b"250-two\r\n")
    c.quiet(0.05)
    u.send(b"250 two\r\n250 three\r\n")
    c.expect(b"250-two\r\n250 two\r\n250 three\r\n")
    c.reply(b"500")
    u.send(b"250 four\r\n")
    c.expect(b"250 four\r\n")


@test(quick=True)
def lock_step_behind_an_upstream_without_it(t):
    rp, up, c, u = pair(t, caps=NO_PIPELINING)
    c.send(GROUP + BODY + b"RSET\r\nQUIT\r\n")
    for line, reply in ((MAIL, OK_MAIL), (RCPT, OK_RCPT), (b"RCPT TO:<c@y.test>\r\n", b"550 5.1.1 no\r\n"),
                        (b"RCPT TO:<d@y.test>\r\n", OK_RCPT), (b"DATA\r\n", GO), (BODY, TAKEN), (b"RSET\r\n", b"250 ok\r\n"),
                        (b"QUIT\r\n", BYE)):
        u.expect(line)
        u.quiet(0.03)
        u.send(reply)
        c.expect(reply)
    c.ended()


@test(quick=True)
def lock_step_keeps_local_replies_in_place(t):
    rp, up, c, u = pair(t, caps=NO_PIPELINING)
    c.send(b"NOOP 1\r\nLHLO x\r\nNOOP 2\r\nLHLO y\r\n")
    u.expect(b"NOOP 1\r\n").quiet(0.03)
    u.send(b"250 one\r\n")
    c.expect(b"250 one\r\n")
    c.reply(b"502")
    u.expect(b"NOOP 2\r\n").send(b"250 two\r\n")
    c.expect(b"250 two\r\n")
    c.reply(b"502")


@test(quick=True)
def after_helo_lock_step(t):
    """HELO promises no PIPELINING; a client that does it anyway is served one by one."""
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    step(c, u, b"HELO client.test\r\n", b"250 up.test\r\n")
    c.send(MAIL + RCPT)
    u.expect(MAIL).quiet(0.03)
    u.send(OK_MAIL).expect(RCPT).send(OK_RCPT)
    c.expect(OK_MAIL + OK_RCPT)


@test(quick=True)
def what_stands_behind_a_sync_command_waits(t):
    rp, up, c, u = pair(t)
    c.send(b"EHLO again\r\nNOOP\r\n")
    u.expect(b"EHLO again\r\n").quiet(0.05)
    u.send(b"250-up.test\r\n250 PIPELINING\r\n")
    u.expect(b"NOOP\r\n").send(b"250 ok\r\n")
    c.replies(b"250-up.test", b"250 ok")
    envelope(c, u)
    c.send(b"DATA\r\nNOOP in the body?\r\n.\r\n")
    u.expect(b"DATA\r\n").quiet(0.05)
    u.send(GO)
    u.expect(b"NOOP in the body?\r\n.\r\n").send(TAKEN)
    c.expect(GO + TAKEN)
    envelope(c, u)
    c.send(b"DATA\r\nNOOP a command\r\nRSET\r\n")
    u.expect(b"DATA\r\n").quiet(0.05)
    u.send(b"554 5.5.1 no\r\n")
    u.expect(b"NOOP a command\r\nRSET\r\n").send(b"250 ok\r\n250 flushed\r\n")
    c.expect(b"554 5.5.1 no\r\n250 ok\r\n250 flushed\r\n")


@test(quick=True)
def pipelined_behind_quit_is_not_executed(t):
    rp, up, c, u = pair(t)
    c.send(b"QUIT\r\n" + MAIL)
    u.expect(b"QUIT\r\n").quiet(0.05)
    u.send(BYE)
    c.expect(BYE)
    c.gone()
    u.gone()


@test(quick=True)
def next_transaction_behind_the_final_dot(t):
    """It goes upstream without waiting for the final reply, in the same send as the dot or right behind it."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    u.mark_segments()
    c.send(BODY + GROUP)
    u.expect(BODY + GROUP)
    n = u.segments()
    t.check(n is None or n <= 2, "body and next group in %s segments" % n)
    c.mark_segments()
    u.send(TAKEN + ANSWERS)
    c.expect(TAKEN + ANSWERS)
    c.send(b".\r\n")
    u.expect(b".\r\n").send(b"550 5.6.0 empty\r\n")
    c.expect(b"550 5.6.0 empty\r\n")


@test(quick=True)
def quit_behind_the_final_dot(t):
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(BODY + b"QUIT\r\n").half_close()
    u.expect(BODY + b"QUIT\r\n").send(TAKEN + BYE)
    c.expect(TAKEN + BYE)
    c.ended()


@test(quick=True)
def group_with_refused_recipients(t):
    rp, up, c, u = pair(t)
    c.send(GROUP)
    u.expect(GROUP)
    u.send(OK_MAIL + b"550 5.1.1 no\r\n550-5.1.1 no\r\n550 5.1.1 not\r\n" + OK_RCPT + GO)
    c.expect(OK_MAIL + b"550 5.1.1 no\r\n550-5.1.1 no\r\n550 5.1.1 not\r\n" + OK_RCPT + GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    rec = rp.record("transaction")
    t.equal((rec["rcpts"], rec["rcpts_refused"], rec["to"]), (1, 2, "d@y.test"), "recipients in the record")


@test(quick=True)
def group_with_every_recipient_refused(t):
    """DATA went up with the group: the upstream's answer decides, whatever it is."""
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT + b"DATA\r\n").send(OK_MAIL + b"550 5.1.1 no\r\n554 5.5.1 no valid recipients\r\n")
    c.expect(OK_MAIL + b"550 5.1.1 no\r\n554 5.5.1 no valid recipients\r\n")
    c.send(b"RSET\r\n")
    u.expect(b"RSET\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT + b"DATA\r\n").send(OK_MAIL + b"550 5.1.1 no\r\n" + GO)
    c.expect(OK_MAIL + b"550 5.1.1 no\r\n" + GO)
    c.send(b".\r\n")  # RFC 2920 3.1: a lone dot
    u.expect(b".\r\n").send(b"554 5.5.1 no valid recipients\r\n")
    c.expect(b"554 5.5.1 no valid recipients\r\n")


@test(quick=True)
def group_with_mail_refused(t):
    """What was on its way stays the upstream's to answer."""
    rp, up, c, u = pair(t)
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT + b"DATA\r\n")
    u.send(b"550 5.7.1 no\r\n503 5.5.1 MAIL first\r\n503 5.5.1 MAIL first\r\n")
    c.expect(b"550 5.7.1 no\r\n503 5.5.1 MAIL first\r\n503 5.5.1 MAIL first\r\n")
    message(c, u)


@test(quick=True)
def a_hundred_recipients_in_one_group(t):
    rp, up, c, u = pair(t)
    group = MAIL + b"".join(b"RCPT TO:<user%d@y.test>\r\n" % i for i in range(97)) + b"DATA\r\n"
    replies = OK_MAIL + b"".join(b"250 2.1.5 user %d\r\n" % i for i in range(97)) + GO
    c.send(group)
    u.expect(group)
    u.send(replies)
    c.expect(replies)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def more_commands_than_the_queue_holds(t):
    """`pipeline` bounds what is outstanding; the rest waits and keeps its order."""
    rp, up, c, u = pair(t, listener={"limits": {"pipeline": 4, "recipients": 5000}})
    step(c, u, MAIL, OK_MAIL)
    lines = [b"RCPT TO:<user%d@y.test>\r\n" % i for i in range(1000)]
    c.send(b"".join(lines))
    u.expect(b"".join(lines[:4]))
    u.quiet(0.1)
    u.send(b"250 ok 0\r\n")
    u.expect(lines[4])
    sent = 1
    for i in range(5, 1000):
        u.send(b"250 ok %d\r\n" % sent)
        sent += 1
        u.expect(lines[i])
    for i in range(sent, 1000):
        u.send(b"250 ok %d\r\n" % i)
    c.expect(b"".join(b"250 ok %d\r\n" % i for i in range(1000)))


@test(quick=True)
def replies_come_octet_by_octet_for_a_group(t):
    rp, up, c, u = pair(t)
    c.send(GROUP)
    u.expect(GROUP)
    u.send_octets(ANSWERS)
    c.expect(ANSWERS)


@test(quick=True)
def group_comes_octet_by_octet(t):
    rp, up, c, u = pair(t)
    c.send_octets(GROUP)
    u.expect(GROUP).send(ANSWERS)
    c.expect(ANSWERS)


@test(quick=True)
def ehlo_again_resets_the_transaction(t):
    rp, up, c, u = pair(t)
    envelope(c, u)
    hello(c, u)
    c.send(b"DATA\r\n")
    c.reply(b"503 5.5.1")
    message(c, u)
    quit_(c, u)


@test(quick=True)
def noop_and_rset_inside_a_group(t):
    rp, up, c, u = pair(t)
    group = b"RSET\r\n" + MAIL + b"NOOP\r\n" + RCPT + b"RSET\r\n" + MAIL + RCPT + b"DATA\r\n"
    c.send(group)
    u.expect(group)
    replies = (b"250 r\r\n" + OK_MAIL + b"250 n\r\n" + OK_RCPT + b"250 r\r\n" + OK_MAIL + OK_RCPT + GO)
    u.send(replies)
    c.expect(replies)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    rp.record("transaction", result="accepted")


@test(quick=True)
def rcpt_behind_a_pipelined_rset_needs_mail(t):
    rp, up, c, u = pair(t)
    step(c, u, MAIL, OK_MAIL)
    c.send(b"RSET\r\n" + RCPT)
    u.expect(b"RSET\r\n").quiet(0.05)
    u.send(b"250 flushed\r\n")
    c.expect(b"250 flushed\r\n")
    c.reply(b"503 5.5.1")


@test(quick=True)
def two_sessions_do_not_mix(t):
    """A canary of each session never shows in another."""
    up = t.upstream()
    rp = t.ringpost(up)
    pairs = [opened(t, rp, up) for _ in range(8)]
    for n in range(20):
        for i, (c, u) in enumerate(pairs):
            c.send(b"VRFY canary-%d-%d\r\n" % (i, n))
        for i, (c, u) in enumerate(pairs):
            u.expect(b"VRFY canary-%d-%d\r\n" % (i, n)).send(b"252 canary-%d-%d\r\n" % (i, n))
        for i, (c, u) in enumerate(pairs):
            c.expect(b"252 canary-%d-%d\r\n" % (i, n))
