"""Job: serve the champion; its host follows the alias from then on."""

from rayplat import Platform
from rayplat.demo import jobs, steps

if __name__ == "__main__":
    jobs.show(steps.serve(Platform()))
