# SPDX-License-Identifier: GPL-3.0-or-later
"""What is acknowledged is there. The upstream Postfix goes away and comes back under load; so does ringpost. Each
message that Postfix takes has a queue id of its own, seen in its Received: line in the sink behind it, so messages
are counted as Postfix queued them, whatever happens behind."""
import re
import signal
import threading
import time

from kit import bodies, clients, servers
from kit.clients import port_of
from lib.core import Failure, test

QUEUE_ID = re.compile(rb"by postfix\d+\.test \(Postfix\) with \S+ id (\w+)")
OPEN = {"limits": {"per-client-sessions": 0}}


def queued(up):
    """{sender: queue ids} of all that this Postfix took, once all of it has gone on to the sink."""
    up.t.until(lambda: up.queued() == 0, "the queue of Postfix is empty: %s" % up.complaint(), 20)
    out = {}
    for m in up.sink.messages():
        ids = [i for i in QUEUE_ID.findall(m.content)]
        out.setdefault(m.sender.decode(), set()).add(ids[0])
    return out


class Load:
    """smtp-source, run after run, each run with a sender of its own."""
    SESSIONS = 4

    def __init__(self, t, port, threads=3):
        self.t, self.port, self.runs, self.over = t, port, {}, False
        self.threads = [threading.Thread(target=self.loop, args=(n,)) for n in range(threads)]
        for th in self.threads:
            th.start()

    def loop(self, n):
        source = clients.SmtpSource(self.t)
        for i in range(1000):
            if self.over:
                return
            sender = "t%d.r%d@load.test" % (n, i)
            try:
                self.runs[sender] = source.load(self.port, self.SESSIONS, 40, sender, "-l", "3000", "-d")
            except Failure as e:
                self.runs[sender] = ([], "hangs", str(e))
            if self.runs[sender][1] != 0:
                time.sleep(0.05)

    def taken(self):
        return sum(len(r[0]) for r in list(self.runs.values()))

    def stop(self):
        self.over = True
        for th in self.threads:
            th.join(60)
        self.t.note("%d runs, %d interrupted, %d messages acknowledged" % (
            len(self.runs), sum(1 for r in self.runs.values() if r[1] != 0), self.taken()))


@test(timeout=60, serial=True)
def postfix_restarts_under_smtp_source(t):
    up = servers.Postfix(t)
    rp = t.ringpost(up, workers=2, listener=OPEN, up={"retry-down": "100ms"})
    load = Load(t, port_of(rp))
    try:
        for _ in range(3):
            time.sleep(0.7)
            up.stop()
            time.sleep(0.3)
            up.start()
        before = load.taken()
        t.until(lambda: load.taken() > before + 40, "mail flows again after the last restart", 10)
    finally:
        load.stop()
    ids = queued(up)
    rp.sockets_back(10)
    rp.finish()  # now all its records are written
    hanging = [r[2] for r in load.runs.values() if r[1] == "hangs"]
    t.check(not hanging, "smtp-source hung: %s" % "".join(hanging[:1]))
    for sender, (said, status, out) in load.runs.items():
        there = {i.decode() for i in ids.get(sender, ())}
        told = {text.rpartition("queued as ")[2] for text in said}
        t.equal(len(told), len(said), "%s: different queue ids in the replies" % sender)
        t.check(told <= there, "%s: heard of %r, which Postfix did not queue" % (sender, sorted(told - there)))
        t.check(len(there - told) <= load.SESSIONS, "%s: %d queued, %d told" % (sender, len(there), len(told)))
        t.check(status != 0 or len(told) == len(there) == 40, "%s: %d of 40 acknowledged, %d queued, status %s" % (
            sender, len(told), len(there), status))
    t.check(any(r[1] != 0 for r in load.runs.values()), "no run was interrupted: the test shows nothing")
    total = sum(len(v) for v in ids.values())
    accepted = len(rp.records("transaction", result="accepted")) + len(rp.records("transaction", result="client-gone"))
    doubt = len(rp.records("in-doubt"))
    t.check(accepted <= total <= accepted + doubt, "%d queued, ringpost's records: %d accepted and %d in doubt" % (
        total, accepted, doubt))
    t.check(load.taken() <= accepted, "%d acknowledged to clients, %d accepted in the records" % (load.taken(), accepted))


@test(timeout=60, serial=True)
def postfix_client_gets_all_through(t):
    """A real queue before ringpost: through two restarts of the upstream and one of ringpost each message arrives, and a
    second time only where ringpost or its end left it in doubt."""
    port = servers.free_port()
    up = servers.Postfix(t)
    first = t.ringpost(up, bind="127.0.0.1:%d" % port, up={"retry-down": "100ms"})
    # The default is to send no more to a destination that fails for a while, and to give up on 421.
    program = clients.PostfixClient(t, {"default_destination_concurrency_failed_cohort_limit": "0",
                                        "smtp_destination_concurrency_limit": "5"})
    count = 250
    sender = threading.Thread(target=lambda: quiet(lambda: program.send(port, [
        ("%d@from.test" % i, ["to@rcpt.test"], bodies.USUAL["dots"]) for i in range(count)])))
    sender.start()
    t.until(lambda: up.count() > 20, "mail flows", 10)
    up.stop()
    time.sleep(0.3)
    up.start()
    t.until(lambda: up.count() > 60, "mail flows again", 20)
    first.finish()
    second = t.ringpost(up, bind="127.0.0.1:%d" % port, up={"retry-down": "100ms"})
    t.until(lambda: up.count() > 100, "mail flows through the next ringpost", 20)
    up.stop()
    up.start()
    t.until(lambda: program.instance.queued() == 0 and not sender.is_alive(), "the client's queue is empty: %s"
            % program.instance.complaint(), 30)
    ids = queued(up)
    t.equal(len(ids), count, "messages that arrived")
    second.finish()
    twice = sum(len(v) - 1 for v in ids.values())
    doubt = len(first.records("in-doubt")) + len(second.records("in-doubt"))
    t.check(twice <= doubt, "%d messages came twice, %d are in doubt in the log" % (twice, doubt))
    for m in up.messages():
        t.equal(servers.without_received(m.content), bodies.USUAL["dots"], "the body of %s" % m.sender)
    sent = program.instance.logged(r"status=bounced")
    t.equal(sent, [], "bounces")


def quiet(fn):
    try:
        fn()
    except Failure:
        pass  # deferred deliveries in between are what the test is about


@test(timeout=40, serial=True)
def ringpost_drains_under_smtp_source(t):
    """TERM in the middle of the load: what was acknowledged is there, nobody is cut off after its final dot."""
    up = servers.Sink(t)
    rp = t.ringpost(up, workers=2, listener=OPEN)
    load = Load(t, port_of(rp))
    try:
        t.until(lambda: up.count() > 200, "mail flows", 10)
        rp.signal(signal.SIGTERM)
        rp.wait_exit(10)
    finally:
        load.stop()
    rp.finish()
    there = {}
    for m in up.messages():
        there[m.sender.decode()] = there.get(m.sender.decode(), 0) + 1
    for sender, (said, status, out) in load.runs.items():
        t.check(len(said) <= there.get(sender, 0), "%s: %d acknowledged, %d stored" % (
            sender, len(said), there.get(sender, 0)))
        t.check(status != 0 or len(said) == there.get(sender) == 40, "%s: %d of 40 acknowledged, status %s" % (
            sender, len(said), status))
    accepted = len(rp.records("transaction", result="accepted")) + len(rp.records("transaction", result="client-gone"))
    t.equal(up.count(), accepted, "messages stored, against the records of accepted ones")
    t.equal(rp.records("in-doubt"), [], "in doubt")
