"""The predictor contract as tables: model directories, requests to them, and the exact answers.

Each case costs one request, and each model costs a server. The cases of a model stand together in
`CASES`, so that a test which goes through all of them needs one server at a time.
"""

from __future__ import annotations

from contract.arguments import argument_cases
from contract.bodies import body_cases
from contract.failures import failure_cases
from contract.files import file_cases
from contract.inits import init_cases
from contract.returned import fixed_cases, stream_cases, value_cases
from contract.rows import Case


def _grouped_by_model() -> tuple[Case, ...]:
    cases = [
        *file_cases(),
        *init_cases(),
        *argument_cases(),
        *body_cases(),
        *value_cases(),
        *fixed_cases(),
        *stream_cases(),
        *failure_cases(),
    ]
    order = {case.model.name: place for place, case in reversed(list(enumerate(cases)))}
    return tuple(sorted(cases, key=lambda case: order[case.model.name]))


CASES = _grouped_by_model()
