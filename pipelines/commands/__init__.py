"""The commands, one a file, by what people do with them.

May import every folder of `pipelines`; nothing imports it.
"""
