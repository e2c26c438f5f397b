"""Many models in few processes: the front that requests come to, and the workers that hold the models."""
