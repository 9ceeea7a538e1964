# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that are killed under load and come back: on-failure decides meanwhile and nothing else does, what was
answered 250 is at the server exactly once, what was refused is not there, and nothing that was not judged gets through
but by `accept`."""
import threading
import time

from kit import bodies, filters, servers
from kit.clients import attempt, port_of
from lib.core import Failure, cases

CONTENT = b"From: a@signed.test\r\n" + bodies.message("load", b".", b"..") + bodies.octets(20000, 11, b"abc. ")
WORDS = {"accept": (250, ""), "tempfail": (451, "4.3.0"), "reject": (554, "5.3.0")}
# Each lets all pass and leaves this in what it has judged; None: it has no hand in the message. `own`: the enhanced code
# of what it says itself while it starts (clamav-milter before it has found clamd).
OWN = {"clamav": "4.7.1", "clamav-hold-end": "4.7.1"}
KINDS = {
    "rspamd": (lambda t: filters.Rspamd(t), {"type": "milter", "mode": "hold-all"}, b"X-Mine: seen"),
    "opendkim": (lambda t: filters.OpenDkim(t), {"type": "milter", "mode": "hold-all"}, b"DKIM-Signature:"),
    "clamav": (lambda t: filters.ClamavMilter(t, header=True), {"type": "milter", "mode": "hold-all"}, b"X-Virus-Status:"),
    "clamav-hold-end": (lambda t: filters.ClamavMilter(t), {"type": "milter", "mode": "hold-end"}, None),
    "postgrey": (lambda t: filters.Postgrey(t, delay=-1), {"type": "policy"}, b"X-Greylist:"),
    "postfwd": (lambda t: filters.Postfwd(t), {"type": "policy"}, b"X-Postfwd:"),
}


class Load:
    """Messages one after the other in each thread, every one with a sender of its own."""

    THREADS = 4

    def __init__(self, t, port):
        self.t, self.port, self.over = t, port, False
        self.replies = {}  # by sender
        self.broken = []
        self.threads = [threading.Thread(target=self.loop, args=(n,)) for n in range(self.THREADS)]
        for th in self.threads:
            th.start()

    def loop(self, n):
        for i in range(20000):
            if self.over:
                return
            sender = "t%dm%d@signed.test" % (n, i)  # a number of its own would be none for postgrey
            try:
                self.replies[sender] = attempt(self.t, self.port, sender, ["header@rcpt.test"], CONTENT, (None, 9000)[i % 2])
            except (Failure, OSError) as e:
                self.broken.append("%s: %r" % (sender, e))
                return
            time.sleep(0.005)  # refusals come at once, and the filter needs the CPUs to start

    def count(self, code):
        return sum(r.code == code for r in list(self.replies.values()))

    def wait(self, code, count):
        before = self.count(code)
        self.t.until(lambda: self.broken or self.count(code) >= before + count,
                     "%d more replies with %d" % (count, code), 20)

    def stop(self):
        self.over = True
        for th in self.threads:
            th.join(60)
        self.t.check(not self.broken, "sessions that broke: %s" % self.broken[:3])


@cases({"%s-%s" % (kind, word): (kind, word) for kind in KINDS for word in WORDS}, timeout=60)
def killed(t, how):
    kind, word = how
    make, conf, mark = KINDS[kind]
    code = WORDS[word][0]
    up = servers.Sink(t)
    daemon = make(t)
    rp = t.ringpost(up, workers=2, listener={"hooks": ["it"], "limits": {"per-client-sessions": 0}},
                    conf={"hooks": {"it": dict(conf, endpoint=daemon.endpoint, **{"on-failure": word})}})
    load = Load(t, port_of(rp))
    try:
        for _ in range(2):
            load.wait(250, 15)
            daemon.kill()
            load.wait(code, load.THREADS + 1 if code == 250 else 1)  # more than were judged when it was killed
            daemon.start()
        load.wait(250, 15)
    finally:
        load.stop()
    check_replies(t, load, kind, word)
    check_mail(t, load, up, mark, word == "accept")
    daemon.finish()  # connections to it are kept for the next question
    t.check(rp.stop_now()["hook_failures"] > 0, "no failure was counted: the test shows nothing")


def check_replies(t, load, kind, word):
    code, enhanced = WORDS[word]
    for sender, reply in load.replies.items():
        said = reply.text.partition(" ")[0]
        t.check(reply.code == 250 or (reply.code, said) == (code, enhanced) or said == OWN.get(kind),
                "%s: on-failure is not what %r says" % (sender, reply))


def check_mail(t, load, up, mark, unjudged):
    there = up.by_sender(load.count(250), 10)
    t.equal(len(there), up.count(), "messages, each from another sender")
    for sender, reply in load.replies.items():
        t.equal(sender.encode() in there, reply.code == 250, "%s is at the server, after %r" % (sender, reply))
    for sender, m in there.items():
        t.equal(m.content.partition(b"\r\n\r\n")[2], CONTENT.partition(b"\r\n\r\n")[2], "the body of %r" % sender)
    if mark is None:
        return
    without = [s for s, m in there.items() if (b"\r\n" + m.content).count(b"\r\n" + mark) != 1]
    if unjudged:
        t.check(0 < len(without) < len(there), "%d of %d were not judged" % (len(without), len(there)))
    else:
        t.equal(without, [], "messages that came through without having been judged")
