# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks that answer at once, later, too late or never: order kept, nothing slips past, nobody else waits."""
import os
import signal
import subprocess
import time

from lib.core import cases, test
from lib.crowd import OPEN
from lib.smtp import (BODY, EHLO, GO, GREETING, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, ehlo_reply, envelope, greet, hello, message,
                      no_end_seen, opened, relinked, step)

NO_LIMIT = {"soft-errors": 1000, "errors": 1000}


def so(t, name):
    return os.path.join(os.path.abspath(t.build), "tests/plugins", name + ".so")


def hooked(t, name, up=None, deadline="10s", on_failure="tempfail", limits=NO_LIMIT, **options):
    """A ringpost whose one hook is this plugin: (ringpost, upstream)."""
    up = up or t.upstream()
    hook = {"type": "plugin", "file": so(t, name), "deadline": deadline, "on-failure": on_failure}
    if options:
        hook["options"] = {k.replace("_", "-"): str(v) for k, v in options.items()}
    rp = t.ringpost(up, listener={"hooks": ["h"], "limits": limits}, conf={"hooks": {"h": hook}})
    return rp, up


def later(t, at, verdict="pass", ms=150, **kw):
    return hooked(t, "later", at=at, ms=ms, verdict=verdict, **kw)


# ---- at once ----

@test(quick=True)
def one_of_a_pipelined_group_is_refused(t):
    """The bug class of 2004: the refused one is not passed, replies stay in order, the next message is clean."""
    rp, up = hooked(t, "decide", reject="evil@y.test", text="not him")
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"RCPT TO:<evil@y.test>\r\n" + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT + RCPT + b"DATA\r\n")
    u.send(OK_MAIL + OK_RCPT + OK_RCPT + GO)
    c.expect(OK_MAIL + OK_RCPT + b"550 5.7.1 not him\r\n" + OK_RCPT + GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    message(c, u)
    rp.record("transaction", result="accepted", rcpts=2, rcpts_refused=1)


@test(quick=True)
def sender_refused_with_all_that_is_behind(t):
    rp, up = hooked(t, "decide", reject="evil@x.test")
    c, u = opened(t, rp, up)
    c.send(b"MAIL FROM:<evil@x.test>\r\n" + RCPT + b"DATA\r\n" + MAIL)
    u.expect(MAIL)
    u.send(OK_MAIL)
    c.replies(b"550 5.7.1", b"503 5.5.1", b"503 5.5.1", OK_MAIL)


@test(quick=True)
def dropped(t):
    rp, up = hooked(t, "decide", drop="evil@y.test")
    c, u = opened(t, rp, up)
    c.send(MAIL + b"RCPT TO:<evil@y.test>\r\nNOOP\r\n")
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    c.reply(b"421 4.7.1")
    c.ended()
    u.gone()
    rp.record("session", reason="hook")


@test(quick=True)
def refused_at_the_end_of_data(t):
    """The end does not leave; the link is dropped, the next message has one like it."""
    rp, up = hooked(t, "decide", reject="b@y.test", at="end-of-data")
    c, u = opened(t, rp, up)
    data_open(c, u)
    c.send(BODY)
    c.reply(b"550 5.7.1")
    no_end_seen(u, u.rest())
    u = relinked(up, c, ehlo=EHLO)
    envelope(c, u, rcpt=b"RCPT TO:<other@y.test>\r\n")
    step(c, u, b"DATA\r\n", GO)
    step(c, u, BODY, TAKEN)


@test(quick=True)
def refused_at_the_last_chunk(t):
    """With BDAT the upstream forgets by RSET and stays."""
    rp, up = hooked(t, "decide", reject="b@y.test", at="end-of-data")
    c, u = opened(t, rp, up)
    envelope(c, u)
    step(c, u, b"BDAT 4\r\nabcd", b"250 2.0.0 4 octets\r\n")
    c.send(b"BDAT 4 LAST\r\nefgh")
    c.reply(b"550 5.7.1")
    u.expect(b"RSET\r\n").send(b"250 ok\r\n")
    step(c, u, b"NOOP\r\n", b"250 noop\r\n")


# ---- later ----

EVENTS = ("connect", "ehlo", "mail", "rcpt", "data", "end-of-data")


def reach(t, rp, up, point, body=BODY):
    """Goes up to the event; the last thing said is what the hook is asked about. (client, upstream or None)"""
    c = rp.client()
    if point == "connect":
        return c, None
    u = up.accept()
    greet(c, u)
    if point == "ehlo":
        c.send(EHLO)
        return c, u
    hello(c, u)
    lines = {"mail": MAIL, "rcpt": RCPT, "data": b"DATA\r\n"}
    for name, reply in (("mail", OK_MAIL), ("rcpt", OK_RCPT), ("data", GO)):
        if name == point:
            c.send(lines[name])
            return c, u
        step(c, u, lines[name], reply)
    c.send(body)
    u.expect(body[:-3])
    return c, u


@cases({e: e for e in EVENTS}, quick=True)
def passed_later(t, point):
    rp, up = later(t, point)
    c, u = reach(t, rp, up, point)
    if point == "connect":
        u = up.accept()
        greet(c, u)
        hello(c, u)
        message(c, u)
    elif point == "ehlo":
        u.expect(EHLO).send(ehlo_reply())
        c.reply(b"250")
        message(c, u)
    elif point == "end-of-data":
        u.quiet(0.05)
        u.expect(b".\r\n").send(TAKEN)
        c.expect(TAKEN)
    else:
        said = {"mail": (MAIL, OK_MAIL), "rcpt": (RCPT, OK_RCPT), "data": (b"DATA\r\n", GO)}[point]
        u.quiet(0.05)
        u.expect(said[0]).send(said[1])
        c.expect(said[1])
    c.close()


@cases({e: e for e in EVENTS}, quick=True)
def refused_later(t, point):
    rp, up = later(t, point, "reject", text="thought about it")
    c, u = reach(t, rp, up, point)
    c.expect(b"550 5.7.1 thought about it\r\n")
    if point == "connect":
        c.ended()
        up.nobody()
    elif point == "end-of-data":
        no_end_seen(u, u.rest())
        u = relinked(up, c, ehlo=EHLO)
    else:
        step(c, u, b"NOOP\r\n", b"250 noop\r\n")


@cases({e: e for e in EVENTS}, quick=True)
def dropped_later(t, point):
    rp, up = later(t, point, "drop")
    c, u = reach(t, rp, up, point)
    c.reply(b"421")
    c.ended()
    if u and point == "end-of-data":
        no_end_seen(u, u.rest())
    elif u:
        u.gone()


@cases({"%s-%s" % (e, o): (e, o) for e in EVENTS for o in ("accept", "tempfail", "reject")})
def deadline_passes(t, case):
    point, outcome = case
    rp, up = later(t, point, "never", deadline="300ms", on_failure=outcome)
    c, u = reach(t, rp, up, point)
    if outcome == "accept":
        if point == "connect":
            u = up.accept()
            greet(c, u)
        elif point == "ehlo":
            u.expect(EHLO)
        elif point == "end-of-data":
            u.expect(b".\r\n")
        else:
            u.expect({"mail": MAIL, "rcpt": RCPT, "data": b"DATA\r\n"}[point])
        if point != "connect":
            u.send(b"550 5.7.1 not here\r\n")
            c.reply(b"550 5.7.1")
    else:
        c.reply(b"451 4.3.0" if outcome == "tempfail" else b"554 5.3.0")
    if u:
        u.ignore_rest = True
    c.close()
    stats = rp.stop_now()
    t.equal(stats["hook_deadlines"], 1, "hook_deadlines")
    t.equal(stats["hooks_now"], 0, "hooks_now")


@test(quick=True)
def group_waits_for_the_one_in_the_middle(t):
    """All commands in one write; each RCPT has its own verdict; order is kept and nothing overtakes."""
    rp, up = later(t, "rcpt", ms=60)
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + RCPT + b"DATA\r\n")
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    u.expect(RCPT + RCPT + b"DATA\r\n").send(OK_RCPT + OK_RCPT + GO)
    c.expect(OK_RCPT + OK_RCPT + GO)
    c.send(BODY + MAIL)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)


LINES = {"short": RCPT, "long": b"RCPT TO:<b@y.test> ORCPT=rfc822;" + b"b" * 480 + b"@y.test\r\n"}


@cases({"%s-%s" % (n, e): (LINES[n], e) for n in LINES for e in ("more", "piece", "eof")}, quick=True)
def line_waits_alone(t, case):
    """Nothing stands behind it when it begins to wait; what comes then stays behind it."""
    line, behind = case
    rp, up = later(t, "rcpt", ms=200)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(line)
    c.settle()
    if behind == "eof":
        c.half_close()
        u.expect(line).send(OK_RCPT)
        c.expect(OK_RCPT)
        return
    c.send_split(RCPT + b"DATA\r\n", *([len(RCPT) + 3] if behind == "piece" else []))
    u.expect(line + RCPT + b"DATA\r\n").send(OK_RCPT + OK_RCPT + GO)
    c.expect(OK_RCPT + OK_RCPT + GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def lines_that_wait_take_no_waiting_input(t):
    """More sessions than there are cells for waiting input (`limits.memory`: 256 of 4 KiB); each has said one line."""
    srv = t.auto()
    hook = {"type": "plugin", "file": so(t, "later"), "deadline": "5m", "options": {"at": "rcpt", "verdict": "never"}}
    rp = t.ringpost(srv, listener={"hooks": ["h"], "limits": OPEN}, conf={"hooks": {"h": hook}, "limits": {"memory": "1m"}})
    waiting = [rp.client() for _ in range(300)]
    for c in waiting:
        c.reply(b"220")
        c.send(EHLO).reply(b"250")
        c.send(MAIL).reply(b"250")
        c.send(RCPT)
    other = rp.client()
    other.reply(b"220")
    other.send(b"NOOP\r\n").reply(b"250")
    t.equal([bytes(c.pending()) for c in waiting if c.pending()], [], "replies to those that wait")
    for c in waiting:
        c.reset()


@test(quick=True)
def others_do_not_wait(t):
    up = t.upstream()
    hook = {"type": "plugin", "file": so(t, "later"), "deadline": "20s", "options": {"at": "ehlo", "ms": "1500", "verdict": "pass"}}
    rp = t.ringpost(up, listener={"hooks": ["h"]}, conf={"hooks": {"h": hook}})
    waiting = [rp.client() for _ in range(20)]
    links = [up.accept() for _ in waiting]
    for c, u in zip(waiting, links):
        greet(c, u)
        c.send(EHLO)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    step(c, u, b"NOOP\r\n", b"250 at once\r\n")
    for u in links:
        u.quiet(0.01)
    for u in links:
        u.expect(EHLO).send(ehlo_reply())
    for c in waiting:
        c.reply(b"250")


@test(quick=True)
def answered_twice(t):
    rp, up = later(t, "rcpt", "twice", ms=50)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    step(c, u, RCPT, OK_RCPT)
    c.close()
    u.gone()
    t.until(lambda: rp.record("hook", text="second answer: 0") or True, "the plugin's line")
    t.check(rp.stop_now()["hook_late_answers"] >= 1, "the second answers are counted")


@cases({e: e for e in EVENTS}, quick=True)
def client_leaves_while_it_waits(t, point):
    rp, up = later(t, point, ms=400)
    c, u = reach(t, rp, up, point)
    time.sleep(0.1)
    c.reset()
    if u and point == "end-of-data":
        no_end_seen(u, u.rest())
    elif u:
        u.gone()
    time.sleep(0.5)
    stats = rp.stop_now()
    t.equal(stats["hooks_now"], 0, "hooks_now")
    t.equal(stats["sessions_now"], 0, "sessions_now")


@test(quick=True)
def half_closed_behind_the_dot(t):
    rp, up = later(t, "end-of-data", ms=300)
    c, u = reach(t, rp, up, "end-of-data")
    c.half_close()
    u.expect(b".\r\n").send(TAKEN)
    c.expect(TAKEN)
    c.ended()


@test(quick=True)
def upstream_lost_while_the_end_waits(t):
    rp, up = later(t, "end-of-data", ms=1500)
    c, u = reach(t, rp, up, "end-of-data")
    u.close()
    c.reply(b"451 4.4.2", seconds=1)
    rp.no_record("in-doubt")
    u = relinked(up, c, ehlo=EHLO)


@test(quick=True)
def upstream_refuses_while_the_end_waits(t):
    rp, up = later(t, "end-of-data", ms=1500)
    c, u = reach(t, rp, up, "end-of-data")
    u.send(b"552 5.3.4 too much\r\n")
    c.expect(b"552 5.3.4 too much\r\n")
    no_end_seen(u, u.rest())
    u = relinked(up, c, ehlo=EHLO)


@test(quick=True)
def end_in_pieces(t):
    """Wherever the octets of the end are cut: what is held is never an end to the upstream."""
    for cut in range(1, 6):
        t.round("cut %d before the end" % cut)
        rp, up = later(t, "end-of-data", ms=200)
        c, u = opened(t, rp, up)
        data_open(c, u)
        c.send(BODY[:-cut])
        c.settle()
        c.send(BODY[-cut:])
        time.sleep(0.1)
        seen = u.pending()
        t.check(not seen.endswith(b"\r\n.\r\n") and not seen.endswith(b"\r\n.\r"), "the end has left: %r" % seen)
        u.expect(BODY).send(TAKEN)
        c.expect(TAKEN)
        c.close()
        u.gone()


@test(quick=True)
def going_down_waits_for_the_verdict(t):
    rp, up = later(t, "end-of-data", ms=500)
    c, u = reach(t, rp, up, "end-of-data")
    rp.signal(signal.SIGTERM)
    u.expect(b".\r\n").send(TAKEN)
    c.expect(TAKEN)
    c.reply(b"421 4.3.2")
    c.ended()
    u.gone()


@test(quick=True)
def data_refused_is_a_rejected_message(t):
    """The record and the plugin hear of a rejection, by whom, not of a client that went."""
    rp, up = hooked(t, "decide", reject="b@y.test", at="data")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"DATA\r\n")
    c.reply(b"550 5.7.1")
    c.send(b"QUIT\r\n")
    u.expect(b"QUIT\r\n").send(b"221 bye\r\n")
    c.reply(b"221")
    rp.record("transaction", result="rejected", stage="data", reason="hook:h")


@test(quick=True)
def refused_last_chunk_is_the_end_of_its_transaction(t):
    """What is behind it begins anew: no reply of the old message for a RCPT without MAIL."""
    rp, up = hooked(t, "decide", reject="b@y.test", at="end-of-data")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 4 LAST\r\nefgh" + RCPT)
    c.replies(b"550 5.7.1", b"503 5.5.1")
    u.expect(b"RSET\r\n").send(b"250 ok\r\n")
    rp.record("transaction", result="rejected", reason="hook:h")


@test(quick=True)
def pending_last_chunk(t):
    rp, up = later(t, "end-of-data", ms=200)
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 4 LAST\r\nefgh")
    u.quiet(0.05)
    u.expect(b"BDAT 4 LAST\r\nefgh").send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def dropped_with_a_chunk(t):
    """421 is the last word; the octets of the chunk are nobody's."""
    rp, up = later(t, "end-of-data", "drop", ms=50)
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 4 LAST\r\nef")
    c.reply(b"421")
    c.ended()
    u.ignore_rest = True


# ---- bad plugins ----

@cases({"abi": ("bad-abi", "version 2 of the plugin interface"), "no_symbol": ("bad-symbol", "ringpost_plugin"), "open_fails": ("bad-open", "hook `h`"),
        "no_file": ("not-there", "No such file")}, quick=True)
def bad_plugin_is_refused_at_start(t, case):
    """The message has the place in the configuration; the exit code is that of bad configurations."""
    name, word = case
    conf = t.path("bad.yaml")
    with open(conf, "w") as f:
        f.write("listeners:\n  in: {bind: 127.0.0.1:0, upstream: mta, hooks: [h]}\n"
                "upstreams:\n  mta: {servers: 127.0.0.1:9}\n"
                "hooks:\n  h: {type: plugin, file: %s}\n" % so(t, name))
    for how in ("run", "check"):
        p = subprocess.run([os.path.join(t.build, "ringpost"), how, "-c", conf], capture_output=True, text=True, timeout=20 * t.slow)
        t.equal(p.returncode, 78, "exit code of %s" % how)
        t.check("bad.yaml:6:3: " in p.stderr and word in p.stderr, p.stderr)
