"""Dates of change in a training run, from arrays of (step, signal).

Three questions are answered here, each by its own modules.

*When does a learning curve jump, if at all?* `detect` fits a drift plus up to
three logistic jumps. The null models are the same drifts (constant, linear, or
a power law of the step) with one jump fewer, in AR(1) noise. A parametric
bootstrap of the likelihood ratio decides between them: curves are simulated
from the fitted null model, and the p-value is the share whose likelihood ratio
is at least that of the data. The onset, midpoint and completion of a jump are
the 10, 50 and 90 % points of its logistic. Each comes with an interval of
nominally 95 % coverage, from bootstraps of the fit and its profile likelihood,
never narrower than the measuring interval. A jump is right-censored
(`in_progress`) if its completion lies after the last step, and left-censored
(`before_start`) if its onset lies before the first one; the points outside the
run are then None. Read detector, then selection and evidence (which model),
classification (which status), intervals, and curves (the models themselves).

*When does a signal leave its level and peak?* `events` dates signals that rise
and fall again, such as curvature. `lead_lag` compares such dates with the
transition over many seeds. `survival` summarises dates over seeds, including
the right-censored ones.

*Is something happening now?* `trigger` is an online change detector that only
asks for denser measurements. It dates nothing.
"""

from induction_jax.transition.classification import Interval, Transition
from induction_jax.transition.detector import MIN_POINTS, detect

__all__ = ["MIN_POINTS", "Interval", "Transition", "detect"]
