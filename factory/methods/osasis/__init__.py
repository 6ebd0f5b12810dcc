"""OSASIS as a method of the factory."""
