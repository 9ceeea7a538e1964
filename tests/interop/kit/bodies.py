# SPDX-License-Identifier: GPL-3.0-or-later
"""Message contents. All are as they are before dot-stuffing; lines end with CRLF where not said otherwise.

USUAL survive every hop of the matrix unchanged (Received: apart): they begin with header lines and have no
CR or LF alone. RAW are for ringpost-sink only, sent by clients that do not repair them.
"""
import random


def message(name, *lines):
    return b"".join(line + b"\r\n" for line in [b"Subject: interop", b"X-Body: " + name.encode(), b""] + list(lines))


BIG = 20 * 1000 * 1000


def octets(count, seed=1, alphabet=None):
    """Reproducible lines of 76 octets, `count` octets in all, none of them CR, LF or NUL inside a line. No backslash:
    swaks makes a newline of a backslash with an n behind it."""
    rnd = random.Random(seed)
    alphabet = alphabet or bytes(b for b in range(1, 256) if b not in b"\r\n\\")
    pool = [bytes(rnd.choices(alphabet, k=76)) + b"\r\n" for _ in range(997)]
    out = b"".join(pool[rnd.randrange(997)] for _ in range(count // 78 + 1))
    return out[:count - 2].rstrip(b"\r\n").ljust(count - 2, b"z") + b"\r\n"


def big(size):
    """Headers, then octets of all kinds and many lines that begin with dots."""
    head = message("big", b".", b"..", b".first")
    rest = octets(size - len(head), seed=size, alphabet=bytes(b for b in range(1, 256) if b not in b"\r\n\\") + b"." * 40)
    return head + rest


def straddling():
    """Bodies whose end falls around the sizes of buffers: the dot and its newline are cut there."""
    out = {}
    for edge in (4096, 8192, 16384, 65536):
        for off in range(-3, 4):
            head = message("edge")
            out["edge-%d%+d" % (edge, off)] = head + octets(edge + off - len(head), seed=edge + off, alphabet=b"abc.")
    return out


DOTS = message("dots", b".", b"..", b"...", b".foo", b"..foo", b". ", b" .", b"", b".", b"", b"x.", b".\t")

USUAL = {
    "plain": message("plain", b"hello", b"world"),
    "dots": DOTS,
    "only-dots": message("only-dots", *[b"."] * 500, b"x"),
    "dot-last": message("dot-last", b"x", b"."),
    "no-text": message("no-text"),
    "blank-lines": message("blank-lines", *[b""] * 50),
    "spaces": message("spaces", b" ", b"\t", b"trailing  ", b"  leading", b" \t "),
    "eight-bit": message("eight-bit", *[bytes(range(lo, lo + 16)) for lo in range(128, 256, 16)]),
    "latin1": message("latin1", "Grüße, naïve façade".encode("latin-1"), "Grüße, 日本語".encode()),
    "controls": message("controls", bytes(b for b in range(1, 32) if b not in b"\r\n\\"), b"\x7f"),
    "long-line": message("long-line", b"a" * 5000, b"." + b"b" * 4999, b"c" * 998, b"d" * 999, b"." * 5000, b"e" * 4096),
    "looks-like-smtp": message("looks-like-smtp", b"QUIT", b"RSET", b"MAIL FROM:<x@y>", b"DATA", b"250 ok", b"354 go"),
    "medium": message("medium") + octets(300000, seed=7),
}

# What a sending program has to pass on as it is, but no mail server keeps.
RAW = {
    "bare-lf": b"Subject: x\r\n\r\none\ntwo\n\nthree\r\n",
    "bare-cr": b"Subject: x\r\n\r\none\rtwo\r\rthree\r\n",
    "cr-cr-lf": b"Subject: x\r\n\r\none\r\r\ntwo\r\n",
    "lf-cr": b"Subject: x\r\n\r\none\n\rtwo\r\n",
    "ends-in-cr": b"Subject: x\r\n\r\none\r\r\n",
    "dots-within": b"Subject: x\r\n\r\na.\r\nb .\r\nc\r.d\r\ne\n.f\r\n",
    "no-header": b"just text\r\n.\r\n",
    "one-newline": b"\r\n",
    "one-dot": b".\r\n",
    "empty": b"",
    "last-line-dots": b"Subject: x\r\n\r\n....\r\n...\r\n..\r\n.\r\n",
    "nul": b"Subject: x\r\n\r\na\0b\0\0c\r\n",
}
