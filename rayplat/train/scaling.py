"""The check of `rayplat.resources` under the name by which training imports it."""

from rayplat.resources import require_resources as require_resources
