"""The data benchmark: one module a part, each with `measure(work, quick)`; `python -m benchmarks.data` runs them."""
