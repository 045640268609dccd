"""Evaluation: exact ranks, metrics, language bias, significance, reports.

:class:`hybridret.evaluation.judging.Evaluation` is the path from a data set to a report.
"""
