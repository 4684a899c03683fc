"""Files and their formats: manifest, members of a tar, pictures, tables, local and remote folders.

Imports `emlnet`.
"""
