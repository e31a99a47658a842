"""Boots a finished image as a cloud would, and has it prove that it does what it must.

`python -m builder.boottest test ORDER` does it, in the sandbox of whoever wants it done: three boots, two
of them from the image as it is, one a restart. `proofs` says what an image must do, `measures` what is taken
down besides, `checks` runs scripts of an operator's own, `signs` reads a console that says why nothing comes
of it; `comingup` waits for a machine, and `run` is the order of it all.
"""
