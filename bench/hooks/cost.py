# SPDX-License-Identifier: GPL-3.0-or-later
"""What a message costs with each kind of hook, and without."""
import os
import statistics
import tempfile

from hooked import Hooked, check, cpu_us, end, load, plugin, spread, stand_with
from policy import PolicyServer

EXAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "examples", "rcpt-limit.lua")
PATTERNS = (("lock-step", ""), ("pipelined", " --pipelining"))
LOAD = "--connections 64 --size 4k --from s%c@blast.example"
NO_HOOK = "no hook"

SCRIPTS = {
    "rcpt": "function rcpt(ev) end",
    "envelope": "\n".join("function %s(ev) end" % name for name in (
        "connect", "ehlo", "mail", "rcpt", "data", "end_of_data", "reset", "transaction", "close")),
    "end": "function end_of_data(ev) end",
}


def put_scripts(directory):
    os.chmod(directory, 0o755)
    for name, text in SCRIPTS.items():
        path = os.path.join(directory, name + ".lua")
        with open(path, "w") as f:
            f.write(text + "\n")
        os.chmod(path, 0o644)


def rows(scripts, policy_port):
    """The rows of the table: what the listener's hook is, as YAML."""
    def lua(name, mode, options="{}"):
        path = EXAMPLE if name == "example" else os.path.join(scripts, name + ".lua")
        return "{type: lua, file: '%s', mode: %s, options: %s}" % (os.path.abspath(path), mode, options)
    return (
        (NO_HOOK, ""),
        ("rules", "{type: rules, reject-senders: ['@blocked.test'], reject-recipients: ['@blocked.test']}"),
        ("C plugin, watches envelope", plugin("observe", "hold-end", "{quiet: yes}")),
        ("C plugin, rcpt", plugin("decide-rcpt", "stream", "{reject: nobody@sink.example}")),
        ("C plugin, rcpt, own thread", plugin("later", "stream", "{at: rcpt, ms: '0'}")),
        ("Lua, rcpt", lua("rcpt", "stream")),
        ("Lua, rcpt-limit.lua", lua("example", "stream", "{limit: '1000000000'}")),
        ("Lua, envelope", lua("envelope", "hold-end")),
        ("C plugin, body, hold-end", plugin("octets", "hold-end")),
        ("Lua, end_of_data, hold-all", lua("end", "hold-all")),
        ("policy, rcpt", "{type: policy, endpoint: '127.0.0.1:%d', events: rcpt}" % policy_port),
    )


def measure(build, hook, messages):
    """Microseconds and messages a second of each pattern, from one ringpost."""
    out, total = {}, 0
    with stand_with(build, Hooked(hook)) as stand:
        for name, words in PATTERNS:
            load(stand, LOAD + words, messages // 10)  # warm
            before = cpu_us(stand)
            report = load(stand, LOAD + words, messages)
            out[name] = {"cpu_us": (cpu_us(stand) - before) / messages, "rate": report["messages_per_second"]}
            total += messages + messages // 10
        stop, counters = end(stand)
    check(stop["messages_accepted"] == total, "%d of %d messages were accepted" % (stop["messages_accepted"], total))
    for counter in ("messages", "asked"):  # of the plugins octets and later
        check(counters.get(counter, total) == total, "%s = %s of %d" % (counter, counters.get(counter), total))
    return out


def cost(a):
    results = {}
    with PolicyServer() as policy, tempfile.TemporaryDirectory(prefix="ringpost-bench.") as scripts:
        put_scripts(scripts)
        for _ in range(a.rounds):  # interleaved: drift of the machine hits all rows alike
            for name, hook in rows(scripts, policy.port):
                results.setdefault(name, []).append(measure(a.build, hook, a.messages))
        asked = policy.asked.value
    total = a.rounds * len(PATTERNS) * (a.messages + a.messages // 10)
    check(asked == total, "the policy server was asked %d of %d times" % (asked, total))
    show(a, results)
    return results


def show(a, results):
    print("cost: CPU us of ringpost per message of 4 KB, and the ratio to no hook; medians (range) of %d rounds of %d messages"
          % (a.rounds, a.messages))
    print("%-28s" % "" + "".join("%-24s%-24s%7s   " % (p, "ratio", "msg/s") for p, _ in PATTERNS).rstrip())
    for name, runs in results.items():
        line = "%-28s" % name
        for p, _ in PATTERNS:
            us = [r[p]["cpu_us"] for r in runs]
            ratios = [r[p]["cpu_us"] / none[p]["cpu_us"] for r, none in zip(runs, results[NO_HOOK])]
            line += "%-24s%-24s%7.0f   " % (spread(us, "%.2f"), spread(ratios, "%.3f"), statistics.median(r[p]["rate"] for r in runs))
        print(line.rstrip(), flush=True)
