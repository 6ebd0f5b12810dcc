"""Corpora: batch stylization on Ray Data."""
