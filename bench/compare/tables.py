# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures as text, and Markdown that reads well in a terminal, too."""
import math
import textwrap

WIDTH = 128  # of prose; tables are as wide as they need


def short(x):
    """Three significant digits, never an exponent."""
    if x is None:
        return "-"
    if x == 0:
        return "0"
    if abs(x) >= 999.5:
        return "{:,.0f}".format(x)
    x = float("%.3g" % x)
    return "%.*f" % (max(0, 2 - math.floor(math.log10(abs(x)))), x)


def times(x):
    """A ratio."""
    return "%.2f" % x if x < 9.995 else "%.1f" % x if x < 99.95 else "{:,.0f}".format(x)


def percent(x):
    return "-" if x is None else "%.1f" % (100 * x) if x < 0.0995 else "%.0f" % (100 * x)


def table(head, rows, left=1):
    """Markdown, in aligned columns; all but the first `left` columns to the right."""
    rows = [[str(c) for c in row] for row in rows]
    width = [max(len(row[i]) for row in [head] + rows) for i in range(len(head))]
    width = [max(w, 3) for w in width]
    def line(cells):
        return "| " + " | ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, width))) + " |"
    rule = "|" + "|".join(":" + "-" * (w + 1) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(width)) + "|"
    return "\n".join([line(head), rule] + [line(row) for row in rows])


def prose(text):
    return textwrap.fill(" ".join(text.split()), WIDTH)


def bold(text):
    return "**%s**" % text
