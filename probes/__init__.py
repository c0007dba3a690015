"""What is measured on a saved checkpoint: labels, information, rate, distortion. A probe is a function of features, labels and a seed."""
