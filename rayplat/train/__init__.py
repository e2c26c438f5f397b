"""Training, tuning and evaluation on Ray."""
