"""The commands, one a file, by what people do with them: training, evaluating, models.

May import every folder of `pipelines`; only `pipelines.command_table` names them.
"""
