"""How good is a model, and against what?

Read `streams.py` first: one image coded by any model, and prefixes of its stream measured.
`protocols.py` has what hyperpriors have beside that, such as the published way, `subjects.py` says
which ways a model has, `evaluator.py` measures a model over a folder of images, `classical.py`
other codecs, and `results.py` has the one table for both. `gather.py`, `bd.py` and `charts.py`
compare them with each other and with the published curves (`curves/`). `published_function.py` is
the function that the published code offers.
"""
