"""Let predictors written for openbayes-serving import it: ``import openbayes_serving as serv``.

A module, not a package: where openbayes-serving itself is installed neither overwrites the other,
and the package wins for a plain ``python predictor.py``.
"""

from obworker import emit_event, run

__all__ = ["emit_event", "run"]
