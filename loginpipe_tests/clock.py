"""A clock that a test moves."""


class Clock:
    """Monotonic seconds, which pass only in pauses and when a test moves the clock.

    Attributes:
        pauses: the pauses so far, in seconds.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
