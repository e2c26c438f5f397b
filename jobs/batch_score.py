"""Job: score a whole table with a registered model. Killed and submitted again, it goes on behind its last commit."""

from rayplat import Platform
from rayplat.demo import jobs

if __name__ == "__main__":
    given = jobs.arguments(
        table="name or name@version",
        model="name, name@alias or name@version",
        output="the table that takes the predictions",
        keys="columns copied beside them, with commas between",
    )
    keys = tuple(name for name in given.keys.split(",") if name)
    jobs.show(Platform().scoring.run(given.table, given.model, given.output, keys=keys))
