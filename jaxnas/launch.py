"""How every command of jaxnas starts: under absl, and with errors in one line."""

from collections.abc import Callable, Sequence

from absl import app, flags, logging

from jaxnas import allocator


def launch(main: Callable[[], None]) -> None:
    """Parse the flags and run `main`; wrong input ends the process with one line and status 1."""

    def guarded(arguments: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            # JAX logs which accelerators are not there: nothing that a user asked for.
            logging.set_verbosity(logging.WARNING)
        if len(arguments) > 1:
            raise app.UsageError(f"Unknown arguments: {' '.join(arguments[1:])}.")
        allocator.keep_memory()
        try:
            main()
        except (ValueError, ImportError, OSError) as error:
            raise SystemExit(f"error: {error}") from error

    app.run(guarded)
