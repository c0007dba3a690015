"""The stages of `twobounds gpu-check`: is what a GPU computes right, and how fast is it?"""
