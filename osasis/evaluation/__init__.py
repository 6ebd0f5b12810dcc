"""Evaluation of stylizations: metrics of pairs and sets, confidence intervals, baselines."""
