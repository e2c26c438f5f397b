"""Job: tune and train one model on two workers, as one tracked run. Prints the run's id."""

from rayplat import Platform
from rayplat.demo import jobs, steps

if __name__ == "__main__":
    recipe = jobs.arguments(recipe="first or second: which features the model takes").recipe
    jobs.show({"run_id": steps.train(Platform(), jobs.recipe(recipe))})
