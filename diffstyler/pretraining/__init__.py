"""Training of a small base: a latent diffusion of the Stable Diffusion architecture."""
