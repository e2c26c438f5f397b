"""Job: write flights, weather, planes, airports and labels into Delta tables."""

from rayplat import Platform
from rayplat.demo import jobs, steps

if __name__ == "__main__":
    jobs.show(steps.ingest(Platform()))
