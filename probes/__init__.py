"""What is measured on a saved checkpoint: linear, kNN, information, rate. A probe is a function of features, labels and a seed."""
