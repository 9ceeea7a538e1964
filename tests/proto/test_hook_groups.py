# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks that object in the middle of a pipelined group, at every event, at once and later, in every mode: replies stay in order, nothing
of what was refused reaches the server, and the message behind it has an envelope of its own (the bug class of 2004: a refusal that the
proxy remembered and the server did not)."""
from lib.core import cases, test
from test_hold import put

NO_LIMIT = {"soft-errors": 1000, "errors": 1000}
FIRST = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nRCPT TO:<c@y.test>\r\n"
SECOND = b"MAIL FROM:<second@x.test>\r\nRCPT TO:<d@y.test>\r\n"
BDAT = b"BDAT 3\r\nhelBDAT 2 LAST\r\nlo"
BDAT2 = b"BDAT 5 LAST\r\nworld"

# What stands before the first message, and the replies to: that, MAIL, the two RCPTs, its chunks. "-" is the refusal.
EVENTS = {
    "ehlo": (b"EHLO again.test\r\n", ["-"], ["250", "250", "250", "250", "250"], [b"<b@y.test>", b"<c@y.test>"]),
    "auth": (b"AUTH PLAIN AGEAYg==\r\n", ["-"], ["250", "250", "250", "250", "250"], [b"<b@y.test>", b"<c@y.test>"]),
    "mail": (b"", [], ["-", "503", "503", "503", "503"], None),
    "rcpt": (b"", [], ["250", "-", "250", "250", "250"], [b"<c@y.test>"]),
    "rcpt-all": (b"", [], ["250", "-", "-", "554", "554"], None),
    "data": (b"", [], ["250", "250", "250", "-", "-"], None),
    "end_of_data": (b"", [], ["250", "250", "250", "250", "-"], None),
}

SCRIPT = """
local function objects(ev)
  %(wait)s
  return ringpost.%(verdict)s{code = %(code)d, text = "no " .. ev.kind}
end
function %(event)s(ev)
  ev.user.times = (ev.user.times or 0) + 1
  if %(when)s then return objects(ev) end
end"""


def script(event, verdict, later):
    name = event.replace("-all", "")
    when = {"ehlo": "ev.user.times == 2", "rcpt": "ev.address == 'b@y.test'", "rcpt-all": "ev.address ~= 'd@y.test'"}.get(event, "ev.user.times == 1")
    return SCRIPT % {"event": name, "when": when, "verdict": verdict, "code": 577 if verdict == "reject" else 477, "wait": "ringpost.sleep(0.1)" if later else ""}


CASES = {"%s-%s-%s-%s" % (e, v, "later" if l else "at-once", m): (e, v, l, m)
         for e in EVENTS for v in ("reject", "tempfail") for l in (False, True) for m in ("hold-end", "hold-all")}


def codes(c, n):
    return [c.reply()[:3].decode() for _ in range(n)]


@cases(CASES, quick=True)
def refused_in_a_group(t, case):
    event, verdict, later, mode = case
    srv = t.auto()
    hook = {"type": "lua", "file": put(t, "group", script(event, verdict, later)), "mode": mode}
    rp = t.ringpost(srv, listener={"hooks": ["h"], "limits": NO_LIMIT, "extensions": {"AUTH": "pass"}}, conf={"hooks": {"h": hook}})
    c = rp.client()
    c.reply(b"220")
    c.send(b"EHLO client.test\r\n")
    c.reply(b"250")
    before, first, replies, rcpts = EVENTS[event]
    # A transaction without a recipient is still one, here as with every server.
    between = b"RSET\r\n" if event == "rcpt-all" else b"NOOP\r\n"
    c.send(before + FIRST + BDAT + between + SECOND + BDAT2 + b"QUIT\r\n")
    no = "577" if verdict == "reject" else "477"
    want = first + replies + ["250"] + ["250"] * 3 + ["221"]
    t.equal(codes(c, len(want)), [no if w == "-" else w for w in want], "the replies")
    c.ended()
    t.until(lambda: len(srv.messages) >= (2 if rcpts else 1), "the messages")
    got = [(m.sender[5:].split(b">")[0] + b">", [r[3:] for r in m.rcpts], bytes(m.body)) for m in srv.messages]
    expected = [(b"<second@x.test>", [b"<d@y.test>"], b"world")]
    if rcpts:
        expected.insert(0, (b"<a@x.test>", rcpts, b"hello"))
    t.equal(got, expected, "what the server took")


@test(quick=True)
def refused_when_it_connects(t):
    """With a client that talks at once: one reply, nothing of the group is read."""
    srv = t.auto()
    hook = {"type": "lua", "file": put(t, "group", "function connect(ev) ringpost.sleep(0.1) return ringpost.reject('not you') end")}
    rp = t.ringpost(srv, listener={"hooks": ["h"]}, conf={"hooks": {"h": hook}})
    c = rp.client()
    c.send(b"EHLO a\r\n" + FIRST + BDAT)
    c.expect(b"550 5.7.1 not you\r\n")
    c.gone()
    t.equal((srv.connections, srv.messages), (0, []), "what the server has seen")
