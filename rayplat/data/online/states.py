"""What the online store knows of a row and view at a moment.

``present``  the row was known at the moment and is not older than the view's ttl; windows: events are in them
``missing``  there is no row for the key, or no key; windows: no event is in the longest one, which has a value too
``expired``  the row is older than the ttl: its values are not used
``future``   the row's event is after the moment asked for: it was not known then and is not used
``unkept``   windows only: the longest begins before what the store still keeps, so nothing is said
"""

from __future__ import annotations

PRESENT, MISSING, EXPIRED, FUTURE, UNKEPT = "present", "missing", "expired", "future", "unkept"
