"""A clock that a test moves."""


class Clock:
    """Monotonic seconds that pass when a test says so, and in pauses.

    Attributes:
        pauses: what was waited for.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
