"""`fhrt`: the commands, and the one place where errors become exit codes.

0 all done, 1 failed, 2 usage, 3 some items failed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

INTERRUPTED = 130


def main() -> None:
    """The entry point of the `fhrt` script."""
    if sys.argv[1:] == ["--version"]:  # at once: nothing but this package is imported
        from fhrt import __version__

        print(f"fhrt {__version__}")
        return
    sys.exit(run_app(sys.argv[1:]))


def run_app(arguments: list[str]) -> int:
    """Run one command line; returns the exit code. Errors are printed as one line on stderr."""
    from typer import Abort
    from typer.exceptions import TyperException

    from fhrt.errors import FhrtError

    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # an error is one line, and it is ours
    warnings.formatwarning = lambda message, *_: f"fhrt: {message}\n"
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    try:
        code = _app()(args=arguments, standalone_mode=False, obj={"debug": debug})
        if code == INTERRUPTED:  # typer turns KeyboardInterrupt into this
            _say("fhrt: interrupted")
        return code if isinstance(code, int) else 0
    except FhrtError as error:
        if debug:
            raise
        _say(f"fhrt: {error}")
        return error.exit_code
    except TyperException as error:
        _say(f"fhrt: {error.format_message()} (see fhrt --help)")
        return error.exit_code
    except (KeyboardInterrupt, Abort):
        _say("fhrt: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away; Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        _say(f"fhrt: {type(error).__name__}: {error} (--debug shows where)")
        return 1


def _app() -> typer.Typer:
    import typer

    from fhrt.cli import bench, data, demo, doctor, evaluate, export, models, run, train

    app = typer.Typer(
        name="fhrt",
        help="Restore faces in photographs and films.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def options(
        version: bool = typer.Option(False, "--version", help="Print the version."),
    ) -> None:
        if version:
            from fhrt import __version__

            print(f"fhrt {__version__}")

    app.command("run")(run.run)
    app.command("demo")(demo.demo)
    app.add_typer(models.app, name="models")
    app.command("doctor")(doctor.doctor)
    app.command("eval")(evaluate.evaluate)
    app.command("bench")(bench.bench)
    app.command("train")(train.train)
    app.command("export")(export.export)
    app.add_typer(data.data, name="data")
    return app


def _say(line: str) -> None:
    print(line.replace("\n", " "), file=sys.stderr)


if __name__ == "__main__":
    main()
