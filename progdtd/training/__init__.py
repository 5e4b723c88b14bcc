"""How does a network learn, and what does it minimise?

Read `trainer.py` first: a whole training from the first step to the weights. `losses.py` is the
rate-distortion loss of hyperpriors, `wavelet.py` that of the wavelet model, `optimizer.py` is SOAP
for convolutions, `tracking.py` writes down what was measured on the way.
"""
