"""What can keep a benchmark from measuring."""


class BenchError(Exception):
    """The benchmark could not measure what it is for; the text says why and what would mend it."""


class NotConnected(BenchError):
    """The part of the sidecar that is to be measured is not there; baselines beside it can still be measured."""
