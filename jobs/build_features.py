"""Job: build the declared feature views, register them with Feast, and materialize them to the online store."""

from rayplat import Platform
from rayplat.demo import jobs, steps

if __name__ == "__main__":
    platform = Platform()
    jobs.show({"built": steps.build_features(platform), "materialized": steps.materialize(platform)})
