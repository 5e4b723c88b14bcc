"""Where does a picture become bytes, of which any prefix is a picture again?

Read `codec.py` first: from a picture to a stream and back. `container.py` is the format of the
file, `coder.py` says what the codec asks of a model, `model_store.py` finds the model of a
stream and opens it. None of these knows PyTorch.

`wavelet.py` is the coder of the default model, the wavelet model: the folder `progdtd/wavelet/` has
its coefficients (`transform.py`), their order (`walk.py`) and their probabilities (`network.py`).

`hyperprior.py` is the coder of hyperpriors: from a picture to latents and back. `channels.py` has
the levels of the paper, prefixes of the channels; `tritplanes.py`, `digits.py` and
`sensitivities.py` the levels that refine all channels, digit by digit. `integer_network.py` makes
the decoder's probabilities the encoder's on every machine, `tiles.py` bounds the memory,
`latent_refinement.py` fits a latent to its image. `entropy.py` codes the symbols of both coders.

`__main__.py` is the command line, `contact_sheet.py` draws the levels side by side, `pillow.py`
opens streams with `Image.open`.
"""

from progdtd.codec.codec import Codec

__all__ = ["Codec"]
