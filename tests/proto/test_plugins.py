# SPDX-License-Identifier: GPL-3.0-or-later
"""Plugins that change what passes, and plugins that block: on helper threads, where nobody else waits for them."""
import os
import signal
import time

from lib.core import cases, test
from lib.smtp import BODY, EHLO, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, envelope, message, opened, step

NO_LIMIT = {"soft-errors": 1000, "errors": 1000}


def so(t, name):
    return os.path.join(os.path.abspath(t.build), "tests/plugins", name + ".so")


def hook(t, plugin, options, **keys):
    """One of the configuration's hooks."""
    h = {"type": "plugin", "file": so(t, plugin), "options": {k.replace("_", "-"): str(v) for k, v in options.items()}}
    h.update({k.replace("_", "-"): v for k, v in keys.items()})
    return h


def with_hooks(t, hooks, conf=None, **kw):
    up = t.upstream()
    conf = dict(conf or {}, hooks=hooks)
    return t.ringpost(up, listener={"hooks": list(hooks), "limits": NO_LIMIT}, conf=conf, **kw), up


def counters(rp, name="h"):
    """The plugin's own, behind a clean end."""
    rp.stop_now()
    return rp.record("hook-counters", hook=name)


def threads(rp, named="helper-"):
    base, n = "/proc/%d/task" % rp.proc.pid, 0
    for task in os.listdir(base):
        with open(os.path.join(base, task, "comm")) as f:
            n += f.read().startswith(named)
    return n


def leave(*pairs):
    for c, u in pairs:
        c.close()
        u.gone()


# ---- changes ----

@cases({"at_once": {}, "later": {"later": "yes"}}, quick=True)
def command_changed(t, how):
    """Address and parameters of MAIL by one hook, of RCPT by the next one; the upstream sees the changed ones only."""
    rp, up = with_hooks(t, {
        "m": hook(t, "change", dict(at="mail", address="new@x.test", params="BODY=8BITMIME", **how), mode="stream"),
        "r": hook(t, "change", dict(at="rcpt", address="other@y.test", **how), mode="stream")})
    c, u = opened(t, rp, up)
    step_changed(c, u, MAIL, b"MAIL FROM:<new@x.test> BODY=8BITMIME\r\n", OK_MAIL)
    step_changed(c, u, RCPT, b"RCPT TO:<other@y.test>\r\n", OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    step(c, u, BODY, TAKEN)


def step_changed(c, u, said, seen, reply):
    c.send(said)
    u.expect(seen).send(reply)
    c.expect(reply)


@cases({"at_once": {}, "later": {"later": "yes"}}, quick=True)
def fields_on_top(t, how):
    """Before the first octet of the message, folded as it was given; the blank behind the colon is ours."""
    rp, up = with_hooks(t, {"h": hook(t, "change", dict(at="rcpt", insert="X-One: 1\n\tand more", **how), mode="stream")})
    c, u = opened(t, rp, up)
    data_open(c, u)
    c.send(BODY)
    u.expect(b"X-One: 1\r\n\tand more\r\n" + BODY).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def kept_message_changed(t):
    rp, up = with_hooks(t, {"h": hook(t, "change", {"at": "end-of-data", "change": "1 Subject: other", "add": "X-Last: 1"}, mode="hold-all")})
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT).send(OK_MAIL + OK_RCPT)
    c.replies(b"250", b"250", b"354")
    c.send(b"Subject: x\r\nTo: y\r\n\r\n..hello\r\n.\r\n")
    u.expect(b"DATA\r\n").send(GO)
    u.expect(b"Subject: other\r\nTo: y\r\nX-Last: 1\r\n\r\n..hello\r\n.\r\n").send(TAKEN)
    c.expect(TAKEN)


@cases({"kind": ("rcpt", {"odd": "kind"}, "not well-formed"), "form": ("mail", {"address": "no mailbox"}, "not well-formed"),
        "place": ("data", {"address": "n@x.test"}, "change-address is not possible here"),
        "mode": ("end-of-data", {"add": "X: 1"}, "add-header is not possible here")}, quick=True)
def change_that_cannot_be(t, case):
    """The hook has failed: on-failure decides, the log says why, and nothing is changed."""
    at, change, why = case
    rp, up = with_hooks(t, {"h": hook(t, "change", dict(at=at, **change), mode="hold-end", on_failure="accept")})
    c, u = opened(t, rp, up)
    message(c, u)
    leave((c, u))
    rec = rp.record("hook-warning", hook="h")
    t.check(why in rec["text"], "the warning says %r" % rec["text"])
    t.equal(rp.stop_now()["hook_failures"], 1, "hook_failures")


# ---- helper threads ----

@test(quick=True)
def others_go_on(t):
    """A plugin that sleeps: those who ask it wait, each for itself; everybody else is served at once."""
    rp, up = with_hooks(t, {"h": hook(t, "block", {"at": "rcpt", "ms": 1500})}, conf={"helpers": {"threads": 4}})
    asking = [opened(t, rp, up) for _ in range(4)]
    other = opened(t, rp, up)
    for c, u in asking:
        step(c, u, MAIL, OK_MAIL)
        c.send(RCPT)
    step(*other, b"NOOP\r\n", b"250 at once\r\n")
    for _, u in asking:
        u.quiet(0.01)
    for c, u in asking:
        u.expect(RCPT).send(OK_RCPT)
        c.expect(OK_RCPT)
        step(c, u, b"DATA\r\n", GO)
        step(c, u, BODY, TAKEN)
    leave(other, *asking)
    t.equal(rp.stop_now()["hook_overruns"], 0, "hook_overruns: no worker was held up")


@cases({v: v for v in ("pass", "reject", "tempfail")}, quick=True)
def its_verdict(t, verdict):
    for later in ({}, {"later": "yes"}):
        rp, up = with_hooks(t, {"h": hook(t, "block", dict(at="rcpt", ms=5, verdict=verdict, **later))})
        c, u = opened(t, rp, up)
        step(c, u, MAIL, OK_MAIL)
        if verdict == "pass":
            step(c, u, RCPT, OK_RCPT)
        else:
            c.send(RCPT)
            c.reply({"reject": b"550 5.7.1", "tempfail": b"450 4.7.1"}[verdict])
        leave((c, u))


@test(quick=True)
def threads_do_not_grow(t):
    """As many as configured, however many sessions wait; each session is over for the plugin, and was never on two of them."""
    rp, up = with_hooks(t, {"h": hook(t, "block", {"at": "rcpt,transaction,close", "ms": 5})}, conf={"helpers": {"threads": 3}})
    t.equal(threads(rp), 3, "helper threads at the start")
    pairs = [opened(t, rp, up) for _ in range(20)]
    for c, u in pairs:
        c.send(MAIL + RCPT + b"DATA\r\n")
        u.expect(MAIL).send(OK_MAIL)
        c.expect(OK_MAIL)
    t.equal(threads(rp), 3, "helper threads while questions wait")
    for c, u in pairs:
        u.expect(RCPT + b"DATA\r\n").send(OK_RCPT + GO)
        c.expect(OK_RCPT + GO)
        step(c, u, BODY, TAKEN)
    leave(*pairs)
    got = counters(rp)
    t.equal(got["sessions"], 20, "sessions")
    t.equal(got["closed"], 20, "closed")
    t.equal(got["twice"], 0, "a session on two threads")


@test(quick=True)
def too_many_questions(t):
    rp, up = with_hooks(t, {"h": hook(t, "block", {"at": "rcpt", "ms": 1000})}, conf={"helpers": {"threads": 1, "queue": 1}})
    pairs = []
    for i in range(3):
        c, u = opened(t, rp, up)
        step(c, u, MAIL, OK_MAIL)
        pairs.append((c, u))
    for c, u in pairs:
        c.send(RCPT)
        time.sleep(0.1)
    pairs[2][0].reply(b"451 4.3.0")
    for c, u in pairs[:2]:
        u.expect(RCPT).send(OK_RCPT)
        c.expect(OK_RCPT)
    rp.record("hook-warning", hook="h")
    leave(*pairs)
    stats = rp.stop_now()
    t.equal(stats["hook_helper_refusals"], 1, "hook_helper_refusals")
    t.equal(stats["hook_failures"], 1, "hook_failures")


@test(quick=True)
def client_leaves_while_it_sleeps(t):
    """The one that is with the plugin and the one that waits behind it: both end, for the plugin as well."""
    rp, up = with_hooks(t, {"h": hook(t, "block", {"at": "rcpt", "ms": 400})}, conf={"helpers": {"threads": 1}})
    pairs = [opened(t, rp, up) for _ in range(2)]
    for c, u in pairs:
        step(c, u, MAIL, OK_MAIL)
    for c, u in pairs:
        c.send(RCPT)
    time.sleep(0.1)
    for c, u in pairs:
        c.reset()
        u.gone()
    got = counters(rp)
    t.equal(got["sessions"], 2, "sessions")
    t.equal(got["closed"], 2, "closed")


@test(quick=True)
def it_sees_the_message(t):
    """In order and plain, however slow it is; END_OF_DATA comes behind the last piece."""
    lines = b"".join(b"%07d\r\n" % i for i in range(40000))
    rp, up = with_hooks(t, {"h": hook(t, "block", {"at": "body", "ms": 1, "pieces": "yes"}, mode="hold-end")}, conf={"helpers": {"threads": 2}})
    c, u = opened(t, rp, up)
    data_open(c, u)
    c.loud = u.loud = False
    u.ignore_rest = True
    c.send_async(b"..dot\r\n" + lines + b".\r\n")
    u.expect(b"..dot\r\n" + lines[:-2])
    c.reply(b"550 5.7.1 saw %d octets" % (len(b".dot\r\n") + len(lines)))
    c.close()


@cases({"tempfail": "tempfail", "accept": "accept"}, quick=True)
def stuck_while_the_message_comes(t, on_failure):
    """One that does not come back: the client is stopped for its deadline only, then `on-failure` decides; so for the next one."""
    lines = b"".join(b"%07d\r\n" % i for i in range(60000))
    rp, up = with_hooks(
        t, {"h": hook(t, "block", {"at": "body", "ms": 60000}, mode="hold-end", deadline="300ms", on_failure=on_failure)},
        conf={"shutdown-grace": "500ms", "helpers": {"threads": 2}})
    other = opened(t, rp, up)
    c, u = opened(t, rp, up)
    c.loud = u.loud = False
    data_open(c, u)
    c.send_async(lines + b".\r\n")
    if on_failure == "accept":
        message(*other, body=b"short\r\n.\r\n")
        u.expect(lines + b".\r\n").send(TAKEN)
        c.expect(TAKEN)
        c.join_sender()
        data_open(c, u)
        c.send_async(lines + b".\r\n")
        u.expect(lines + b".\r\n").send(TAKEN)
        c.expect(TAKEN)
    else:
        step(*other, b"NOOP\r\n", b"250 at once\r\n")
        u.expect(lines[:100000])  # what came with the end is not passed on any more
        c.reply(b"451 4.3.0")
    c.join_sender()
    u.ignore_rest = True
    c.close()
    leave(other)
    rp.record("hook-warning", hook="h")
    t.check(rp.stop_now()["hook_deadlines"] > 0, "hook_deadlines")


@test(quick=True)
def one_that_hangs_at_the_end(t):
    """It has what is left of the grace, then ringpost ends without it, and says so."""
    rp, up = with_hooks(t, {"h": hook(t, "block", {"at": "close", "ms": 60000})}, conf={"shutdown-grace": "500ms", "helpers": {"threads": 2}})
    c, u = opened(t, rp, up)
    leave((c, u))
    rp.stop_now()
    rec = rp.record("hook-error", hook="h")
    t.check("does not come back" in rec["text"], rec["text"])
    t.equal(rp.record("hook-counters", hook="h")["closed"], 0, "closed")


@test(quick=True)
def quit_waits_for_the_last_news(t):
    rp, up = with_hooks(t, {"h": hook(t, "block", {"at": "close", "ms": 1500})}, conf={"shutdown-grace": "10s", "helpers": {"threads": 1}})
    c, u = opened(t, rp, up)
    leave((c, u))
    rp.signal(signal.SIGQUIT)
    rp.wait_exit(8)
    t.equal(counters(rp)["closed"], 1, "closed")
