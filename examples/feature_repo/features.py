"""The definitions: a plain Feast view over a Delta table, one with windows declared with rayplat, one on demand."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource, ValueType
from feast.feature_logging import LoggingConfig
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from rayplat.data import features
from rayplat.data.feast.declare import feast_view
from rayplat.data.feast.source import DeltaLoggingDestination, DeltaSource

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)

stats_source = DeltaSource(table="driver_stats", timestamp_field="measured", created_timestamp_column="written")

driver_stats = FeatureView(
    name="driver_stats",
    entities=[driver],
    ttl=timedelta(hours=6),
    schema=[
        Field(name="driver_id", dtype=Int64),
        Field(name="conv_rate", dtype=Float64),
        Field(name="acc_rate", dtype=Float64),
        Field(name="trips_today", dtype=Int64),
    ],
    source=PushSource(name="driver_stats_push", batch_source=stats_source),
)

ACTIVITY = features.FeatureView(
    "driver_activity",
    features.Entity("driver", "driver_id", ("int64",)),
    "trips",
    "ended",
    windows=(
        features.Window("trips_1h", "fare", "count", timedelta(hours=1)),
        features.Window("fares_1h", "fare", "sum", timedelta(hours=1)),
        features.Window("fare_mean_12h", "fare", "mean", timedelta(hours=12)),
    ),
)
driver_activity = feast_view(ACTIVITY, [driver])

request = RequestSource(name="ride_request", schema=[Field(name="fare_offered", dtype=Float64)])


@on_demand_feature_view(
    sources=[driver_activity, request], schema=[Field(name="fare_ratio", dtype=Float64)], mode="pandas"
)
def fare_against_mean(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"fare_ratio": inputs["fare_offered"] / inputs["fare_mean_12h"]})


ride_offers = FeatureService(
    name="ride_offers",
    features=[driver_stats, driver_activity, fare_against_mean],
    logging_config=LoggingConfig(destination=DeltaLoggingDestination(table="ride_offer_logs")),
)
