# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, configuration errors, draining, privileges, log files."""
import errno
import os
import re
import signal
import socket
import subprocess
import time

from lib.core import Skip, cases, test
from lib.ringpost import as_nobody
from lib.smtp import (BODY, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, message, opened, pair, step)

DOWN = b"421 4.3.2"


def program(t, *args, text=None):
    p = subprocess.run([os.path.join(t.build, "ringpost")] + list(args), input=text, capture_output=True, timeout=t.wait * 2)
    return p.returncode, (p.stdout + p.stderr).decode("utf-8", "replace")


def write(t, text):
    path = t.path("c.yaml")
    with open(path, "w") as f:
        f.write(text)
    return path


GOOD = "listeners:\n  in: {bind: 127.0.0.1:0, upstream: mta}\nupstreams:\n  mta: {servers: 127.0.0.1:25}\n"


@test(quick=True)
def version_usage_and_check(t):
    t.equal(program(t, "version")[0], 0, "version")
    t.equal(program(t, "-V")[0], 0, "-V")
    t.equal(program(t, "no-such-word")[0], 64, "an unknown word")
    t.equal(program(t, "run")[0] in (64, 78), True, "run without a file")
    path = write(t, GOOD)
    t.equal(program(t, "check", "-c", path)[0], 0, "check")
    t.equal(program(t, "-t", "-c", path)[0], 0, "-t")
    status, text = program(t, "-T", "-c", path)
    t.equal(status, 0, "-T")
    t.check("bare-newlines" in text and "guard" in text, "the dump has the defaults:\n" + text)
    again = t.path("dump.yaml")
    with open(again, "w") as f:
        f.write(text)
    status, text = program(t, "check", "-c", again)
    t.equal(status, 0, "the dump is a configuration again:\n" + text)


ASKED = GOOD.replace("upstream: mta}", "upstream: mta, hooks: [script, greylist, filter]}") + """hold: {memory: 64m, spill: 1m}
hooks:
  script: {type: lua, file: /nowhere/script.lua, mode: hold-all}
  greylist: {type: policy, endpoint: 127.0.0.1:10023, events: [rcpt, end-of-data]}
  filter: {type: milter, endpoint: "unix:/nowhere/milter"}
"""


@test(quick=True)
def dump_of_hooks_opens_none_of_them(t):
    status, text = program(t, "-T", "-c", write(t, ASKED))
    t.equal(status, 0, "-T:\n" + text)
    for words in ("budget: 1m", "connections: 20\n", "connections: 500\n", "context: \"\"", "mode: hold-all", "quarantine: reject",
                  "content-deadline: 5m", "events: [\"rcpt\", \"end-of-data\"]", "spill: 1m", "threads: 8"):
        t.check(words in text, "%s:\n%s" % (words, text))
    again = program(t, "-T", "-c", write(t, text))
    t.equal(again, (0, text), "the dump of the dump")


@test(quick=True)
def doctor_counts_what_hooks_need(t):
    """4096 descriptors: 2 for each session, 1 for its milter and 1 for its file, 20 for the policy server."""
    def sessions(text):
        p = subprocess.run(["prlimit", "--nofile=4096:4096", os.path.join(t.build, "ringpost"), "doctor", "-c", write(t, text)],
                           capture_output=True, text=True, timeout=t.wait * 2)
        t.equal(p.returncode, 0, p.stdout + p.stderr)
        return int(p.stdout.split("  sessions")[1].split()[0])

    alone = sessions("workers: 1\n" + GOOD)
    milter_and_file = ASKED.replace("hold: {memory: 64m, spill: 1m}", "hold: {memory: 4g, disk: 4g}").replace("script, greylist, filter", "script, filter")
    t.equal(sessions("workers: 1\n" + milter_and_file.replace("hold-all", "stream")), alone - 250, "with 500 connections to a milter")
    t.equal(sessions("workers: 1\n" + milter_and_file), (2 * alone - 500) // 3, "with a file for each session as well")
    t.equal(sessions("workers: 1\n" + ASKED), alone - (500 + 20 + 64) // 2, "with 64 files, the milter and the policy server")


@test(quick=True)
def doctor_answers(t):
    status, text = program(t, "doctor")
    t.equal(status, 0, "doctor:\n" + text)


def accelerated():
    """`on` or `off`, as this CPU has instructions for AES."""
    with open("/proc/cpuinfo") as f:
        flags = next((line for line in f if line.startswith(("flags", "Features"))), "")
    return "on" if "aes" in flags.split() else "off"


def kernel_tls():
    with socket.socket() as s:
        try:
            s.setsockopt(socket.IPPROTO_TCP, 31, b"tls")  # TCP_ULP
        except OSError as e:
            return e.errno == errno.ENOTCONN
    return True


@test(quick=True)
def the_tls_library(t):
    """Which it is, whether it has AES instructions, and whether the kernel could do its work."""
    line = r"wolfSSL \d+\.\d+\.\d+, AES(-NI| instructions) %s\n" % accelerated()
    for words in ("version", "-V"):
        status, text = program(t, words)
        t.check(status == 0 and re.fullmatch(r"ringpost \d+\.\d+\.\d+\n" + line, text), "%s: %d %s" % (words, status, text))
    status, text = program(t, "doctor")
    t.check(re.search("tls\n  " + line, text), text)
    t.check("kernel TLS: %s\n" % ("there, not used" if kernel_tls() else "not there") in text, text)
    t.equal("WARNING" in text, accelerated() == "off", "a warning:\n" + text)


@test(quick=True)
def doctor_and_run_want_descriptors(t):
    limited = ["prlimit", "--nofile=20:20", os.path.join(t.build, "ringpost")]
    path = write(t, GOOD)
    for words in (["doctor"], ["run", "-c", path]):
        p = subprocess.run(limited + words, capture_output=True, text=True, timeout=t.wait * 2)
        t.equal(p.returncode, 77, "%s: %s%s" % (words[0], p.stdout, p.stderr))
        t.check("RLIMIT_NOFILE" in p.stdout + p.stderr, p.stdout + p.stderr)


@test(quick=True)
def signals_that_do_nothing_yet_end_nothing(t):
    rp, up, c, u = pair(t)
    for sig in (signal.SIGUSR2, signal.SIGHUP):
        rp.signal(sig)
        t.until(lambda: any(signal.Signals(sig).name[3:] in w["note"] for w in rp.records("warning")), "a warning for " + signal.Signals(sig).name)
    message(c, u)


@test(quick=True)
def address_in_use(t):
    """SO_REUSEPORT would let a second process join the first one's listener and take half of its clients."""
    up = t.upstream()
    rp = t.ringpost(up)
    status, text = program(t, "run", "-c", write(t, GOOD.replace("127.0.0.1:0", rp.address)))
    t.equal(status, 69, "exit status")
    t.check("EADDRINUSE" in text and rp.address in text, "the reason and the address:\n" + text)


BAD = {
    "no-file": None,
    "not-yaml": "listeners: [\n",
    "empty": "",
    "no-upstream": "listeners:\n  in: {bind: 127.0.0.1:0, upstream: nowhere}\nupstreams:\n  mta: {servers: 127.0.0.1:25}\n",
    "unknown-key": GOOD + "shutdown-grase: 30s\n",
    "open-proxy": GOOD.replace("127.0.0.1:0", "0.0.0.0:0"),
    "final-reply": GOOD.replace("127.0.0.1:25", "127.0.0.1:25, timeouts: {final-reply: 100s}"),
    "same-address": GOOD.replace("upstreams:", "  b: {bind: 127.0.0.1:2525, upstream: mta}\n  a: {bind: 127.0.0.1:2525, upstream: mta}\nupstreams:"),
    "bad-duration": GOOD + "shutdown-grace: soon\n",
    "hook-of-no-kind": GOOD + "hooks:\n  h: {type: milters, endpoint: 127.0.0.1:11332}\n",
    "policy-without-server": GOOD + "hooks:\n  h: {type: policy}\n",
    "nothing-can-be-kept": GOOD + "hold: {memory: 1m, spill: 1m}\n",
}


@cases(BAD, quick=True)
def bad_configuration_exits_78(t, text):
    path = write(t, text) if text is not None else t.path("missing.yaml")
    for args in (("check", "-c", path), ("run", "-c", path)):
        status, out = program(t, *args)
        t.equal(status, 78, "%s:\n%s" % (args[0], out))
        t.check(os.path.basename(path) in out, "the message names the file: %r" % out)


@test(quick=True)
def unknown_key_gets_the_nearest(t):
    status, out = program(t, "check", "-c", write(t, GOOD + "shutdown-grase: 30s\n"))
    t.check("shutdown-grace" in out and "c.yaml:5:" in out, out)


@test(quick=True)
def all_errors_of_hooks_have_their_place(t):
    status, out = program(t, "check", "-c", write(t, GOOD + "hooks:\n"
                          "  p: {type: policy, endpoint: localhost:10023, events: [rctp]}\n"
                          "  m: {type: milter, endpoint: 127.0.0.1:11332, qarantine: reject}\n"
                          "  l: {type: lua, file: l.lua, budget: 5}\n"))
    t.equal(status, 78, out)
    for place, words in (("6:31", "does not look names up"), ("6:57", "did you mean `rcpt`?"), ("7:48", "did you mean `quarantine`?"),
                         ("8:24", "is a relative path"), ("8:39", "must be between 1k and 1000m")):
        t.check(any("c.yaml:%s: error: " % place in line and words in line for line in out.split("\n")), "%s %s:\n%s" % (place, words, out))
    t.check(out.endswith("\n5 errors\n"), out)


@test(quick=True)
def term_while_nothing_is_open(t):
    up = t.upstream()
    rp = t.ringpost(up)
    t0 = time.monotonic()
    rp.stop_now()
    t.check(time.monotonic() - t0 < 1.5 * t.slow, "took %.1f s" % (time.monotonic() - t0))


@test(quick=True)
def term_idle_session_gets_421(t):
    rp, up, c, u = pair(t)
    rp.signal(signal.SIGTERM)
    c.reply(DOWN)
    c.ended()
    u.gone()
    rp.stop_now()


@test(quick=True)
def term_before_the_greeting(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    rp.signal(signal.SIGTERM)
    time.sleep(0.05)
    try:
        u.sock.sendall(b"220 late\r\n")
    except OSError:
        pass
    got = c.rest()
    t.check(got.split(b"\r\n")[-2].startswith(DOWN), "last words: %r" % got)
    rp.stop_now()


TRANSACTION = ((MAIL, OK_MAIL), (RCPT, OK_RCPT), (b"DATA\r\n", GO), (BODY, TAKEN))


@cases({"after-mail": 1, "after-rcpt": 2, "after-354": 3}, quick=True)
def term_lets_a_transaction_finish(t, at):
    rp, up, c, u = pair(t, conf={"shutdown-grace": "20s"})
    for line, reply in TRANSACTION[:at]:
        step(c, u, line, reply)
    rp.signal(signal.SIGTERM)
    rp.record("drain")
    c.quiet(0.1)
    for line, reply in TRANSACTION[at:]:
        step(c, u, line, reply)
    c.reply(DOWN)
    c.ended()
    u.gone()
    rp.record("transaction", result="accepted")
    rp.stop_now()


@test(quick=True)
def term_while_the_final_reply_is_due(t):
    rp, up, c, u = pair(t, conf={"shutdown-grace": "20s"})
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY)
    rp.signal(signal.SIGTERM)
    u.quiet(0.2)
    u.send(TAKEN)
    c.expect(TAKEN)
    c.reply(DOWN)
    c.ended()
    rp.stop_now()


@test(quick=True)
def term_next_mail_is_not_begun(t):
    """Pipelined behind the transaction that may finish: a new one gets 421."""
    rp, up, c, u = pair(t, conf={"shutdown-grace": "20s"})
    data_open(c, u)
    rp.signal(signal.SIGTERM)
    rp.record("drain")
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    c.reply(DOWN)
    c.ended()
    rp.stop_now()


@test(quick=True)
def term_new_clients_are_told(t):
    rp, up, c, u = pair(t, conf={"shutdown-grace": "20s"})
    data_open(c, u)
    rp.signal(signal.SIGTERM)
    rp.record("drain")
    for _ in range(3):
        c2 = rp.client()
        c2.reply(DOWN)
        c2.ended()
    up.nobody()
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    c.reply(DOWN)
    rp.stop_now()


@test(quick=True)
def term_is_bounded_by_the_grace(t):
    rp, up, c, u = pair(t, conf={"shutdown-grace": "1s"})
    data_open(c, u)
    c.send(b"never ends\r\n")
    u.expect(b"never ends")
    t0 = time.monotonic()
    rp.signal(signal.SIGTERM)
    t.equal(rp.wait_exit(4), 0, "exit status")
    took = time.monotonic() - t0
    t.check(0.8 <= took <= 2.5 * t.slow, "took %.2f s" % took)
    got = u.rest()
    t.check(got in (b"", b"\r\n"), "the upstream got %r" % got)
    c.ignore_rest = True


@test(quick=True)
def second_term_ends_at_once(t):
    rp, up, c, u = pair(t, conf={"shutdown-grace": "60s"})
    data_open(c, u)
    rp.signal(signal.SIGTERM)
    rp.record("drain")
    rp.signal(signal.SIGTERM)
    t0 = time.monotonic()
    t.equal(rp.wait_exit(4), 0, "exit status")
    t.check(time.monotonic() - t0 < 1.5 * t.slow, "took %.1f s" % (time.monotonic() - t0))
    c.rest()
    u.rest()


@test(quick=True)
def int_ends_too(t):
    rp, up, c, u = pair(t)
    rp.signal(signal.SIGINT)
    rp.wait_exit(4)
    rp.want_status = rp.proc.returncode
    t.check(rp.proc.returncode in (0, -2), "status %r" % rp.proc.returncode)
    c.ignore_rest = True


@test(quick=True)
def quit_signal_waits_without_a_limit(t):
    rp, up, c, u = pair(t, conf={"shutdown-grace": "1s"})
    data_open(c, u)
    rp.signal(signal.SIGQUIT)
    rp.record("drain")
    time.sleep(1.8)
    t.check(rp.alive(), "still there")
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    c.reply(DOWN)
    c.ended()
    t.equal(rp.wait_exit(4), 0, "exit status")


@test(quick=True)
def term_with_two_workers(t):
    up = t.upstream()
    rp = t.ringpost(up, workers=2, conf={"shutdown-grace": "20s"})
    held = [opened(t, rp, up) for _ in range(12)]
    for c, u in held[:4]:
        data_open(c, u)
    rp.signal(signal.SIGTERM)
    for c, u in held[4:]:
        c.reply(DOWN)
        c.ended()
    for c, u in held[:4]:
        c.send(BODY)
        u.expect(BODY).send(TAKEN)
        c.expect(TAKEN)
        c.reply(DOWN)
        c.ended()
    t.equal(rp.stop_now()["messages_accepted"], 4, "counter summed over the workers")


@test(quick=True)
def as_nobody_in_8_mib_of_locked_memory(t):
    prefix, copy = as_nobody(t)
    up = t.upstream()
    rp = t.ringpost(up, workers=2, prefix=prefix, program=copy)
    held = [opened(t, rp, up) for _ in range(8)]
    for c, u in held:
        message(c, u)


@test(quick=True)
def privileges_are_dropped_after_binding(t):
    if os.geteuid() != 0:
        raise Skip("only root can drop privileges")
    os.chmod(t.dir, 0o777)
    up = t.upstream()
    rp = t.ringpost(up, conf={"user": "nobody"})
    for task in os.listdir("/proc/%d/task" % rp.pid):
        with open("/proc/%d/task/%s/status" % (rp.pid, task)) as f:
            status = dict(line.split(":", 1) for line in f.read().splitlines() if ":" in line)
        t.equal(set(status["Uid"].split()), {"65534"}, "uids of thread %s" % task)
        t.equal(set(status["Gid"].split()), {"65534"}, "gids of thread %s" % task)
        t.equal(int(status["CapEff"], 16), 0, "capabilities of thread %s" % task)
    c, u = opened(t, rp, up)
    message(c, u)


@test(quick=True)
def usr1_reopens_the_log(t):
    rp, up, c, u = pair(t)
    message(c, u)
    rp.record("transaction")
    moved = rp.log_path + ".1"
    os.rename(rp.log_path, moved)
    rp.signal(signal.SIGUSR1)
    t.until(lambda: os.path.exists(rp.log_path), "a new log file")
    message(c, u)
    rp.record("transaction")
    with open(moved) as f:
        t.equal(f.read().count('"transaction"'), 1, "transactions in the old file")


@test(quick=True)
def signals_that_mean_nothing_break_nothing(t):
    """A storm of them in mid-body (io_uring answers EINTR)."""
    rp, up, c, u = pair(t)
    body = b"0123456789abcde\n" * 100000
    body = body.replace(b"\n", b"\r\n") + b".\r\n"
    data_open(c, u)
    c.send_async(body)
    for _ in range(200):
        for sig in (signal.SIGUSR1, signal.SIGCONT, signal.SIGWINCH, signal.SIGPIPE, signal.SIGCHLD):
            os.kill(rp.pid, sig)
        time.sleep(0.001)
    t.equal(u.recv_exact(len(body)), body, "body")
    u.send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def workers_are_pinned(t):
    cpus = sorted(os.sched_getaffinity(0))
    up = t.upstream()
    rp = t.ringpost(up, conf={"workers": "%d-%d" % (cpus[0], cpus[0])})
    masks = [os.sched_getaffinity(int(x)) for x in os.listdir("/proc/%d/task" % rp.pid)]
    t.check({cpus[0]} in masks, "no thread is pinned to CPU %d: %r" % (cpus[0], masks))
    c, u = opened(t, rp, up)
    message(c, u)


@test(quick=True)
def start_record_and_stop_record(t):
    rp, up, c, u = pair(t)
    message(c, u)
    c.close()
    u.gone()
    stop = rp.stop_now()
    for name, value in {"sessions": 1, "links": 1, "transactions": 1, "messages_accepted": 1, "recipients_accepted": 1,
                        "commands": 4, "sessions_refused": 0}.items():
        t.equal(stop[name], value, "counter " + name)
    for name in ("ring_enters", "ring_sqes", "ring_cqes", "ring_recv_bytes", "ring_send_bytes", "ring_accepts"):
        t.check(stop[name] > 0, "counter " + name)
