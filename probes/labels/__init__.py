"""Probes that predict labels from frozen features."""
