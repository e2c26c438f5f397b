"""``make bench-registry``: artifacts, alias moves, contention, a killed actor, watchers and the tamper corpus.

How its parts are run and what is written: `benchmarks.parts`. Exit code 1 when a row fails.
"""

import sys

from benchmarks import parts

PARTS = ("artifacts", "moves", "contention", "kill", "watchers", "tampering")

if __name__ == "__main__":
    sys.exit(parts.main("registry", PARTS, __doc__))
