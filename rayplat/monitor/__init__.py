"""Profiles of data, drift against a baseline, and live quality."""
