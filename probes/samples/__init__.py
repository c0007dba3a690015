"""Mutual information of paired samples, and sources whose information is known."""
