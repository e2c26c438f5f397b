"""Models of every kind behind one port: what a version's files are becomes a predictor, a streamer, an explainer."""
