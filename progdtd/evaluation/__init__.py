"""How good is a model, and against what?

Read `protocols.py` first: the ways to measure one image, done right and as published.
`evaluator.py` measures a model over a folder of images, `classical.py` other codecs, and
`results.py` has the one table for both. `gather.py`, `bd.py` and `charts.py` compare them with each
other and with the published curves (`curves/`). `published_function.py` is the function that the
published code offers.
"""
