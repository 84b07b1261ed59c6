"""Results that took long, remembered in a file of JSON, so that a run that was killed goes on."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxnas.runs.files import write_whole


class JsonCache:
    """Results by label; call it with a label and with what computes the result.

    Each new result is written before it is returned; what is in the file is not computed again.
    Scores of architectures have `ScoreStore`.

    Examples:
        >>> import tempfile
        >>> from jaxnas.runs import JsonCache
        >>> path = f"{tempfile.mkdtemp()}/runs.json"
        >>> JsonCache(path, "runs", {"epochs": 3})("a", lambda: {"accuracy": 90.0})
        {'accuracy': 90.0}
        >>> JsonCache(path, "runs", {"epochs": 3})("a", lambda: {"accuracy": 0.0})
        {'accuracy': 90.0}
    """

    def __init__(
        self, path: str | os.PathLike[str], name: str, context: Mapping[str, Any] | None = None
    ):
        """Read the file, if there is one.

        Args:
            path: of the file, in a folder that exists.
            name: what the results are, in the plural.
            context: JSON values: what the results depend on besides their label.

        Raises:
            TypeError: the context is no JSON.
            ValueError: the file is damaged, or depends on another context.
        """
        self._path, self._name = Path(path), name
        # As JSON gives it back: tuples are lists.
        self._content: dict[str, Any] = {
            "context": json.loads(json.dumps(dict(context or {}))),
            name: {},
        }
        if not self._path.is_file():
            return
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            there, _ = found["context"], found[name].keys()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} must hold {name} and their context: got '{error}'; restore it from a "
                "copy, or delete it to begin anew."
            ) from error
        if there != self._content["context"]:
            raise ValueError(f"{path} holds {name} of another setting; choose another folder.")
        self._content = dict(found)

    def __call__(self, label: str, compute: Callable[[], Any]) -> Any:
        """Return the result of a label, by `compute()` where the file does not have it.

        Raises:
            OSError: the file cannot be written.
        """
        results = self._content[self._name]
        if label not in results:
            results[label] = compute()
            write_whole(self._path, json.dumps(self._content, indent=1).encode())
        return results[label]
