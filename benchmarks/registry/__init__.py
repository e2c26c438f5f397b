"""The registry benchmark: one module a part, each with `measure(work, quick)`; `python -m benchmarks.registry` runs
them."""
