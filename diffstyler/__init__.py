"""DiffStyler (arXiv 2403.18461): localized style transfer with a LoRA of Stable Diffusion a style.

The package is the mathematics: loading a base, training an adapter, inverting photos, sampling.
"""
