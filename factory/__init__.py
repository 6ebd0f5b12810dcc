"""The factory: catalogs, content banks, bulk training, the registry, reports and the CLI."""

__version__ = "0.1.0"
