"""Job: register what a run has trained, under its content digest."""

from rayplat import Platform
from rayplat.demo import jobs, steps

if __name__ == "__main__":
    run_id = jobs.arguments(run_id="the tracked run, as `jobs/train.py` prints it").run_id
    jobs.show(steps.register(Platform(), run_id))
