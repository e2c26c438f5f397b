"""Job: drift and live quality of one version over a window of event time, with the labels known by now."""

from datetime import datetime

from rayplat import Platform
from rayplat.demo import flights, jobs, steps

if __name__ == "__main__":
    given = jobs.arguments(version="the model version", start="ISO 8601, with a zone", end="ISO 8601, with a zone")
    start, end = (datetime.fromisoformat(moment) for moment in (given.start, given.end))
    jobs.show(Platform().monitors.report(steps.MODEL, int(given.version), start, end, flights.LABELS))
