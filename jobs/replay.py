"""Job: replay part of November through HTTP. The alias stays where it is, unless someone moves it meanwhile."""

from rayplat import Platform
from rayplat.demo import jobs, steps

if __name__ == "__main__":
    requests = int(jobs.arguments(requests="how many").requests)
    platform = Platform()
    steps.materialize(platform)
    jobs.show(steps.replay(platform, requests, swap=lambda: None))
