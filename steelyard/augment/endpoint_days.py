"""The day from which on a run asks an endpoint: what a remote name stands for changes with time, so the day names the records.

It is kept beside the run. One that goes on after midnight, or the next week, goes on with what it has; another directory asks anew.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from steelyard.core.errors import SteelyardError
from steelyard.core.files import write_json

FILE = "endpoints.json"


def first_asked(directory: Path, url: str, model: str) -> str:
    """The day (UTC, YYYY-MM-DD) this model was first asked in this directory; today, which is noted, if it never was.

    Raises:
        SteelyardError: the note is damaged.
    """
    path = directory / FILE
    try:
        days = json.loads(path.read_text(encoding="utf-8"))
        day = days.get(url, {}).get(model)
        if day is not None:
            return datetime.date.fromisoformat(day).isoformat()
    except FileNotFoundError:
        days = {}
    except (ValueError, TypeError, AttributeError) as error:
        raise SteelyardError(
            "it does not say when endpoints were first asked", where=str(path), do="Delete it; answers are asked for anew."
        ) from error
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    days.setdefault(url, {})[model] = today
    write_json(path, days)
    return today
