# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a peer do what is measured? Each scenario once with messages that carry their hash: as many as have to be there at
the same time, and some more. All have to be accepted, and all have to be in the sink, unchanged behind the header."""
from scenarios import LOAD, RATE
from stand import Failed, Stand, send

ROUNDS = 2         # messages for each connection
MESSAGES_MIN = 20
PATIENCE_S = 120


def arguments(scenario, messages):
    return scenario.words + ["--hash", "--messages", str(messages)]


def check(peer, scenario, options):
    """None, or what is wrong in words."""
    messages = max(MESSAGES_MIN, ROUNDS * scenario.at_once)
    try:
        with Stand(peer, options.build, options.proxy_cpu, options.load_cpu, ["--hash", "--stats"], scenario.at_once,
                   tls=scenario.tls) as stand:
            report = send(stand, arguments(scenario, messages), PATIENCE_S)
            if report["accepted"] != messages:
                return "%d of %d messages accepted: %s" % (report["accepted"], messages, stand.place.output())
            peer.drain(stand.place)
            sink = stand.end_sink()
            if sink["hash_ok"] != messages or sink["hash_bad"]:
                return "%d of %d messages arrived whole, %d changed" % (sink["hash_ok"], messages, sink["hash_bad"])
            return None
    except Failed as e:
        return str(e)


def check_all(scenarios, peers, options):
    """A line for each; how many went wrong."""
    bad = 0
    for s in scenarios:
        if s.kind not in (LOAD, RATE):
            continue
        for p in peers:
            unfit = p.unfit(s)
            wrong = None if unfit else check(p, s, options)
            bad += wrong is not None
            print("%-16s %-20s %s" % (s.name, p.name, "unfit: " + unfit if unfit else "FAILED: " + wrong if wrong else "ok"),
                  flush=True)
    return bad
