"""Job: build the training sets of both models, point-in-time correct and pinned to table versions."""

from rayplat import Platform
from rayplat.demo import jobs, steps

if __name__ == "__main__":
    platform = Platform()
    jobs.show([steps.build_training_set(platform, recipe) for recipe in steps.RECIPES.values()])
