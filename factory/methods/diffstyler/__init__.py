"""DiffStyler as a method of the factory."""
