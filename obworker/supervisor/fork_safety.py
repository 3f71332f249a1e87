def problems() -> list[str]:
    return []


def release_thread_pools() -> None:
    pass
