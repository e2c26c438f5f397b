"""``make bench-data``: the data layer beside its peers, every peer in the same run on the same machine.

How its parts are run and what is written: `benchmarks.parts`. Exit code 1 when a row fails.
"""

import sys

from benchmarks import parts

PARTS = ("tables", "joins", "windows", "features", "online", "commits")

if __name__ == "__main__":
    sys.exit(parts.main("data", PARTS, __doc__))
