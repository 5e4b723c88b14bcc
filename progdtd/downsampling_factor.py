"""How much smaller than the image the latents of the field's hyperpriors are."""

LATENT_FACTOR = 16
"""The downsampling factor of the latent."""

HYPER_FACTOR = 64
"""That of the hyper-latent: both sides of an image are padded to multiples."""

LATENT_TO_HYPER = HYPER_FACTOR // LATENT_FACTOR
"""How much smaller than the latent the hyper-latent is."""
