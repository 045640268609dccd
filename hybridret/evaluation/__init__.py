"""Judging: exact ranks, metrics, language bias, significance, reports.

One path leads from a data set to a report, :class:`hybridret.evaluation.judging.Evaluation`.
"""
