# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks of every kind on one listener, each of which misbehaves at random, while clients come, go and break off.
Whatever happens: a client that was told so has its message delivered, nobody's is delivered twice or without a
word, and in the end nothing is left open. The seed is in the name; the order of events is the machine's."""
import os
import random
import re
import threading
import time

from lib.core import Failure, cases, test
from lib.milter import CLOSE, LEADING_SPACE, NO_EOH, NO_HELO, SILENT, SKIP, Milter, packet, reply
from lib.policy import CLOSE as POLICY_CLOSE
from lib.policy import HOLD, RESET, PolicyServer
from lib.smtp import EHLO, MAIL, RCPT

SECONDS = 6
CLIENTS = 8
LIMITS = {"soft-errors": 100000, "errors": 100000, "per-client-sessions": 0}
# One answer of so many is an odd one.
FEW = 40
CHANGES = [reply("h", "X-New", " 1"), reply("i", "X-Top", " 1\n 2", index=0), reply("m", "Subject", " c", index=1), packet("b", b"new\r\n"),
           reply("m", "X-Two", "", index=1), reply("+", "<d@y.test>"), reply("-", "<b@y.test>"), reply("e", "<c@x.test>"),
           reply("q", "a virus"), packet("p")]
ODD = [packet(x) for x in "artd4fsZ"] + [packet("p") + packet("c"), packet("c") * 2, reply("y", "451 4.7.1 later"), reply("y", "550-a\r\n550 b"),
                                         reply("y", "421 bye"), b"\0\0\0\0", packet("h", b"A\0b\0"), CLOSE, SILENT]
POLICIES = ["REJECT no", "DEFER_IF_PERMIT later", "PREPEND X-P: y", "DISCARD", "421 bye", "HOLD", POLICY_CLOSE, RESET, HOLD, b"\0\n",
            b"action=DUNNO\n\naction=DUNNO\n\n"]
SCRIPT = """
local n = 0
local function some()
  n = n + 1
  if n % 7 == 0 then ringpost.sleep(0.002) end
  if n % 331 == 0 then error('odd') end
  if n % 329 == 0 then return ringpost.tempfail('script') end
  if n % 997 == 0 then while true do end end
end
connect, ehlo, mail, rcpt, data, end_of_data = some, some, some, some, some, some
function body() n = n + 1 if n % 1041 == 0 then error('odd') end end
function close() end
"""


def odd_filter(t, rnd, **kw):
    def at(letter):
        def say(k, payload):
            if rnd.randrange(FEW) == 0:
                return rnd.choice(ODD)
            if letter != "E":
                return packet("c")
            return b"".join(rnd.choice(CHANGES) for _ in range(rnd.randrange(4))) + packet(rnd.choice("ca"))
        return say
    return Milter(t, say={letter: at(letter) for letter in "CHMRTLNBE"}, loud=False, **kw)


def all_kinds(t, rnd, modes):
    one, two = odd_filter(t, rnd), odd_filter(t, rnd, protocol=rnd.choice([SKIP | LEADING_SPACE, 0, NO_HELO | NO_EOH]))
    policy = PolicyServer(t, lambda r: rnd.choice(POLICIES) if rnd.randrange(FEW) == 0 else "DUNNO")
    script = t.path("script.lua")
    with open(script, "w") as f:
        f.write(SCRIPT)
    os.chmod(script, 0o644)
    plugins = os.path.join(os.path.abspath(t.build), "tests/plugins")
    soon = {"deadline": "200ms", "on-failure": "accept"}
    return {
        "block": dict(soon, type="plugin", file=plugins + "/block.so", mode=modes[0],
                      options={"at": "rcpt,body,end-of-data,transaction,close", "ms": "2", "verdict": "pass"}),
        "one": {"type": "milter", "endpoint": one.address, "mode": modes[0], "deadline": "300ms", "content-deadline": "500ms",
                "connections": 4, "queue": 3, "quarantine": "discard"},
        "script": dict(soon, type="lua", file=script, mode=modes[1]),
        "later": dict(soon, type="plugin", file=plugins + "/later.so", options={"at": "mail,rcpt", "ms": "3", "verdict": "twice"}),
        "policy": dict(soon, type="policy", endpoint=policy.address, events=["connect", "mail", "rcpt", "data"], connections=2),
        "two": dict(soon, **{"type": "milter", "endpoint": two.address, "mode": modes[1], "content-deadline": "500ms"}),
    }


class Client:
    """Sends messages until the time is over; `took` are those that it was told were taken, `unsure` those whose reply it
    did not wait for."""

    def __init__(self, rp, rnd, number, end):
        self.rp, self.rnd, self.number, self.end = rp, rnd, number, end
        self.took, self.unsure, self.serial = [], [], 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while time.monotonic() < self.end:
            try:
                self.session()
            except (Failure, OSError):
                pass  # its connection has ended: that is what happens here

    def session(self):
        c = self.rp.client()
        c.loud = False
        try:
            if c.reply().startswith(b"220") and self.hello(c):
                while self.rnd.randrange(6) > 0 and self.message(c):
                    pass
        finally:
            c.close()

    def hello(self, c):
        for _ in range(5):
            c.send(EHLO)
            if c.reply().startswith(b"250"):
                return True
        return False

    def message(self, c):
        """False: the session is over."""
        if self.rnd.randrange(20) == 0:
            c.send(MAIL + RCPT)
            c.reset()
            return False
        c.send(MAIL + RCPT + b"DATA\r\n")
        last = [c.reply() for _ in range(3)][2]
        if not last.startswith(b"354"):
            c.send(b"RSET\r\n")
            return c.reply().startswith(b"250")
        self.serial += 1
        name = b"%d-%d" % (self.number, self.serial)
        text = b"Subject: s\r\nX-Serial: %s\r\nX-Two: 2\r\n\r\n" % name + b"%s\r\n" % (b"y" * 70) * self.rnd.choice([1, 50, 6000]) + b".\r\n"
        if self.rnd.randrange(20) == 0:
            c.send(text[:len(text) // 2])
            c.reset()
            return False
        self.unsure.append(name)
        c.send(text)
        if self.rnd.randrange(20) == 0:
            c.reset()
            return False
        final = c.reply()
        self.unsure.pop()
        if final.startswith(b"250 2.0.0 taken as"):
            self.took.append(name)
        return not final.startswith(b"421")


@cases({"hold-end": (1, "hold-end", "hold-end"), "hold-all": (2, "hold-all", "hold-all"), "mixed": (3, "hold-end", "hold-all")}, serial=True, timeout=120)
def disorder(t, how):
    seed, modes = how[0], how[1:]
    server = t.auto()
    hooks = all_kinds(t, random.Random(seed), modes)
    rp = t.ringpost(server, workers=2, listener={"hooks": list(hooks), "limits": LIMITS},
                    conf={"hooks": hooks, "hold": {"memory": "4m", "spill": "16k", "disk": "20m", "message": "600k"}})
    rp.leaks_allowed = True  # of connections to hooks, which the process keeps until it ends
    end = time.monotonic() + SECONDS
    clients = [Client(rp, random.Random(seed * 100 + n), n, end) for n in range(CLIENTS)]
    for c in clients:
        c.thread.join()
    t.check(rp.alive(), "ringpost runs")
    stop = rp.stop_now()
    got = sorted(m.group(1) for x in server.messages for m in [re.search(rb"X-Serial: (\S+)\r", x.body)] if m)
    took, unsure = [{name for c in clients for name in part(c)} for part in (lambda c: c.took, lambda c: c.unsure)]
    t.equal(got, sorted(set(got)), "messages that the server took, each once")
    t.equal(took - set(got), set(), "messages that were lost")
    t.equal(set(got) - took - unsure, set(), "messages that nobody was told of")
    t.check(len(took) > 20, "only %d messages passed" % len(took))
    t.equal([stop[name] for name in ("hooks_now", "milters_now", "held_now")], [0, 0, 0], "what is left")
