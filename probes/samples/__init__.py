"""Mutual information of paired samples of any origin, and sources whose truth is known."""
