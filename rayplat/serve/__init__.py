"""Model hosts and the way to them: protocols, the alias follower, the inference log's tap and writer."""
