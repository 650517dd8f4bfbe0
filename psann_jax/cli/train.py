"""train: run a config from the start, or from its workdir's newest checkpoint on."""

from psann_jax.cli import flags
from psann_jax.cli.exits import BAD_INPUT, exit_code

HELP = """usage: train --config FILE[:PRESET] [--workdir DIR] [--config.FIELD=VALUE ...]

Trains the model of a config file. Started again with the same workdir it goes on from the
newest checkpoint, exactly. Exit codes: 0 done, 2 bad input, 3 no finite loss any more,
74 a failure of the machine, as a full disk, 75 stopped and saved.
"""


def main(argv: list[str]) -> int:
    if flags.wants_help(argv):
        return _help([a for a in argv if a not in ("-h", "--help", "-help")])
    return exit_code(lambda: _train(argv))


def _train(argv: list[str]) -> None:
    config = flags.load_config(argv)
    from psann_jax import cluster
    from psann_jax.run.environment import set_up
    from psann_jax.run.main import run
    from psann_jax.run.stop import Preempted, StopSignal

    cluster.join()  # which takes SIGTERM for itself
    with StopSignal(at_once=True):  # before the first step, and after the last
        try:
            set_up()
            run(config)
        except KeyboardInterrupt:
            raise Preempted(
                "interrupted; start it again to go on from what is saved", None
            ) from None


def _help(argv: list[str]) -> int:
    print(HELP)
    if not argv:
        print("With --config FILE --help, the fields of that config follow.")
        return 0
    try:
        config = flags.load_config(argv)
    except ValueError as error:
        flags.say_error(error)
        return BAD_INPUT
    print(f"fields and values:\n{flags.field_table(config)}")
    return 0
