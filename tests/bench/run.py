#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the unit tests of the bench's Python: every tests/bench/test_*.py.

    tests/bench/run.py [--build DIR] [--filter PART]

TAP on standard output, the trace of a failure as comments below it. A file that cannot be loaded is a failed test. Nothing
here measures; --build is taken, as by every suite, for tests that want the binaries (RINGPOST_BUILD).
"""
import argparse
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "bench", "compare")]


def tests_in(suite):
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            yield from tests_in(one)
        else:
            yield one


class Tap(unittest.TestResult):
    def _say(self, test, verdict, text=""):
        print("%s %s" % (verdict, test.id()))
        print("".join("# %s\n" % line for line in text.rstrip().splitlines()), end="", flush=True)

    def addSuccess(self, test):
        self._say(test, "ok")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self._say(subtest, "not ok", self._exc_info_to_string(err, test))

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._say(test, "not ok", self._exc_info_to_string(err, test))

    def addError(self, test, err):
        super().addError(test, err)
        self._say(test, "not ok", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print("ok %s # SKIP %s" % (test.id(), reason))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--build", default=os.environ.get("BUILD", "build/release"))
    p.add_argument("--quick", action="store_true", help="all of them are quick")
    p.add_argument("--filter", default="", help="only tests with this in their name")
    o = p.parse_args()
    os.environ["RINGPOST_BUILD"] = os.path.abspath(o.build)
    tests = [t for t in tests_in(unittest.defaultTestLoader.discover(HERE)) if o.filter in t.id()]
    print("TAP version 13\n1..%d" % len(tests))
    result = Tap()
    unittest.TestSuite(tests).run(result)
    bad = len(result.failures) + len(result.errors)
    print("# %d failed" % bad)
    return 1 if bad or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
