"""Content-addressed artifacts: objects written once, trees described by a canonical manifest."""
