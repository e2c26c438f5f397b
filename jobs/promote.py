"""Job: evaluate a version against the present champion on the pinned holdout, and ask for the alias.

It ends at the approval: `rayplat approve` is another person's.
"""

from rayplat import Platform
from rayplat.demo import jobs, steps

if __name__ == "__main__":
    version = int(jobs.arguments(version="the model version").version)
    platform = Platform()
    jobs.show(steps.request(platform, version, platform))
