"""--config FILE[:PRESET], --config.FIELD=VALUE and --workdir, read by ml_collections."""

from collections.abc import Iterable
import functools
from pathlib import Path
import sys

from absl import flags
from ml_collections import config_flags

from psann_jax.bases import elsewhere
from psann_jax.config import Config, checked, leaves, nearest

_CONFIG = "--config"


def load_config(argv: list[str]) -> Config:
    """The config that a command line asks for, checked.

    Args:
      argv: arguments without the program's name.

    Raises:
      ValueError: one line: no config, an unknown field, a value of another type or range.
    """
    argv = _joined(argv)
    file = next((a.split("=", 1)[1] for a in argv if a.startswith(_CONFIG + "=")), None)
    if file is None:
        raise ValueError("--config is missing; give a file, as --config configs/quickstart.py")
    if not Path(file.split(":")[0]).is_file():
        raise ValueError(f"--config={file}: no such file{_near_file(file)}")
    _refuse_unknown(argv, _parse([f"{_CONFIG}={file}"]))
    unset = [a for a in argv if a.startswith(_CONFIG + ".") and a.endswith("=None")]
    config = _parse([a for a in argv if a not in unset])
    for argument in unset:  # ml_collections knows no None for a field that has a value
        *parents, name = argument.removeprefix(_CONFIG + ".").removesuffix("=None").split(".")
        setattr(functools.reduce(getattr, parents, config), name, None)
    return checked(config)


def _parse(argv: list[str]) -> Config:
    sys.modules.pop("config_config", None)  # else a file is run within the last one's names
    values = flags.FlagValues()
    program = ["psann_jax", *argv]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=program)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    try:
        rest = values(program)
    except flags.Error as error:
        raise ValueError(_one_line(error)) from None
    except (TypeError, KeyError) as error:
        raise ValueError(f"a --config flag cannot be read: {_one_line(error)}") from None
    except SyntaxError as error:
        where = f"{error.filename}, line {error.lineno}"
        raise ValueError(f"{where}: SyntaxError: {error.msg}") from None
    except AttributeError as error:
        if "get_config" not in str(error):
            raise
        raise ValueError(f"{argv[0]} has no function get_config()") from None
    if rest[1:]:
        raise ValueError(f"{rest[1]!r} is no flag; flags begin with --")
    config = values["config"].value
    if not isinstance(config, Config):
        raise ValueError(f"get_config() of {argv[0]} returned no psann_jax Config")
    if values["workdir"].value is not None:
        config.workdir = values["workdir"].value
    return config


def _joined(argv: list[str]) -> list[str]:
    """`--flag value` as `--flag=value`, so that every flag is one argument."""
    joined: list[str] = []
    for argument in argv:
        before = joined[-1] if joined else ""
        if before.startswith("--") and "=" not in before and not argument.startswith("--"):
            joined[-1] = f"{before}={argument}"
        else:
            joined.append(argument)
    return joined


def _refuse_unknown(argv: list[str], default: Config) -> None:
    known = leaves(default)
    for argument in argv:
        name = argument.split("=", 1)[0]
        if name.startswith(_CONFIG + "."):
            field = name.removeprefix(_CONFIG + ".")
            if field not in known:
                raise ValueError(f"config has no field {field!r}{_hint(field, known)}")
        elif name not in (_CONFIG, "--workdir"):
            raise ValueError(f"{name} is no flag{nearest(name, (_CONFIG, '--workdir'))}")


def _hint(field: str, known: Iterable[str]) -> str:
    """Which base has the field, or the nearest one there is."""
    section, _, name = field.partition(".")
    part = name.split(".")[0]
    foreign = section == "base" and not any(f"{k}.".startswith(f"base.{part}.") for k in known)
    return (foreign and elsewhere(part)) or nearest(field, known)


def _near_file(file: str) -> str:
    folder = Path(file).parent
    files = [str(p) for p in folder.glob("*.py")] if folder.is_dir() else []
    return nearest(file, files)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    # absl wraps the traceback of what get_config() raised; its last line says what.
    return lines[-1] if "Traceback" in str(error) else " ".join(" ".join(lines).split())


def field_table(config: Config) -> str:
    """Every field of a config and its value, a line each."""
    return "\n".join(f"  --config.{name}={value!r}" for name, value in leaves(config).items())


def wants_help(argv: list[str]) -> bool:
    return any(a in ("-h", "--help", "-help") for a in argv)


def say_error(error: BaseException) -> None:
    print(f"error: {error}", file=sys.stderr)
