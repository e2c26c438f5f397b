"""Computing with a model under load: batches that follow it, what they cost, and who may still wait."""
