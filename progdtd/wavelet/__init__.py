"""How does a picture become digits of wavelet coefficients, and digits a picture, without PyTorch?

Read `walk.py` first: the order of digits. `transform.py` is the wavelet, `network.py` runs the
model's file, `picture.py` shows what is known. The networks themselves are in `models/wavelet.py`.
"""
