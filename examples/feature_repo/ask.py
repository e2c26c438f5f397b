"""Asks this repository for training rows and online rows, and pushes one: `python ask.py` after `feast apply` and
`feast materialize-incremental`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import FeatureStore
from feast.data_source import PushMode

ONLINE = ["driver_stats:conv_rate", "driver_activity:trips_1h", "driver_activity:fare_mean_12h"]


def main(folder: Path) -> None:
    store, now = FeatureStore(str(folder)), datetime.now(UTC)
    asked = pd.DataFrame(
        {
            "driver_id": [1001, 1002, 1001, 4711],
            "event_timestamp": [now - timedelta(hours=h) for h in (0, 3, 30, 1)],
            "fare_offered": [18.0, 25.0, 9.5, 12.0],
        }
    )
    past = store.get_historical_features(asked, features=store.get_feature_service("ride_offers")).to_df()
    sys.stdout.write(f"as of each row's own moment:\n{past.to_string()}\n\n")
    pushed = {"driver_id": 1001, "measured": now, "written": now, "conv_rate": 0.99, "acc_rate": 0.5, "trips_today": 12}
    store.push("driver_stats_push", pd.DataFrame([pushed]), to=PushMode.ONLINE_AND_OFFLINE)
    online = store.get_online_features(ONLINE, [{"driver_id": 1001}, {"driver_id": 4711}]).to_df()
    sys.stdout.write(f"now:\n{online.to_string()}\n")


if __name__ == "__main__":
    main(Path(__file__).parent)
