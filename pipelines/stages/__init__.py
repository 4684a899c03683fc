"""The stages of a run: pack, finetune encoders, cache readouts, train the decoder, score, publish.

Imports all folders of `pipelines` but `pipelines.commands`.
"""
