#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifies the first DKIM signature of each message: `dkim_verify.py NAME RECORD FILE...`; RECORD is the only TXT record
that there is in the world. The last line says how many are good. By Debian's python3-dkim, which only Debian's own
python sees."""
import sys

import dkim


def good(content, name, record):
    def only(asked, timeout=5):
        return record if asked == name else None
    try:
        return dkim.DKIM(content).verify(dnsfunc=only)
    except dkim.DKIMException as e:
        print(e)
        return False


def main():
    name, record = [arg.encode() for arg in sys.argv[1:3]]
    count = 0
    for path in sys.argv[3:]:
        with open(path, "rb") as f:
            content = f.read()
        if good(content, name, record):
            count += 1
        else:
            print("the signature of %s is not good; it begins:\n%r" % (path, content[:1500]))
    print("%d good" % count)


main()
