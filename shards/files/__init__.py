"""What lies on disk: manifest, members of a tar, pictures as stored, local and remote folders.

Imports `emlnet`.
"""
