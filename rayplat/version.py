"""The version of this release, for modules that are below the package's own."""

__version__ = "0.1.0"
