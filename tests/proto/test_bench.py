# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench's own tools: what they measure must work. Nothing here looks at a time."""
import json
import os
import subprocess

from lib.core import test


def micro(t, *options):
    run = subprocess.run([os.path.join(t.build, "ringpost-micro"), *options], capture_output=True, text=True)
    t.note("ringpost-micro %s: status %d %s" % (" ".join(options), run.returncode, run.stderr))
    return run


@test(timeout=60)
def every_micro_row_checks_its_result(t):
    names = micro(t, "--list").stdout.splitlines()
    t.check(len(names) == len(set(names)) > 80, "%d rows" % len(names))
    run = micro(t, "--json", "--samples", "1", "--sample-ms", "0")
    t.equal(run.returncode, 0, "status")
    t.equal([json.loads(line)["row"] for line in run.stdout.splitlines()], names, "rows")


@test(quick=True)
def micro_filter_takes_rows_by_name(t):
    t.equal(set(name.split("/")[0] for name in micro(t, "--list", "--filter", "bdat/").stdout.splitlines()), {"bdat"},
            "rows of bdat/")
    t.equal(micro(t, "--list", "--filter", "session/*4k").stdout.splitlines(),
            ["session/kept, 4k", "session/kept, 4k, pipelined"], "rows of session/*4k")
    run = micro(t, "--filter", "nosuchrow")
    t.equal((run.returncode, run.stdout.count("\n") <= 1), (64, True), "status of a filter that no row has")
