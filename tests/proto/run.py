#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the scripted two-peer tests against the real binary.

    tests/proto/run.py --build build/release [--quick] [--filter PATTERN] [-j N]

One line per test, `ok NAME` or `not ok NAME` (TAP 13), the two-sided transcript of a failure as
comments under it, `# N passed, M failed, K skipped` at the end. Status 0 when nothing failed.
Each test runs in a process group of its own, with a time limit; tests marked serial (load, memory)
run one by one after the others. PROTO_KEEP=1 keeps the directory of a failed test.
"""
import argparse
import fnmatch
import importlib.util
import json
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

from lib.core import TESTS, Failure, Skip, T  # noqa: E402

SLOW = {"asan": 4, "tsan": 6, "coverage": 2, "debug": 2}


def load_tests():
    for name in sorted(os.listdir(HERE)):
        if name.startswith("test_") and name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(name[:-3], os.path.join(HERE, name))
            spec.loader.exec_module(importlib.util.module_from_spec(spec))


class TimeUp(BaseException):
    pass


def on_alarm(signum, frame):
    raise TimeUp()


def run_one(test, args):
    """In the child: the test and its end. Returns (verdict, text)."""
    t = T(test, args.build, args.slow, args.mode, args.shared)
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, test.timeout * args.slow)
    verdict, text = "ok", ""
    try:
        test.fn(t)
    except Skip as e:
        verdict, text = "skip", str(e)
    except Failure as e:
        verdict, text = "fail", where(sys.exc_info()[2]) + str(e)
    except TimeUp:
        verdict, text = "fail", where(sys.exc_info()[2]) + "the test's time is up (%d s)" % (test.timeout * args.slow)
    except Exception:
        verdict, text = "fail", traceback.format_exc()
    signal.setitimer(signal.ITIMER_REAL, 20 * args.slow)
    try:
        more = t.close(failed=verdict == "fail")
        if more:
            text += "\nat the end also:\n" + "\n".join(more)
    except Failure as e:
        verdict, text = "fail", "at the end: " + str(e)
    except TimeUp:
        verdict, text = "fail", text + "\ntaking the test down does not end"
    signal.setitimer(signal.ITIMER_REAL, 0)
    if verdict == "fail":
        text += "\n" + t.log.text()
    return verdict, text


def where(tb):
    """The test's own line, not the harness's."""
    rows = [f for f in traceback.extract_tb(tb) if os.path.basename(f.filename).startswith("test_")]
    return "".join("%s:%d in %s: %s\n" % (os.path.basename(f.filename), f.lineno, f.name, f.line) for f in rows)


class Job:
    def __init__(self, test, args):
        self.test = test
        r, w = os.pipe()
        self.t0 = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setpgid(0, 0)
                os.close(r)
                verdict = run_one(test, args)
                with os.fdopen(w, "w") as f:
                    json.dump(verdict, f)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        try:
            os.setpgid(self.pid, self.pid)
        except OSError:
            pass
        os.close(w)
        self.fd = r
        self.data = b""
        self.limit = self.t0 + (test.timeout + 30) * args.slow

    def kill(self):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def result(self):
        os.close(self.fd)
        self.kill()  # whatever the test's process group still holds
        os.waitpid(self.pid, 0)
        try:
            return json.loads(self.data)
        except ValueError:
            return "fail", "the test's process ended without a verdict"


class Runner:
    def __init__(self, args):
        self.args = args
        self.counts = {"ok": 0, "fail": 0, "skip": 0}
        self.failed = []

    def report(self, job):
        verdict, text = job.result()
        self.counts[verdict] += 1
        took = time.monotonic() - job.t0
        name = job.test.name
        if verdict == "ok":
            print("ok %s%s" % (name, "  # %.2f s" % took if self.args.times else ""))
        elif verdict == "skip":
            print("ok %s # SKIP %s" % (name, text))
        else:
            self.failed.append(name)
            print("not ok %s" % name)
            print("".join("# %s\n" % line for line in text.rstrip().split("\n")), end="")
        sys.stdout.flush()

    def run(self, tests, width):
        sel = selectors.DefaultSelector()
        waiting, running = list(tests), set()
        while waiting or running:
            while waiting and len(running) < width:
                sys.stdout.flush()
                job = Job(waiting.pop(0), self.args)
                running.add(job)
                sel.register(job.fd, selectors.EVENT_READ, job)
            for key, _ in sel.select(0.5):
                job = key.data
                data = os.read(job.fd, 1 << 16)
                job.data += data
                if not data:
                    sel.unregister(job.fd)
                    running.discard(job)
                    self.report(job)
            for job in running:
                if time.monotonic() > job.limit:
                    job.kill()


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--build", default=os.environ.get("BUILD", "build/release"), help="directory of the binaries")
    p.add_argument("--quick", action="store_true", help="only the quick tests")
    p.add_argument("--filter", action="append", default=[], help="names: a pattern with * or a part of the name")
    p.add_argument("--list", action="store_true")
    p.add_argument("--times", action="store_true", help="show how long each test took")
    p.add_argument("--repeat", type=int, default=1)
    p.add_argument("--mode", help="release, debug, asan, tsan; default: the build directory's name")
    p.add_argument("--slow", type=int, help="factor on all waits; default by mode")
    p.add_argument("-j", type=int, default=4)
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    base = os.path.basename(args.build)
    args.mode = args.mode or next((m for m in SLOW if m in base), "release")
    args.slow = args.slow or SLOW.get(args.mode, 1)
    return args


def chosen(args):
    def wanted(t):
        if args.quick and not t.quick:
            return False
        return not args.filter or any(f in t.name or fnmatch.fnmatch(t.name, f) for f in args.filter)
    return [t for t in TESTS if wanted(t)] * args.repeat


def main():
    args = parse()
    load_tests()
    tests = chosen(args)
    if args.list:
        for t in tests:
            print("%s%s%s" % (t.name, " quick" if t.quick else "", " serial" if t.serial else ""))
        return 0
    if not os.access(os.path.join(args.build, "ringpost"), os.X_OK):
        print("Bail out! no ringpost in %s" % args.build)
        return 69
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    args.shared = tempfile.mkdtemp(prefix="ringpost-proto-run.")
    try:
        return run_all(args, tests)
    finally:
        shutil.rmtree(args.shared, ignore_errors=True)


def run_all(args, tests):
    print("TAP version 13")
    print("1..%d" % len(tests))
    runner = Runner(args)
    here = [t for t in tests if t.modes is None or args.mode in t.modes]
    for t in tests:
        if t not in here:
            runner.counts["skip"] += 1
            print("ok %s # SKIP only in %s builds" % (t.name, "/".join(t.modes)))
    runner.run([t for t in here if not t.serial], args.j)
    runner.run([t for t in here if t.serial], 1)
    for name in runner.failed:
        print("# failed: %s" % name)
    c = runner.counts
    print("# %d passed, %d failed, %d skipped" % (c["ok"], c["fail"], c["skip"]))
    return 1 if c["fail"] else 0


if __name__ == "__main__":
    sys.exit(main())
