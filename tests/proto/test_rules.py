# SPDX-License-Identifier: GPL-3.0-or-later
"""Built-in rules: what they refuse, the reply's text, its place among pipelined replies, and that no
later command steps around a refusal."""
import select

from lib.core import cases, test
from lib.smtp import (BODY, EHLO, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, ehlo_reply, greet, hello, message, opened,
                      pair, relinked, step)

NO_LIMIT = {"errors": 100000, "soft-errors": 100000}


def rules(t, reply=None, more=None, **lists):
    hook = dict({"type": "rules"}, **{k.replace("_", "-"): v for k, v in lists.items()})
    if reply:
        hook["reply"] = reply
    return dict(listener={"hooks": ["r"], "limits": NO_LIMIT}, conf={"hooks": {"r": hook}})


@test(quick=True)
def senders(t):
    rp, up, c, u = pair(t, **rules(t, reject_senders=["spam@x.test", "@blocked.test", "@.deep.test", "<>"]))
    for who in (b"spam@x.test", b"SPAM@X.TEST", b"Spam@x.Test", b"a@blocked.test", b"b@BLOCKED.test", b"a@b.deep.test", b"a@c.b.deep.test", b""):
        c.send(b"MAIL FROM:<%s>\r\n" % who)
        got = c.reply(b"550 5.7.1 ")
        t.check(b"refused by policy" in got, "default text: %r" % got)
    for who in (b"ham@x.test", b"spam@y.test", b"a@sub.blocked.test", b"a@notblocked.test", b"a@deep.test", b"a@xdeep.test", b"spam", b"xspam@x.test"):
        step(c, u, b"MAIL FROM:<%s>\r\n" % who, OK_MAIL)
        step(c, u, b"RSET\r\n", b"250 ok\r\n")


@cases({"spaces": b"MAIL FROM:  <spam@x.test>\r\n", "no-brackets": b"MAIL FROM:spam@x.test\r\n", "route": b"MAIL FROM:<@a.test:spam@x.test>\r\n",
        "params": b"MAIL FROM:<spam@x.test> SIZE=10 BODY=8BITMIME\r\n", "case": b"mAiL fRoM:<spam@x.test>\r\n",
        "quoted": b"MAIL FROM:<\"spam\"@x.test>\r\n", "escaped": b"MAIL FROM:<\"s\\pam\"@x.test>\r\n", "dot": b"MAIL FROM:<spam@x.test.>\r\n",
        "space-inside": b"MAIL FROM:< spam@x.test >\r\n", "tab": b"MAIL FROM:\t<spam@x.test>\r\n"}, quick=True)
def a_sender_in_other_clothes(t, line):
    """Spellings that a server reads as the same address: refused by the rule or by the parser, never passed."""
    rp, up, c, u = pair(t, **rules(t, reject_senders=["spam@x.test"]))
    c.send(line)
    c.reply(b"5")
    u.quiet(0.05)


@test(quick=True)
def recipients(t):
    rp, up, c, u = pair(t, **rules(t, reject_recipients=["spam@x.test", "@blocked.test", "@.deep.test"]))
    step(c, u, MAIL, OK_MAIL)
    for who in (b"spam@x.test", b"x@Blocked.Test", b"a@b.deep.test"):
        c.send(b"RCPT TO:<%s>\r\n" % who)
        c.reply(b"550 5.7.1 ")
    step(c, u, RCPT, OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    rec = rp.record("transaction")
    t.equal((rec["rcpts"], rec["rcpts_refused"]), (1, 3), "recipients in the record")


@test(quick=True)
def reply_by_configuration(t):
    for given, want in (({"code": 451, "enhanced": "4.7.25", "text": "try another day"}, b"451 4.7.25 try another day\r\n"),
                        ("554 5.7.1 no means no", b"554 5.7.1 no means no\r\n"), ({"text": "only words"}, b"550 5.7.1 only words\r\n")):
        rp, up, c, u = pair(t, **rules(t, reply=given, reject_senders=["@x.test"]))
        c.send(MAIL)
        c.expect(want)


@test(quick=True)
def ehlo_names(t):
    up = t.upstream()
    rp = t.ringpost(up, **rules(t, reject_ehlo=["bad.test", ".dyn.test"]))
    c = rp.client()
    u = up.accept()
    greet(c, u)
    for line in (b"EHLO bad.test\r\n", b"HELO BAD.test\r\n", b"ehlo a.dyn.test\r\n", b"EHLO b.a.dyn.test\r\n",
                 b"EHLO bad.test and.more\r\n", b"EHLO\tbad.test\r\n"):
        c.send(line)
        c.reply(b"550 5.7.1")
    hello(c, u)
    message(c, u)
    c.send(b"EHLO bad.test\r\n")
    c.reply(b"550 5.7.1")
    step(c, u, MAIL, OK_MAIL)


@test(quick=True)
def client_networks(t):
    up = t.upstream()
    rp = t.ringpost(up, **rules(t, reply="554 5.7.1 not from there", reject_clients=["127.1.0.0/16", "127.0.0.77"]))
    for source in ("127.1.2.3", "127.0.0.77"):
        c = rp.client(source=source)
        c.expect(b"554 5.7.1 not from there\r\n")
        c.ended()
    up.nobody()
    c = rp.client(source="127.0.0.78")
    greet(c, up.accept())
    rec = rp.record("refused")
    t.check("127.1.2.3" in str(rec), "refused record: %r" % rec)


@cases({"any-address": "0.0.0.0:0", "loopback": "127.0.0.1:0"}, quick=True)
def clients_directive(t, bind):
    up = t.upstream()
    rp = t.ringpost(up, bind=bind, listener={"clients": ["127.0.0.1", "127.5.0.0/16"]})
    for source in ("127.0.0.1", "127.5.6.7"):
        c = rp.client(source=source)
        u = up.accept()
        greet(c, u)
        c.close()
        u.gone()
        u.close()
    c = rp.client(source="127.6.0.1")
    c.reply(b"554 5.7.1")
    c.ended()
    up.nobody()
    c.close()
    t.equal(rp.stop_now()["refused_clients"], 1, "counter")


@test(quick=True)
def in_their_place_in_a_group(t):
    rp, up, c, u = pair(t, **rules(t, reject_recipients=["no@y.test"], reply="550 5.7.1 rule"))
    no = b"RCPT TO:<no@y.test>\r\n"
    c.send(MAIL + no + RCPT + no + b"RCPT TO:<c@y.test>\r\n" + no + b"DATA\r\n")
    u.expect(MAIL + RCPT + b"RCPT TO:<c@y.test>\r\nDATA\r\n")
    rule = b"550 5.7.1 rule\r\n"
    u.send(OK_MAIL + b"250 first\r\n" + b"250 second\r\n" + GO)
    c.expect(OK_MAIL + rule + b"250 first\r\n" + rule + b"250 second\r\n" + rule + GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def refused_sender_nothing_slips_past(t):
    """MAIL refused here, the rest of the group already on its way: all of it refused here, nothing passed."""
    rp, up, c, u = pair(t, **rules(t, reject_senders=["evil@x.test"]))
    c.send(b"MAIL FROM:<evil@x.test>\r\n" + RCPT + RCPT + b"DATA\r\n" + b"BDAT 4\r\nQUIT" + b"RSET\r\n" + RCPT + b"NOOP\r\n")
    u.expect(b"RSET\r\nNOOP\r\n").send(b"250 reset\r\n250 noop\r\n")
    c.replies(b"550 5.7.1", b"503 5.5.1", b"503 5.5.1", b"503 5.5.1", b"503 5.5.1", b"250 reset", b"503 5.5.1", b"250 noop")


@test(quick=True)
def refused_sender_after_an_accepted_one(t):
    """A second MAIL that is refused must not leave the first one's transaction usable under its name; and a nested
    MAIL is the upstream's to refuse."""
    rp, up, c, u = pair(t, **rules(t, reject_senders=["evil@x.test"]))
    step(c, u, MAIL, OK_MAIL)
    c.send(b"MAIL FROM:<evil@x.test>\r\n")
    c.reply(b"550 5.7.1")
    c.send(RCPT)
    if u_gets(u, RCPT):
        u.send(OK_RCPT)
        c.expect(OK_RCPT)  # the first transaction goes on: its sender is the accepted one
    else:
        c.reply(b"503 5.5.1")


def u_gets(u, line):
    if not select.select([u.sock], [], [], 0.3)[0]:
        return False
    u.expect(line)
    return True


@test(quick=True)
def every_recipient_refused_here(t):
    rp, up, c, u = pair(t, **rules(t, reject_recipients=["@y.test"]))
    c.send(MAIL + RCPT + RCPT + b"DATA\r\n" + b"NOOP\r\n")
    u.expect(MAIL + b"NOOP\r\n").send(OK_MAIL + b"250 ok\r\n")
    c.expect(OK_MAIL)
    c.replies(b"550 5.7.1", b"550 5.7.1", b"554 5.5.1", b"250 ok")
    step(c, u, b"RCPT TO:<ok@z.test>\r\n", OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def data_without_recipients_at_all(t):
    rp, up, c, u = pair(t)
    step(c, u, MAIL, OK_MAIL)
    c.send(b"DATA\r\n")
    c.reply(b"503 5.5.1")
    step(c, u, RCPT, OK_RCPT)


@test(quick=True)
def after_every_end_of_data_the_envelope_is_empty(t):
    """2xx, 4xx, 5xx, refused by guard, refused by size, upstream lost: RCPT and DATA behind it need a MAIL."""
    rp, up, c, u = pair(t, listener={"limits": dict(NO_LIMIT, message=5000), "hooks": ["r"]},
                        conf={"hooks": {"r": {"type": "rules", "reject-senders": ["evil@x.test"]}}})
    for body, answer, want in ((BODY, TAKEN, TAKEN), (BODY, b"550 no\r\n", b"550 no"), (BODY, b"451 later\r\n", b"451 later"),
                               (b"a\n.\nb\r\n.\r\n", None, b"550 5.5.2"), (b"x" * 9000 + b"\r\n.\r\n", None, b"552 5.3.4")):
        t.round(want)
        data_open(c, u)
        c.send(body + RCPT + b"DATA\r\n" + b"MAIL FROM:<evil@x.test>\r\n" + RCPT + b"DATA\r\n")
        if answer:
            u.expect(body).send(answer)
        else:
            u.rest()
        c.reply(want)
        c.replies(b"503 5.5.1", b"503 5.5.1", b"550 5.7.1", b"503 5.5.1", b"503 5.5.1")
        if answer:
            u.quiet(0.02)
        else:
            up.nobody(0.05)
            u = relinked(up, c)
    message(c, u)


@test(quick=True)
def several_hooks_in_order(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"hooks": ["one", "two"]}, conf={"hooks": {
        "one": {"type": "rules", "reject-senders": ["a@x.test"], "reply": "550 5.7.1 one"},
        "two": {"type": "rules", "reject-senders": ["@x.test"], "reply": "550 5.7.1 two"}}})
    c, u = opened(t, rp, up)
    c.send(b"MAIL FROM:<a@x.test>\r\nMAIL FROM:<b@x.test>\r\n")
    c.expect(b"550 5.7.1 one\r\n550 5.7.1 two\r\n")


@test(quick=True)
def rejections_are_logged_and_counted(t):
    rp, up, c, u = pair(t, **rules(t, reject_senders=["evil@x.test"], reject_recipients=["no@y.test"]))
    c.send(b"MAIL FROM:<evil@x.test>\r\n")
    c.reply(b"550")
    step(c, u, MAIL, OK_MAIL)
    c.send(b"RCPT TO:<no@y.test>\r\nRSET\r\n")
    c.reply(b"550")
    u.expect(b"RSET\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")
    c.close()
    u.gone()
    t.equal(rp.stop_now()["rule_rejects"], 2, "counter rule_rejects")


@test(quick=True)
def two_octet_pieces_do_not_help(t):
    rp, up, c, u = pair(t, **rules(t, reject_senders=["evil@x.test"]))
    c.send_octets(b"MAIL FROM:<evil@x.test>\r\n")
    c.reply(b"550 5.7.1")
    u.quiet(0.02)
    c.send(EHLO)
    u.expect(EHLO).send(ehlo_reply())
    c.reply(b"250")


@test(quick=True)
def the_record_names_who_was_refused_and_by_which_rule(t):
    rp, up, c, u = pair(t, **rules(t, reject_recipients=["@blocked.test"]))
    step(c, u, MAIL, OK_MAIL)
    c.send(b"RCPT TO:<first@blocked.test>\r\nRCPT TO:<second@blocked.test>\r\nRSET\r\n")
    c.replies(b"550 5.7.1", b"550 5.7.1")
    u.expect(b"RSET\r\n").send(b"250 ok\r\n")
    c.expect(b"250 ok\r\n")
    rec = rp.record("transaction")
    t.equal((rec["result"], rec["to"], rec["reason"], rec["rcpts_refused"]), ("rejected", "first@blocked.test", "rule:r", 2), "the record")
