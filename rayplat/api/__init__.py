"""The control API: every verb of `rayplat.services` as an HTTP route under ``/api/v1``."""
