"""The commands, one per file, in three groups: training, evaluating, models.

May import every folder of `pipelines`; only `pipelines.command_table` refers to them.
"""
