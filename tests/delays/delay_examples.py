"""One spec of every kind of delay, and a recording to replay."""

SPECS = {
    "constant": "constant(seconds=2)",
    "exponential": "exponential(mean=2)",
    "gamma": "gamma(mean=2, machine_cv=0.6, task_cv=0.3)",
    "lognormal": "lognormal(mean=2, sigma=0.7)",
    "uniform": "uniform(low=1, high=4)",
    "shifted-exponential": "shifted-exponential(shift=1, mean=3)",
    "pareto": "pareto(shape=2.2, mean=2)",
    "phases": "phases(fast=1, slow=5, fast_for=6, slow_for=3)",
    "trace": "trace(path='{recording}')",
}

RECORDING = "worker,seconds\n0,1.0\n1,2.5\n0,1.5\n1,2.0\n0,0.5\n2,4.0\n"


def spec_of(name, folder):
    """The spec of one kind; a recording is written where it is asked for."""
    recording = folder / "recording.csv"
    recording.write_text(RECORDING)
    return SPECS[name].format(recording=recording)
