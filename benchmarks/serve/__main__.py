"""``make bench-serve``: throughput beside the peers, replicas, alias moves under load, shadows, overload, the log's
tap, batching, the pool and batch scoring.

How its parts are run and what is written: `benchmarks.parts`. Exit code 1 when a row fails.
"""

import sys

from benchmarks import parts

PARTS = ("throughput", "scale", "moves", "shadow", "overload", "tap", "batching", "pool", "batch")

if __name__ == "__main__":
    sys.exit(parts.main("serve", PARTS, __doc__))
