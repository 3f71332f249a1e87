"""Serve a predictor.py over HTTP with supervised, GPU-pinned workers.

A predictor.py needs four names: ``run`` to serve its class when it is executed as a script,
``emit_event`` to report something about the current request, ``extend_deadline`` to give it more
time, and ``request_id`` to name it.
"""

from obworker.predictor.deadline import extend_deadline
from obworker.predictor.events import emit_event
from obworker.request_context import request_id

__version__ = "0.1.0"
__all__ = ["__version__", "emit_event", "extend_deadline", "request_id", "run"]


def run(predictor_cls: type) -> None:
    """Serve the class `predictor_cls`, and end the process when the server has stopped.

    Command-line options of obworker are read from ``sys.argv``. While obworker itself imports a
    predictor.py that calls this without the ``__main__`` guard, the call only names the class.
    """
    from obworker.cli import run_class  # the command line's imports are not for every worker

    run_class(predictor_cls)
