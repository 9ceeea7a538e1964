# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pictures are drawn from, and that gnuplot draws them (Debian: gnuplot-nox)."""
import json
import math
import os
import tempfile
import unittest
import xml.etree.ElementTree
from unittest import mock

import plausible
import plots
from test_report import IDLE, MACHINE, costs, made, run

RATED = {"rate": 2000, "histogram": [[100, 900], [200, 90], [400, 10]]}


class Rows(unittest.TestCase):
    def test_by_size(self):
        r = made(*costs("new-1m", a=[3.0, 1.0, 2.0]), *costs("new-1k", a=[0.5]), *costs("kept-4k", a=[9]), *costs("c500", a=[9]))
        self.assertEqual(plots.size_rows(r, "a"), [(1000, 0.5, 0.5, 0.5), (1000000, 2.0, 1.0, 3.0)])

    def test_by_sessions_that_live(self):
        r = made(run("idle-10000", "a", **{**IDLE, "alive": 9000}), run("idle-1000", "a", **{**IDLE, "alive": 1000}))
        self.assertEqual(plots.memory_rows(r, "a", "user_kib"), [(1000, 2.4, 2.4, 2.4), (9000, 2.4, 2.4, 2.4)])

    def test_percentiles_end_where_too_few_lie_above(self):
        rows = plots.percentile_rows([[100, 900], [200, 90], [300, 5], [400, 3], [500, 2]])
        self.assertEqual([(round(nines, 6), us) for nines, us in rows],
                         [(1.0, 100), (2.0, 200), (round(-math.log10(0.005), 6), 300)])

    def test_percentiles_begin_at_the_median(self):
        self.assertEqual([us for _, us in plots.percentile_rows([[100, 400], [200, 100], [300, 500]])], [200])

    def test_steps_of_an_axis(self):
        self.assertEqual([plots.tic_step(x) for x in (0.56, 1.0, 0.11, 30)], [0.2, 0.2, 0.05, 10])
        self.assertEqual(plots.log_tics(15, 1200), '("20" 20, "50" 50, "100" 100, "200" 200, "500" 500, "1,000" 1000)')


class Look(unittest.TestCase):
    def test_a_peer_looks_the_same_whoever_else_is_there(self):
        few, many = plots.styles(["haproxy", "mine"]), plots.styles(["direct", "ringpost", "haproxy", "aiosmtpd", "mine"])
        self.assertEqual((few["haproxy"], few["mine"]), (many["haproxy"], many["mine"]))

    def test_no_two_alike_and_ringpost_is_the_thickest(self):
        look = plots.styles(list(plots.COLOURS) + ["mine", "yours"])
        self.assertEqual(len({colour for colour, _, _ in look.values()}), len(look))
        self.assertEqual(max(look, key=lambda p: look[p][2]), "ringpost")

    def test_what_a_machine_is_called_is_no_markup(self):
        text = plots.plain('CPU_@ "fast" ^{2}')
        self.assertEqual(text, "CPU\\\\_\\\\@ 'fast' \\\\^\\\\{2\\\\}")


class Drawing(unittest.TestCase):
    def draw(self, lines):
        """{name: text of the picture}, and what was said."""
        said = []
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "runs.jsonl")
            with open(path, "w") as f:
                f.writelines(json.dumps(line) + "\n" for line in lines)
            with open(os.path.join(folder, "latency.svg"), "w") as f:
                f.write("of an earlier measurement")
            drawn = {}
            for made_here in plots.write(path, folder, said.append):
                with open(made_here, encoding="utf-8") as f:
                    drawn[os.path.basename(made_here)] = f.read()
            return drawn, said, sorted(name for name in os.listdir(folder) if name.endswith(".svg"))

    def test_all_four(self):
        drawn, said, _ = self.draw(plausible.lines(rounds=2))
        self.assertEqual((sorted(drawn), said), (sorted(plots.PICTURES), []))
        for name, text in drawn.items():
            with self.subTest(name):
                xml.etree.ElementTree.fromstring(text)
                for words in ("AMD EPYC, 2 CPUs, Linux 6.18.0, 2026-11-27", "ringpost", "haproxy-splice"):
                    self.assertIn(words, text)

    def test_with_one_peer_and_one_run_of_each(self):
        lines = [MACHINE, *costs("new-1k", ringpost=[0.1]), run("idle-1000", "ringpost", **{**IDLE, "all_kib": None}),
                 run("rate-1k", "ringpost", **RATED)]
        drawn, said, _ = self.draw(lines)
        self.assertEqual((sorted(drawn), said), (sorted(plots.PICTURES), []))

    def test_strange_names_do_no_harm(self):
        lines = [{**MACHINE, "cpu": 'Xeon(R) "E5" `x` @ 2_4 {GHz} 100%'},
                 *costs("new-1k", **{'a"b\'c`$(x)%d\\': [0.1], "ringpost": [0.1]}), *costs("kept-%s_1", ringpost=[0.1])]
        drawn, said, _ = self.draw(lines)
        self.assertEqual((sorted(drawn), said), (["cpu-by-size.svg", "cpu-small.svg"], []))
        self.assertIn("'x' @ 2_4 {GHz} 100%", drawn["cpu-small.svg"])
        for text in drawn.values():
            words = "".join(xml.etree.ElementTree.fromstring(text).itertext())
            self.assertIn('a"b\'c`$(x)%d\\', words)

    def test_no_picture_without_runs_and_no_old_one_is_left(self):
        _, said, there = self.draw([MACHINE, *costs("new-1k", ringpost=[0.1])])
        self.assertEqual((said, there), ([], ["cpu-by-size.svg", "cpu-small.svg"]))
        self.assertEqual(self.draw([MACHINE])[2], [])

    def test_without_gnuplot_it_is_said(self):
        with mock.patch("shutil.which", return_value=None):
            drawn, said, _ = self.draw([MACHINE, *costs("new-1k", ringpost=[0.1])])
        self.assertEqual((drawn, said), ({}, ["no pictures: gnuplot is not installed (Debian: gnuplot-nox)"]))

    def test_what_gnuplot_cannot_do_is_said(self):
        with tempfile.TemporaryDirectory() as folder:
            to = os.path.join(folder, "x.svg")
            self.assertIn("invalid command", plots.gnuplot(plots.opening(100, 100) + ["plot x", "nonsense here"], to))
            self.assertFalse(os.path.exists(to))
