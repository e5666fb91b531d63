"""Read a problem file: TOML, checked against the schema, made into a frozen :class:`Problem`.

A file with mistakes never gets further than here: the first mistake is named in one line with
its key, what was found and what is allowed, and the others are counted. The modules that need
DOLFINx are imported only after the file was found right, so that a typo is answered at once.
Nothing in a file is evaluated as code.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from congested import problem_schema as schema
from congested.errors import InputError
from congested.problem import Problem
from congested.problem_build import build_problem
from congested.problem_measures import ImageTable, PointsTable
from congested.problem_table import Key, Mistake, Models, Table, dotted, resolve, shown


def read_problem(path: str | Path) -> Problem:
    """Read a problem file.

    Parameters
    ----------
    path
        TOML file; relative paths in it are relative to its directory.

    Returns
    -------
    Problem
        The frozen problem; ``problem.description`` shows it with the defaults filled in.

    Raises
    ------
    InputError
        If the file cannot be read or has a mistake.
    """
    path = Path(path)
    return problem_from_tables(_parse(path), directory=path.parent, file=str(path))


def problem_from_tables(
    document: Mapping[str, Any], *, directory: Path | None = None, file: str | None = None
) -> Problem:
    """Make a problem from the tables of a problem file that is already parsed.

    Parameters
    ----------
    document
        What a TOML reader returns: title and tables.
    directory
        Directory that relative paths start from; by default the current one.
    file
        Name of the file for error messages.

    Raises
    ------
    InputError
        If there is a mistake.
    """
    directory = Path.cwd() if directory is None else directory
    tables, mistakes = _validate(document)
    mistakes += _wrong_files(tables, directory)
    mistakes += _missing_boxes(tables)
    mistakes += _wrong_dimensions(tables)
    mistakes += _points_outside(tables)
    if mistakes:
        raise _input_error(mistakes, file)
    return build_problem(str(document.get("title", "")), tables, directory, file)


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError("found no such file; allowed: a problem file", file=str(path)) from None
    except UnicodeDecodeError as error:
        message = f"found bytes that are not UTF-8 at byte {error.start}; allowed: TOML in UTF-8"
        raise InputError(message, file=str(path)) from None
    except OSError as error:
        message = f"found a path that cannot be read ({error.strerror}); allowed: a problem file"
        raise InputError(message, file=str(path)) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(place[1]) if place else len(text.splitlines())
        reason = re.sub(r"\s*\(at [^)]*\)", "", str(error))
        message = f"line {line}: found a mistake of TOML syntax ({reason}); allowed: TOML 1.0"
        raise InputError(message, file=str(path)) from None


def _input_error(mistakes: Sequence[Mistake], file: str | None) -> InputError:
    first = mistakes[0]
    message = f"found {first.found}; allowed: {first.allowed}"
    others = len(mistakes) - 1
    if others:
        message += f" (and {others} more mistake{'s' if others > 1 else ''})"
    return InputError(message, key=dotted(first.key), file=file)


# --- words ----------------------------------------------------------------------------------


def _nearest(word: object, words: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(str(word).lower(), words, n=1, cutoff=0.6)
    return close[0] if close else None


def _did_you_mean(word: object, words: Sequence[str]) -> str:
    near = _nearest(word, words)
    return f' (did you mean "{near}"?)' if near else ""


def _unknown_key(key: Key, allowed: Sequence[str]) -> Mistake:
    found = "an unknown key" + _did_you_mean(key[-1], allowed)
    return Mistake(key, found, "only " + ", ".join(allowed))


def _wrong_word(key: Key, word: object, words: Sequence[str]) -> Mistake:
    allowed = " or ".join(f'"{entry}"' for entry in words)
    if key[-1] == "kind" and word in [tags[0] for tags in schema.MODELS[str(key[0])] if tags]:
        return Mistake(key, f"{shown(word)}, which has no place inside another", allowed)
    return Mistake(key, shown(word) + _did_you_mean(word, words), allowed)


# --- one table ------------------------------------------------------------------------------


def _validate(document: Mapping[str, Any]) -> tuple[dict[str, Table], list[Mistake]]:
    """Return the tables that are right in themselves and the mistakes of the others."""
    names = ["title", *schema.MODELS]
    mistakes = [_unknown_key((name,), names) for name in document if name not in names]
    meant = {_nearest(name, names) for name in document if name not in names}
    if not isinstance(document.get("title", ""), str):
        mistakes.append(Mistake(("title",), shown(document["title"]), "text"))
    tables: dict[str, Table] = {}
    for name in schema.MODELS:
        raw = document.get(name, schema.DEFAULTS.get(name))
        if raw is None:
            if name not in meant:
                mistakes.append(Mistake((name,), "nothing", f"a table [{name}]"))
        elif not isinstance(raw, dict):
            mistakes.append(Mistake((name,), shown(raw), f"a table [{name}]"))
        else:
            table, wrong = _validate_table((name,), schema.MODELS[name], raw)
            mistakes += wrong
            if table is not None:
                tables[name] = table
    return tables, mistakes


def _validate_table(
    place: Key, models: Models, raw: dict[str, Any]
) -> tuple[Table | None, list[Mistake]]:
    """Return a table, None if it has a mistake, and its mistakes.

    Parameters
    ----------
    place
        Where the table is, as a key.
    models
        The models it may have.
    raw
        What the file says.
    """
    model = _choose_model(place, models, raw)
    if isinstance(model, Mistake):
        return None, [model]
    content, inner = _validate_lists(place, model, raw)
    try:
        table = model.model_validate(content)
    except ValidationError as error:
        return None, [*_translate(place, raw, model, error), *inner]
    own = [Mistake((*place, *key), found, allowed) for key, found, allowed in table.mistakes()]
    return None if own or inner else table, own + inner


def _validate_lists(
    place: Key, model: type[Table], raw: dict[str, Any]
) -> tuple[dict[str, Any], list[Mistake]]:
    """Return what the file says with tables for the lists of tables in it, and their mistakes.

    An empty table stands for each that has a mistake.
    """
    content, mistakes = dict(raw), []
    for name, models in model.lists.items():
        if not isinstance(raw.get(name), list):
            continue
        entries = list(raw[name])
        for number, entry in enumerate(entries):
            if isinstance(entry, dict):
                table, wrong = _validate_table((*place, name, number), models, entry)
                entries[number] = Table() if table is None else table
                mistakes += wrong
        content[name] = entries
    return content, mistakes


def _choose_model(place: Key, models: Models, raw: dict[str, Any]) -> type[Table] | Mistake:
    """Return the model that ``kind`` (and ``shape``) ask for, or the mistake in these words."""
    for position, discriminator in enumerate(("kind", "shape")):
        words = list(dict.fromkeys(tags[position] for tags in models if len(tags) > position))
        if not words:
            break
        key = (*place, discriminator)
        if discriminator not in raw:
            known = {name for model in models.values() for name in model.model_fields}
            for other in raw:
                if other not in known and _nearest(other, [discriminator]):
                    return _unknown_key((*place, other), [discriminator])
            model = _model_without(position, models, raw)
            return model or Mistake(key, "nothing", " or ".join(f'"{word}"' for word in words))
        word = raw[discriminator]
        if word not in words:
            return _wrong_word(key, word, words)
        models = {
            tags: model
            for tags, model in models.items()
            if tags[position : position + 1] == (word,)
        }
    return next(iter(models.values()))


def _model_without(position: int, models: Models, raw: dict[str, Any]) -> type[Table] | None:
    """Return the model that needs no further word, unless a key shows that another is meant."""
    plain = next((model for tags, model in models.items() if len(tags) == position), None)
    if plain is None:
        return None
    others = {key for model in models.values() for key in model.model_fields}
    return None if others.difference(plain.model_fields).intersection(raw) else plain


def _translate(
    place: Key, raw: dict[str, Any], model: type[Table], error: ValidationError
) -> list[Mistake]:
    """Translate what pydantic reports about a table; unknown keys come first."""
    unknown: dict[Key, Mistake] = {}
    others: dict[Key, Mistake] = {}
    meant: set[Key] = set()
    for entry in error.errors(include_url=False):
        owner, key = _locate(place, raw, model, entry)
        kind = entry["type"]
        if kind == "extra_forbidden":
            allowed = list(owner.model_fields)
            unknown[key] = _unknown_key(key, allowed)
            meant.add((*key[:-1], str(_nearest(key[-1], allowed))))
        elif key in others:  # the other branches of a union say the same in other words
            continue
        elif kind == "literal_error":
            words = re.findall(r"'([^']*)'", entry["ctx"]["expected"])
            others[key] = _wrong_word(key, entry["input"], words)
        else:
            found = "nothing" if kind == "missing" else shown(entry["input"])
            field = next(part for part in reversed(key) if part in owner.model_fields)
            others[key] = Mistake(key, found, str(owner.model_fields[str(field)].description))
    return [*unknown.values(), *(m for key, m in others.items() if key not in meant)]


def _locate(
    place: Key, raw: dict[str, Any], model: type[Table], entry: Mapping[str, Any]
) -> tuple[type[Table], Key]:
    """Return the innermost table model and the key of an error.

    pydantic mixes the names of union branches into the place; what does not lead anywhere in
    the document is such a name, unless it is the last part and says what is missing.
    """
    key = place
    here: Any = raw
    for position, part in enumerate(entry["loc"]):
        last = position == len(entry["loc"]) - 1
        if isinstance(here, dict) and (part in here or (last and entry["type"] == "missing")):
            key = (*key, part)
            here = here.get(part)
            if isinstance(here, dict) and part in model.tables:
                model = model.tables[part]
        elif isinstance(here, list) and isinstance(part, int):
            key = (*key, part)
            here = here[part]
    return model, key


# --- between tables -------------------------------------------------------------------------


def _placed(tables: Mapping[str, Table]) -> Iterator[tuple[Key, Table]]:
    """Yield all tables with their places; a mixture is its parts."""
    for name, table in tables.items():
        for key, inner in table.inner():
            yield (name, *key), inner


def _wrong_files(tables: Mapping[str, Table], directory: Path) -> Iterator[Mistake]:
    for place, table in _placed(tables):
        for key in table.file_keys:
            file = getattr(table, key)
            if isinstance(file, str) and not (path := resolve(file, directory)).is_file():
                what = "a directory" if path.is_dir() else "no such file"
                yield Mistake((*place, key), f"{shown(file)}, {what}: {path}", "an existing file")


def _missing_boxes(tables: Mapping[str, Table]) -> Iterator[Mistake]:
    """Yield the images that neither know their box nor can take that of the domain."""
    if isinstance(tables.get("domain"), schema.MeshTable):
        for place, table in _placed(tables):
            if isinstance(table, ImageTable) and not table.knows_its_box:
                if table.lower is None and table.upper is None:
                    allowed = "the corners lower and upper of the image, as the domain is no box"
                    yield Mistake((*place, "lower"), "nothing", allowed)


def _wrong_dimensions(tables: Mapping[str, Table]) -> Iterator[Mistake]:
    """Yield the measures whose dimension is not that of the first table that shows one."""
    shows = [(place, shape) for place, table in _placed(tables) if (shape := table.extent())]
    if shows:
        first, (first_key, dimension) = shows[0]
        for place, (key, other) in shows[1:]:
            if other != dimension:
                yield Mistake(
                    (*place, *key),
                    f"dimension {other}",
                    f"dimension {dimension} as in {dotted((*first, *first_key))}",
                )


def _points_outside(tables: Mapping[str, Table]) -> Iterator[Mistake]:
    domain = tables.get("domain")
    if isinstance(domain, schema.BoxTable):
        for place, table in _placed(tables):
            if isinstance(table, PointsTable):
                points = table.points or ()
                # Points of another dimension are a mistake of their own.
                if points and len(points[0]) == len(domain.lower):
                    for number in domain.outside(points):
                        key = (*place, "points", number)
                        yield Mistake(key, shown(points[number]), "a point of the domain")


# --- back to text ---------------------------------------------------------------------------


def problem_text(problem: Problem) -> str:
    """Return the effective problem as the text of a problem file.

    A problem that was read from a file gives a file that reads as the same problem from any
    directory, whatever flags changed. Parts made in Python are written as well as their fields
    allow.
    """
    description = problem.description
    lines = [f"title = {_toml(description.pop('title'))}"]
    for name, table in description.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    if isinstance(value, Mapping):
        entries = (f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items())
        return "{" + ", ".join(entries) + "}"
    if value in ("inf", "-inf"):  # how a description, which is JSON, spells these numbers
        return str(value)
    # Of the characters that JSON leaves alone only DEL has no place in a TOML string.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")
