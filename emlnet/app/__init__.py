"""The web page of `emlnet app`.

Imports `emlnet.registry`, `emlnet.inference`, `emlnet.data` and the files above.
"""
