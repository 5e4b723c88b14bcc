"""How does a picture become digits of wavelet coefficients, and digits a picture, without PyTorch?

Read `transform.py` first.
"""
