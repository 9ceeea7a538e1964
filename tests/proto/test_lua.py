# SPDX-License-Identifier: GPL-3.0-or-later
"""Lua scripts in the real binary: refused at start or judged by `check`, verdicts, sleep, changes, what stops a script."""
import base64
import os
import shutil
import subprocess

from lib.core import cases, test
from lib.smtp import BODY, EHLO, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, envelope, message, no_end_seen, opened, relinked, step

NO_LIMIT = {"soft-errors": 1000, "errors": 1000}


def put(t, text, mode=0o644):
    path = os.path.join(t.path("scripts"), "script.lua")
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.chmod(os.path.dirname(path), 0o755)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def scripted(t, text, workers=1, file=None, **hook):
    """A ringpost whose one hook is this script: (ringpost, upstream)."""
    up = t.upstream()
    hook = dict({"type": "lua", "file": file or put(t, text), "budget": "100k"}, **{k.replace("_", "-"): v for k, v in hook.items()})
    rp = t.ringpost(up, listener={"hooks": ["h"], "limits": NO_LIMIT}, conf={"hooks": {"h": hook}}, workers=workers)
    return rp, up


# ---- start ----

def judged(t, how, script):
    conf = t.path("script.yaml")
    with open(conf, "w") as f:
        f.write("listeners:\n  in: {bind: 127.0.0.1:0, upstream: mta, hooks: [h]}\n"
                "upstreams:\n  mta: {servers: 127.0.0.1:9}\n"
                "hooks:\n  h: {type: lua, file: %s}\n" % script)
    return subprocess.run([os.path.join(t.build, "ringpost"), how, "-c", conf], capture_output=True, text=True, timeout=60 * t.slow)


BROKEN = {
    "syntax": ("function mail(ev)\n\nreturn return\nend", "/script.lua:3: unexpected symbol near 'return'"),
    "no-event": ("x = 1", "/script.lua: defines no function for any event"),
    "options": ("function mail() end function open() return 'no list' end", "/script.lua: no list"),
    "sandbox": ("os.exit(0)", "/script.lua:1: attempt to index a nil value (global 'os')"),
    "endless": ("while true do end", "/script.lua:1: beyond its budget of instructions"),
}


@cases({name: name for name in BROKEN}, quick=True)
def refused_at_the_start(t, name):
    text, because = BROKEN[name]
    script = put(t, text)
    for how in ("run", "check"):
        p = judged(t, how, script)
        t.equal(p.returncode, 78, "exit code of %s" % how)
        t.check("script.yaml:6:3: hook `h`: " in p.stderr and because in p.stderr, p.stderr)


@test(quick=True)
def others_may_write_to_the_script(t):
    p = judged(t, "check", put(t, "function mail() end", 0o664))
    t.equal(p.returncode, 78, "exit code")
    t.check("its group or others may write to it (mode 0664)" in p.stderr, p.stderr)


@test(quick=True)
def check_takes_a_good_one(t):
    p = judged(t, "check", put(t, "function mail() end"))
    t.equal(p.returncode, 0, p.stderr)


# ---- verdicts ----

@test(quick=True)
def one_of_a_pipelined_group_is_refused(t):
    rp, up = scripted(t, """
function rcpt(ev)
  if ev.address == "evil@y.test" then return ringpost.reject{code = 554, enhanced = "5.7.2", text = "not " .. ev.address} end
end""")
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"RCPT TO:<evil@y.test>\r\n" + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT + RCPT + b"DATA\r\n")
    u.send(OK_MAIL + OK_RCPT + OK_RCPT + GO)
    c.expect(OK_MAIL + OK_RCPT + b"554 5.7.2 not evil@y.test\r\n" + OK_RCPT + GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    rp.record("transaction", result="accepted", rcpts=2, rcpts_refused=1)


@test(quick=True)
def every_event(t):
    """The order of a session, and what a session keeps between its events."""
    rp, up = scripted(t, """
local function note(ev) ev.user.seen = (ev.user.seen or "") .. ev.kind .. " " end
connect, ehlo, mail, rcpt, data, end_of_data, reset, transaction = note, note, note, note, note, note, note, note
function body(ev) ev.user.bytes = (ev.user.bytes or 0) + #ev.data end
function close(ev) note(ev) print(ev.session, ev.user.seen, ev.user.bytes) end""")
    c, u = opened(t, rp, up)
    message(c, u)
    step(c, u, b"RSET\r\n", b"250 ok\r\n")
    c.close()
    rec = rp.record("hook")
    words = rec["text"].split()
    t.equal(words[1:-1], "connect ehlo mail rcpt data end_of_data transaction reset close".split(), "events")
    t.equal(int(words[-1]), len(BODY) - 3, "octets of the body")
    t.equal(words[0], rp.record("session")["sid"], "the session's id, as the log has it")


@test(quick=True)
def a_large_message_comes_in_pieces(t):
    """A receive may bring 256 KB and more; who cannot go as fast is not shown more than 64 KB before the next look at him."""
    rp, up = scripted(t, """
local largest, bytes = 0, 0
function body(ev) largest = math.max(largest, #ev.data) bytes = bytes + #ev.data end
function close(ev) print(largest, bytes) end""")
    c, u = opened(t, rp, up)
    c.loud = u.loud = False
    data_open(c, u)
    octets = b"0123456789abcd\r\n" * (8 << 16)
    c.send_async(octets + b".\r\n")
    t.equal(u.recv_exact(len(octets) + 3), octets + b".\r\n", "the message by DATA")
    u.send(TAKEN)
    c.expect(TAKEN)
    envelope(c, u)
    c.send_async(b"BDAT %d LAST\r\n" % len(octets) + octets)
    u.expect(b"BDAT %d\r\n" % len(octets))
    t.equal(u.recv_exact(len(octets)), octets, "the message by BDAT")
    u.send(b"250 2.0.0 octets\r\n").expect(b"BDAT 0 LAST\r\n").send(TAKEN)
    c.expect(TAKEN)
    c.close()
    largest, seen = (int(n) for n in rp.record("hook")["text"].split())
    t.equal(seen, 2 * len(octets), "octets shown")
    t.check(largest <= 65536, "%d octets in one piece" % largest)


@test(quick=True)
def refused_by_the_body(t):
    rp, up = scripted(t, """
function data(ev) ev.user.bad = false end
function body(ev) if ev.data:find("hello", 1, true) then ev.user.bad = true end end
function end_of_data(ev) if ev.user.bad then return ringpost.reject("no greetings") end end""")
    c, u = opened(t, rp, up)
    data_open(c, u)
    c.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
    c.expect(b"550 5.7.1 no greetings\r\n")
    no_end_seen(u, u.rest())
    u = relinked(up, c, ehlo=EHLO)
    message(c, u, b"Subject: x\r\n\r\ngood day\r\n.\r\n")


# ---- sleep ----

@test(quick=True)
def answered_behind_a_sleep(t):
    """Only the session that asks waits; replies keep their order."""
    rp, up = scripted(t, """
function rcpt(ev)
  if ev.address:match("^slow") then ringpost.sleep(0.3) return ringpost.reject("slept on " .. ev.address) end
end""")
    c, u = opened(t, rp, up)
    c.send(MAIL + b"RCPT TO:<slow@y.test>\r\n" + RCPT)
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    other, v = opened(t, rp, up)
    message(other, v)
    c.expect(b"550 5.7.1 slept on slow@y.test\r\n")
    u.expect(RCPT).send(OK_RCPT)
    c.expect(OK_RCPT)


@test(quick=True)
def the_client_leaves_a_sleep(t):
    rp, up = scripted(t, "function rcpt(ev) ringpost.sleep(60) end")
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    u.quiet()
    c.reset()
    rp.record("session")
    t.equal(rp.stop_now()["hooks_now"], 0, "questions that wait")


@cases({o: o for o in ("accept", "tempfail", "reject")}, quick=True)
def deadline_of_a_sleep(t, outcome):
    rp, up = scripted(t, "function rcpt(ev) ringpost.sleep(60) end", deadline="200ms", on_failure=outcome)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    if outcome == "accept":
        u.expect(RCPT).send(OK_RCPT)
        c.expect(OK_RCPT)
    else:
        c.reply(b"451 4.3.0" if outcome == "tempfail" else b"554 5.3.0")


# ---- what stops a script ----

STOPPED = {
    "budget": ("while true do end", "beyond its budget of instructions"),
    "caught": ("while true do pcall(function() while true do end end) end", "beyond its budget of instructions"),
    "pattern": ("return ('a'):rep(5000):find('.-.-.-b')", "beyond its budget of instructions"),
    "memory": ("local t = {} for i = 1, 1 << 40 do t[i] = ('x'):rep(1000) .. i end", "not enough memory"),
    "error": ("return nil + 1", "attempt to perform arithmetic on a nil value"),
    "verdict": ("return true", "what it returned is no verdict: a boolean"),
    "yield": ("coroutine.yield()", "attempt to yield from outside a coroutine"),
}


@cases({name: name for name in STOPPED}, quick=True)
def stopped(t, name):
    """The call fails, the session and the state go on."""
    body, because = STOPPED[name]
    rp, up = scripted(t, "function rcpt(ev) if ev.address == 'bad@y.test' then %s end end" % body, memory="1m",
                      budget="100m" if name == "memory" else "100k")
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    for _ in range(2):
        c.send(b"RCPT TO:<bad@y.test>\r\n")
        c.reply(b"451 4.3.0")
        step(c, u, RCPT, OK_RCPT)
    rec = rp.record("hook-warning")
    t.check(because in rec["text"], "%r" % rec)
    c.close()


# ---- changes ----

@test(quick=True)
def the_envelope_is_changed(t):
    rp, up = scripted(t, """
function mail(ev) ev:set_address("bounce@x.test") end
function rcpt(ev) ev:set_address("new-" .. ev.address) ev:set_params("") ev:add_header("X-For", ev.address) end""")
    c, u = opened(t, rp, up)
    c.send(MAIL)
    u.expect(b"MAIL FROM:<bounce@x.test>\r\n").send(OK_MAIL)
    c.expect(OK_MAIL)
    c.send(b"RCPT TO:<b@y.test>\r\n")
    u.expect(b"RCPT TO:<new-b@y.test>\r\n").send(OK_RCPT)
    c.expect(OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    c.send(BODY)
    u.expect(b"X-For: b@y.test\r\n" + BODY).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def the_message_is_changed(t):
    rp, up = scripted(t, """
function end_of_data(ev)
  ev:add_header("X-First", "1")
  ev:append_header("X-Last", "2")
  ev:change_header("Subject", 1, "other")
  ev:delete_header("X-Secret", 1)
end""", mode="hold-all")
    c, u = opened(t, rp, up)
    envelope_held(c, u)
    c.send(b"Subject: x\r\nX-Secret: y\r\n\r\nhello\r\n.\r\n")
    take_held(c, u, b"X-First: 1\r\nSubject: other\r\nX-Last: 2\r\n\r\nhello\r\n.\r\n")


def envelope_held(c, u):
    """A message that is kept: DATA is answered by ringpost, the upstream hears of it behind the verdict."""
    envelope(c, u)
    c.send(b"DATA\r\n")
    c.reply(b"354")


def take_held(c, u, body):
    u.expect(b"DATA\r\n").send(GO)
    u.expect(body).send(TAKEN)
    c.expect(TAKEN)


# ---- the example ----

@test(quick=True)
def the_example_limits_recipients(t):
    example = os.path.join(os.path.dirname(__file__), "../../docs/examples/rcpt-limit.lua")
    path = put(t, "")
    shutil.copyfile(example, path)
    rp, up = scripted(t, "", file=path, mode="stream", options={"limit": 3, "senders": 100})
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    for _ in range(3):
        step(c, u, RCPT, OK_RCPT)
    c.send(RCPT)
    c.expect(b"450 4.7.1 too many recipients in a short time, try again later\r\n")
    step(c, u, b"DATA\r\n", GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def each_worker_has_its_own_state(t):
    rp, up = scripted(t, """
count = 0
function connect(ev) count = count + 1 return ringpost.reject(ev.worker .. "/" .. ringpost.workers .. " " .. count) end""", workers=2)
    seen = {}
    for _ in range(12):
        c = rp.client()
        line = c.line()
        worker, count = line.split()[2].split(b"/")[0], int(line.split()[3])
        t.equal(count, seen.get(worker, 0) + 1, "%r" % line)
        seen[worker] = count
        c.ended()
    t.equal(sum(seen.values()), 12, "connections")


@test(quick=True)
def a_refused_auth_changes_nothing(t):
    """Who the client is said to be is who the server has accepted."""
    def plain(name):
        return b"AUTH PLAIN " + base64.b64encode(b"\0" + name + b"\0secret") + b"\r\n"

    rp, up = scripted(t, "function auth(ev) if ev.identity == 'bob' then return ringpost.reject('not you') end end\n"
                         "function mail(ev) return ringpost.reject(tostring(ev.mechanism) .. ' ' .. tostring(ev.identity)) end")
    c, u = opened(t, rp, up, caps=(b"PIPELINING", b"AUTH PLAIN"))
    step(c, u, plain(b"dora"), b"535 5.7.8 no\r\n")
    c.send(MAIL)
    nobody = c.reply(b"550 5.7.1")
    t.check(b"PLAIN" not in nobody, "nobody yet: %r" % nobody)
    step(c, u, plain(b"alice"), b"235 2.7.0 fine\r\n")
    c.send(plain(b"bob"))
    c.expect(b"550 5.7.1 not you\r\n")
    c.send(MAIL)
    c.expect(b"550 5.7.1 PLAIN alice\r\n")
    step(c, u, plain(b"carol"), b"503 5.5.1 already\r\n")
    c.send(MAIL)
    c.expect(b"550 5.7.1 PLAIN alice\r\n")
