from obworker.supervisor.linux import describe_exit


def describe(code: int, *, oom: bool = False) -> str:
    return describe_exit(code) + (", out of memory" if oom else "")
