"""How much smaller than the image the latents of the field's hyperpriors are."""

STRIDE = 64
"""Of the hyper-latent, so that both sides of an image are padded to multiples."""

LATENT_STRIDE = 16
"""Of the latent."""

HYPER_STRIDE = STRIDE // LATENT_STRIDE
"""Of the hyper-latent, compared with the latent."""
