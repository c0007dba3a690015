"""The stages of `twobounds gpu-check`: are a GPU's results right, and how fast is it?"""
