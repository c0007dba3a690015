"""What is measured on a saved checkpoint: labels, information, geometry, rate. A probe is a
function of features, labels and a seed.
"""
