"""A program of several commands: find the command, parse its flags, run it, return its exit code.

Each command is a function whose parameter is annotated with a dataclass: its fields are the flags.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from emlnet import exits
from emlnet.public_url import public_url

# Ray Train warns in each run about its own actor PreemptionWatcher; it is harmless.
NOISE = "has constructor arguments in the object store and max_restarts"
RAY_LOG_FILTER = {
    # Keep equal lines of several ranks, such as their stack traces; drop only the noise.
    "RAY_DEDUP_LOGS_ALLOW_REGEX": f"^(?!.*{NOISE})",
    "RAY_DEDUP_LOGS_SKIP_REGEX": NOISE,
}


@dataclass(frozen=True)
class Program:
    """A program of several commands.

    commands: verb to `module:function` and a line of help.  A module is imported only when its
    command runs.
    """

    name: str
    about: str
    commands: Mapping[str, tuple[str, str]]

    def parse(self, argv: Sequence[str]) -> Any:
        """Parse arguments, the verb first, to the dataclass of the command.

        Prints help and raises SystemExit for `--help`, `--help-all` and wrong arguments.  Raises
        ValueError for an unknown preset.
        """
        return self._load(argv)[1]

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command that the arguments name and return its exit code."""

        words = sys.argv[1:] if argv is None else argv

        def run() -> object:
            if sys.stderr.isatty():  # Imports take seconds.
                print(f"{self.name} {' '.join(words[:1])}: starting", file=sys.stderr)
            function, config = self._load(words)
            return function(config)

        return exit_code(run)

    def _load(self, argv: Sequence[str]) -> tuple[Callable[[Any], object], Any]:
        verb = self._verb(argv)
        # Set before the command's module imports Ray, which reads them at import.
        for name, value in RAY_LOG_FILTER.items():
            os.environ.setdefault(name, value)
        function = pkgutil.resolve_name(self.commands[verb][0])
        hints = get_type_hints(function)
        (config_type,) = (hint for name, hint in hints.items() if name != "return")
        return function, parse_flags(config_type, f"{self.name} {verb}", argv[1:])

    def _verb(self, argv: Sequence[str]) -> str:
        parser = argparse.ArgumentParser(
            prog=self.name,
            description=self.about,
            epilog=f"`{self.name} COMMAND --help` explains the flags of a command.",
        )
        verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
        for verb, (_, line) in self.commands.items():
            verbs.add_parser(verb, help=line, add_help=False)
        found: str = parser.parse_args(argv[:1]).verb
        return found


def parse_flags(config_type: type, prog: str, words: Sequence[str]) -> Any:
    """Parse flags to a dataclass.

    `--preset NAME` starts from a preset, for `FullCommand` and its subclasses.
    If the dataclass has `common_flags`, `--help` shows only those and `--help-all` all flags.
    """
    from pipelines.config import flags, presets

    preset, rest = flags.take_flag(words, "--preset")
    rules = flags.registry(rest)
    about, common = config_type.__doc__ or "", getattr(config_type, "common_flags", ())
    if hasattr(config_type, "preset"):
        about += f" --preset NAME starts from {', '.join(presets.PRESETS)}."
    if common and {"-h", "--help"} & {*rest}:
        hide_flags(rules, common)
        about += " These are the flags that most people use; --help-all lists all."
    start = {} if preset is None else {"default": presets.start_from(config_type, preset)}
    options: dict[str, Any] = {"description": about, "registry": rules, **start}
    words = ["--help" if word == "--help-all" else word for word in rest]
    style = tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName
    return tyro.cli(config_type, prog=prog, args=words, config=style, **options)


def hide_flags(rules: tyro.constructors.ConstructorRegistry, common: Sequence[str]) -> None:
    """Hide from the help all flags that are not common; only flags without a prefix count."""
    resolving: list[type] = []

    @rules.struct_rule
    def hide(info: tyro.constructors.StructTypeInfo) -> Any:
        if not is_dataclass(info.type) or info.type in resolving:
            return None
        resolving.append(info.type)  # get_struct_spec calls this rule again.
        spec: Any = rules.get_struct_spec(info)
        resolving.remove(info.type)
        fields = [
            field
            if field.name in common or tyro.conf.OmitArgPrefixes in get_args(field.type)
            else replace(field, type=Annotated[field.type, tyro.conf.Suppress])
            for field in spec.fields
        ]
        return replace(spec, fields=tuple(fields))


def exit_code(command: Callable[[], object]) -> int:
    """Run a command and return its exit code, as `emlnet.exits.exit_code` does.

    A failed training or MLflow call and a missing package print one line on stderr and return 1;
    SIGTERM returns 143.
    """

    def run() -> object:
        try:
            return command()
        except ModuleNotFoundError as error:
            raise ValueError(
                f"this machine lacks the package {error.name}; run pip install '.[pipeline]' in "
                "the checkout. On a cluster, add it to the machines' image (deploy/Dockerfile)"
            ) from error
        except Exception as error:
            # These imports take seconds, so only after an error.
            from mlflow.exceptions import MlflowException

            from pipelines.ray_cluster.stop_signal import StoppedError, stopped_exit_code

            if isinstance(error, StoppedError):
                print(public_url(error), file=sys.stderr)
                return stopped_exit_code()
            if isinstance(error, MlflowException):
                raise RuntimeError(str(error)) from error
            raise

    return exits.exit_code(run, (ValueError, RuntimeError, OSError))
