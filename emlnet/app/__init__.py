"""The web page of `emlnet app`.

Imports `emlnet.inference`, `emlnet.registry` and `emlnet.data`.
"""
