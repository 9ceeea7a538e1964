#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost by itself on loopback: what hooks cost.

cost     CPU time of the ringpost process per message, for no hook and for each kind of hook: 4 KB messages on kept
         connections, lock-step and pipelined. Each row of each round is a fresh ringpost (one worker on CPU 0); sink, blast
         and the policy server are on CPU 1, and their CPU time is not counted. Rounds are interleaved. The ratio is taken
         within each round, so drift of the machine cancels; shown are medians with their range.
pending  A plugin that takes its time over one session in a thousand: latencies of the others, with and without, by turns.
         Then many sessions that all wait at once: memory of each, threads, what became of them.

Times are to be read with a quiet machine only. What is no time (all answered, nobody refused, hooks were asked, threads) is
checked, and status 1 when it is not so.
"""
import argparse
import json
import multiprocessing
import os
import resource
import select
import selectors
import signal
import socket
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import run

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLE = os.path.join(HERE, "..", "docs", "examples", "rcpt-limit.lua")
PATTERNS = (("lock-step", ""), ("pipelined", " --pipelining"))
LOAD = "--connections 64 --size 4k --from s%c@blast.example"
FAILINGS = ("hook_failures", "hook_deadlines", "hook_refusals", "hook_late_answers")

SCRIPTS = {
    "rcpt": "function rcpt(ev) end",
    "envelope": "\n".join("function %s(ev) end" % name for name in (
        "connect", "ehlo", "mail", "rcpt", "data", "end_of_data", "reset", "transaction", "close")),
    "end": "function end_of_data(ev) end",
}

wrong = []  # what is not as it has to be, times apart


def check(holds, what):
    if not holds:
        wrong.append(what)
        print("WRONG: " + what, flush=True)


# ---- the process ----

def cpu_ns(pid):
    """User and system time, to the nanosecond where the kernel says (/proc/PID/stat: to the tick)."""
    total = 0
    for task in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/schedstat" % (pid, task)) as f:
                total += int(f.read().split()[0])
        except FileNotFoundError:
            return int(run.cpu_s(pid) * 1e9)
    return total


def threads(pid):
    return len(os.listdir("/proc/%d/task" % pid))


# ---- cost: the rows ----

class PolicyServer:
    """Says DUNNO to every question, in a process of its own on CPU 1."""

    def __init__(self):
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.sock.getsockname()[1]
        self.asked = multiprocessing.Value("q", 0, lock=False)
        self.process = multiprocessing.Process(target=self.serve, daemon=True)
        self.process.start()

    def serve(self):
        os.sched_setaffinity(0, {1})
        sel = selectors.DefaultSelector()
        sel.register(self.sock, selectors.EVENT_READ)
        rest = {}
        while True:
            for key, _ in sel.select():
                s = key.fileobj
                if s is self.sock:
                    s, _ = s.accept()
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sel.register(s, selectors.EVENT_READ)
                    rest[s] = b""
                    continue
                more = s.recv(65536)
                if not more:
                    sel.unregister(s)
                    del rest[s]
                    s.close()
                    continue
                data = rest[s] + more
                n = data.count(b"\n\n")
                rest[s] = data[data.rfind(b"\n\n") + 2:] if n else data
                self.asked.value += n
                s.sendall(b"action=DUNNO\n\n" * n)

    def stop(self):
        self.process.terminate()
        self.process.join()
        self.sock.close()


class Kinds:
    """The rows of the table: what a listener's hooks are, as YAML."""

    def __init__(self, build, scripts, policy_port):
        self.plugins, self.scripts, self.policy_port = os.path.abspath(build) + "/tests/plugins", scripts, policy_port

    def plugin(self, name, mode, options="{}"):
        return "{type: plugin, file: '%s/%s.so', mode: %s, deadline: 60s, options: %s}" % (self.plugins, name, mode, options)

    def lua(self, name, mode, options="{}"):
        path = EXAMPLE if name == "example" else os.path.join(self.scripts, name + ".lua")
        return "{type: lua, file: '%s', mode: %s, options: %s}" % (os.path.abspath(path), mode, options)

    def rows(self):
        return (
            ("no hook", None),
            ("rules", run.RULES),
            ("C plugin, watches envelope", self.plugin("observe", "hold-end", "{quiet: yes}")),
            ("C plugin, rcpt", self.plugin("decide-rcpt", "stream", "{reject: nobody@sink.example}")),
            ("C plugin, rcpt, own thread", self.plugin("later", "stream", "{at: rcpt, ms: '0'}")),
            ("Lua, rcpt", self.lua("rcpt", "stream")),
            ("Lua, rcpt-limit.lua", self.lua("example", "stream", "{limit: '1000000000'}")),
            ("Lua, envelope", self.lua("envelope", "hold-end")),
            ("C plugin, body, hold-end", self.plugin("octets", "hold-end")),
            ("Lua, end_of_data, hold-all", self.lua("end", "hold-all")),
            ("policy, rcpt", "{type: policy, endpoint: '127.0.0.1:%d', events: rcpt}" % self.policy_port),
        )


def measure(build, hook, messages):
    """Nanoseconds and messages a second of each pattern, from one ringpost; its last records."""
    stand = run.Stand(build, hooks={"h": hook} if hook else {})
    out, total = {}, 0
    for name, arguments in PATTERNS:
        run.blast(build, stand.port, LOAD + arguments, messages // 10)  # warm
        before = cpu_ns(stand.proxy.pid)
        report = run.blast(build, stand.port, LOAD + arguments, messages)
        out[name] = ((cpu_ns(stand.proxy.pid) - before) / messages, report["messages_per_second"])
        total += messages + messages // 10
    stop = stand.stop()
    check(stop["messages_accepted"] == total, "%d of %d messages were accepted" % (stop["messages_accepted"], total))
    for counter in FAILINGS:
        check(stop[counter] == 0, "%s = %d" % (counter, stop[counter]))
    counters = next((r for r in stand.records if r["ev"] == "hook-counters"), {})
    for counter in ("messages", "asked"):  # of the plugins octets and later
        check(counters.get(counter, total) == total, "%s = %s of %d" % (counter, counters.get(counter), total))
    return out


def put_scripts(directory):
    for name, text in SCRIPTS.items():
        path = os.path.join(directory, name + ".lua")
        with open(path, "w") as f:
            f.write(text + "\n")
        os.chmod(path, 0o644)


def spread(values, form):
    """Median and range."""
    return (form + " (" + form + ".." + form + ")") % (statistics.median(values), min(values), max(values))


def cost(a):
    policy, results, asked = PolicyServer(), {}, 0
    with run.tempfile.TemporaryDirectory(prefix="ringpost-bench.") as scripts:
        os.chmod(scripts, 0o755)
        put_scripts(scripts)
        rows = Kinds(a.build, scripts, policy.port).rows()
        for _ in range(a.rounds):  # interleaved: drift of the machine hits all rows alike
            for name, hook in rows:
                results.setdefault(name, []).append(measure(a.build, hook, a.messages))
    asked = policy.asked.value
    policy.stop()
    total = a.rounds * len(PATTERNS) * (a.messages + a.messages // 10)
    check(asked == total, "the policy server was asked %d of %d times" % (asked, total))
    print_cost(a, results)
    return {name: [{p: {"cpu_us": ns / 1000, "rate": rate} for p, (ns, rate) in r.items()} for r in runs]
            for name, runs in results.items()}


def print_cost(a, results):
    print("cost: CPU us of ringpost per message of 4 KB, and the ratio to no hook; medians (range) of %d rounds of %d messages"
          % (a.rounds, a.messages))
    print("%-28s" % "" + "".join("%-24s%-24s%7s   " % (p, "ratio", "msg/s") for p, _ in PATTERNS).rstrip())
    for name, runs in results.items():
        line = "%-28s" % name
        for p, _ in PATTERNS:
            us = [r[p][0] / 1000 for r in runs]
            ratios = [r[p][0] / none[p][0] for r, none in zip(runs, results["no hook"])]
            line += "%-24s%-24s%7.0f   " % (spread(us, "%.2f"), spread(ratios, "%.3f"), statistics.median(r[p][1] for r in runs))
        print(line.rstrip(), flush=True)


# ---- pending: the others ----

def slice_of_load(a, pool, stand, most):
    """Others by schedule and one in a thousand beside them. Their report, that of the one, the most threads."""
    ones = max(int(a.rate * a.seconds / 1000), 1)
    slow = pool.submit(run.blast, a.build, stand.port, "--connections 1000 --per-connection 1 --size 4k --rate %g "
                       "--rcpt slow@sink.example" % (a.rate / 1000), ones)
    fast = pool.submit(run.blast, a.build, stand.port, "--connections 1000 --per-connection 1 --size 4k --rate %g" % a.rate,
                       int(a.rate * a.seconds))
    while not (slow.done() and fast.done()):
        most = max(most, threads(stand.proxy.pid))
        time.sleep(0.05)
    check(slow.result()["accepted"] == ones, "of the slow ones %d of %d were accepted" % (slow.result()["accepted"], ones))
    return fast.result(), slow.result(), most


def others(a):
    kinds = Kinds(a.build, "", 0)
    stands, results, first, most = {}, {"without": [], "with": []}, {}, {}
    slow = []
    for name, ms in (("without", 0), ("with", a.slow_ms)):
        stands[name] = run.Stand(a.build, hooks={"h": kinds.plugin(
            "later", "stream", "{at: rcpt, only: slow@sink.example, ms: '%d'}" % ms)})
        run.blast(a.build, stands[name].port, "--connections 64 --per-connection 1 --size 4k", int(a.rate))  # warm
        first[name] = most[name] = threads(stands[name].proxy.pid)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(a.slices):
            for name, stand in stands.items():
                fast, one, most[name] = slice_of_load(a, pool, stand, most[name])
                results[name].append(fast["latency_us"])
                if name == "with":
                    slow.append(one["latency_us"])
    asked = int(a.rate * a.seconds / 1000) or 1
    for name, stand in stands.items():
        stop = stand.stop()
        for counter in FAILINGS:
            check(stop[counter] == 0, "%s: %s = %d" % (name, counter, stop[counter]))
        counters = next(r for r in stand.records if r["ev"] == "hook-counters")
        check(counters["asked"] == asked * a.slices,
              "%s: %d questions waited, not %d" % (name, counters["asked"], asked * a.slices))
        check(most[name] == first[name], "%s: %d threads, then %d" % (name, first[name], most[name]))
    print_others(a, results, slow, first, most)
    return {"latency_us": results, "slow_latency_us": slow, "threads_before": first, "threads_most": most}


def print_others(a, results, slow, first, most):
    print("pending: 1 of 1,000 sessions waits %.1f s at RCPT; the others, %g a second by schedule, a new connection each: us, "
          "medians (range) of %d slices of %g s" % (a.slow_ms / 1000, a.rate, a.slices, a.seconds))
    points = ("p50", "p90", "p99", "p999", "max")
    print("%-10s" % "" + "".join("%-24s" % p for p in points) + "threads before, most")
    for name, slices in results.items():
        print("%-10s" % name + "".join("%-24s" % spread([s[p] for s in slices], "%.0f") for p in points) +
              "%d, %d" % (first[name], most[name]))
    print("the ones that wait: p50 %.2f s, longest %.2f s" % (
        statistics.median(s["p50"] for s in slow) / 1e6, max(s["max"] for s in slow) / 1e6), flush=True)


# ---- pending: all at once ----

class Crowd:
    """Sessions of one thread; commands to all of them, then a reply of each."""

    BATCH = 1000  # connections that may wait to be accepted

    def __init__(self, port):
        self.port, self.socks, self.bad = port, [], []

    def grow(self, n):
        """n more sessions, each behind its EHLO. 5,000 of each source address: ports are few."""
        end = len(self.socks) + n
        while len(self.socks) < end:
            fresh = []
            for i in range(len(self.socks), min(end, len(self.socks) + self.BATCH)):
                s = socket.socket()
                s.bind(("127.0.0.%d" % (2 + i // 5000), 0))
                s.connect(("127.0.0.1", self.port))
                s.settimeout(60)
                fresh.append(s)
            self.socks += fresh
            self.replies(b"2", fresh)
            self.say(b"EHLO idle.example\r\n", fresh)
            self.replies(b"2", fresh)

    def say(self, line, socks=None):
        for s in self.socks if socks is None else socks:
            try:
                s.send(line)
            except OSError:
                pass  # replies() sees why

    def replies(self, good, socks=None):
        """How many were as they should be; the others go to .bad."""
        n = 0
        for s in self.socks if socks is None else socks:
            said = b""
            try:
                while said[-1:] != b"\n" or said.split(b"\r\n")[-2][3:4] == b"-":
                    more = s.recv(4096)
                    if not more:
                        break
                    said += more
            except OSError as e:
                said = str(e).encode()
            if said.startswith(good):
                n += 1
            else:
                self.bad.append(said)
        return n

    def nothing_said(self):
        """The oldest question, which is answered first, is still open."""
        poll = select.poll()
        poll.register(self.socks[0], select.POLLIN)
        return not poll.poll(0)


def settled(pid):
    """Waits until the process does next to nothing; its clocks tick on."""
    for _ in range(100):
        before = cpu_ns(pid)
        time.sleep(0.2)
        if cpu_ns(pid) - before < 2e6:
            return


def sessions_possible():
    """Two descriptors each in ringpost, and some for itself."""
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2


def all_at_once(a):
    """Anonymous memory of each session: idle, with a transaction, with a question that waits."""
    n, kinds = min(a.sessions, sessions_possible()), Kinds(a.build, "", 0)
    if n < a.sessions:
        print("%d sessions, not %d: RLIMIT_NOFILE allows no more" % (n, a.sessions))
    # Near the limit of descriptors ringpost would shorten the timeouts of the sessions that are idle.
    stand = run.Stand(a.build, hooks={"h": kinds.plugin("later", "stream", "{at: rcpt, ms: '%d'}" % a.hold_ms)},
                      more="limits: {pressure: off}\n")
    pid, steps, cpus = stand.proxy.pid, [], os.sched_getaffinity(0)
    os.sched_setaffinity(0, {1})

    def note(what, sessions):
        settled(pid)
        steps.append((what, sessions, run.anon_kib(pid), threads(pid)))

    crowd = Crowd(stand.port)
    crowd.grow(100)
    note("before", 0)
    crowd.grow(n - 100)
    note("idle", n - 100)
    crowd.say(b"MAIL FROM:<s@idle.example>\r\n")
    crowd.replies(b"250")
    note("in a transaction", n)
    began = time.monotonic()
    crowd.say(b"RCPT TO:<r@sink.example>\r\n")
    note("pending", n)
    at_once = crowd.nothing_said()
    said = time.monotonic() - began
    answered = crowd.replies(b"250")
    took = time.monotonic() - began
    note("answered", n)
    crowd.say(b"QUIT\r\n")
    left = crowd.replies(b"221")
    for s in crowd.socks:
        s.close()
    os.sched_setaffinity(0, cpus)
    stop = stand.stop()
    asked = next(r for r in stand.records if r["ev"] == "hook-counters")["asked"]
    check(at_once, "answers came before all had asked: --hold-ms is too short for this machine (%.1f s)" % said)
    check(asked == n, "%d of %d sessions asked" % (asked, n))
    check(answered == n, "%d of %d sessions were answered" % (answered, n))
    check(left == n and not crowd.bad, "%d of %d sessions ended in order; %r" % (left, n, crowd.bad[:3]))
    check(len({s[3] for s in steps}) == 1, "threads: %r" % [s[3] for s in steps])
    for counter in FAILINGS:
        check(stop[counter] == 0, "%s = %d" % (counter, stop[counter]))
    return print_all(n, steps, answered, len(crowd.bad), took)


def print_all(n, steps, answered, bad, took):
    print("pending: %d sessions wait at RCPT at the same time: %d answered, %d refused or lost, the last answer after %.1f s"
          % (n, answered, bad, took))
    print("%-18s%12s%22s%10s" % ("", "anon KiB", "KiB for each session", "threads"))
    base, out = steps[0][2], {}
    for i, (what, sessions, kib, count) in enumerate(steps):
        # What is there for each is what came since the step before, over the sessions that took it.
        each = (kib - steps[i - 1][2]) / sessions if sessions else 0
        out[what] = {"anon_kib": kib, "kib_more_each": each, "threads": count}
        print("%-18s%12d%22s%10d" % (what, kib, "%+.2f" % each if i else "", count), flush=True)
    out.update(sessions=n, answered=answered, refused=bad, base_kib=base, seconds=took)
    return out


# ---- ----

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("mode", nargs="*", choices=[[], "cost", "pending"], help="both when none is given")
    p.add_argument("--build", default="build/release")
    p.add_argument("--rounds", type=int, default=5, help="cost")
    p.add_argument("--messages", type=int, default=10000, help="cost: of each row, pattern and round")
    p.add_argument("--slices", type=int, default=3, help="pending: with and without, of each")
    p.add_argument("--rate", type=float, default=1000, help="pending: messages a second")
    p.add_argument("--seconds", type=float, default=5, help="pending: of each slice")
    p.add_argument("--slow-ms", type=int, default=5000, help="pending: what the one in a thousand waits")
    p.add_argument("--sessions", type=int, default=10000, help="pending: sessions that all wait")
    p.add_argument("--hold-ms", type=int, default=10000, help="pending: how long")
    p.add_argument("--json", metavar="FILE", help="all results")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends, too
    run.raise_descriptors()
    print("CPU 0: ringpost, CPU 1: all else; Linux %s; load of the machine before: %s"
          % (os.uname().release, " ".join("%.2f" % x for x in os.getloadavg())), flush=True)
    out = {}
    if "cost" in a.mode or not a.mode:
        out["cost"] = cost(a)
    if "pending" in a.mode or not a.mode:
        out["others"], out["all_at_once"] = others(a), all_at_once(a)
    if a.json:
        with open(a.json, "w") as f:
            json.dump(dict(out, wrong=wrong), f, indent=1)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
