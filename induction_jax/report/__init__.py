"""Findings, summaries and figures, from the results of a run.

*Findings* (findings, events) are what a run shows: its transition, the verdict
whether it has an induction head, its best heads, the extremes of its spectrum,
and the events of its curvature. The *verdict* is that one yes or no with its
reasons. A *summary* (summary, text) holds findings as plain numbers, in
summary.json and on the screen. An *outcome* (seeds) holds the findings of one
seed that a sweep compares across seeds. Figures are listed in figures.
"""
