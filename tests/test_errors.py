"""Errors: which class stands for which SQLSTATE, and what the user reads."""

import re
from unittest.mock import Mock

import psycopg
import pytest
from psycopg import errors as pg
from psycopg_pool import PoolTimeout

from pgque import errors
from pgque.errors import PgqueError, from_psycopg, mapped

SQLSTATES = {
    "PQ001": errors.PgqueQueueNotFound,
    "PQ002": errors.PgqueConsumerNotFound,
    "PQ003": errors.PgqueBatchNotFound,
    "PQ004": errors.PgqueMessageNotFound,
    "PQ005": errors.PgqueDeadLetterNotFound,
    "PQ006": errors.PgqueInsertDisallowed,
    "PQ007": errors.PgqueCooperativeConsumer,
    "PQ008": errors.PgqueNormalConsumer,
    "PQ009": errors.PgqueQueueInUse,
    "PQ010": errors.PgqueTickerStopped,
    "PQ011": errors.PgqueTickNotFound,
    "PQ012": errors.PgqueBatchOpen,
    "PQ013": errors.PgqueIsolationError,
    "PQ014": errors.PgqueChangeDenied,
    "PQ015": errors.PgqueSchemaNewer,
    "PQ099": PgqueError,
    "08006": errors.PgqueConnectionError,
    "22003": errors.PgqueInvalidArgument,
    "22023": errors.PgqueInvalidArgument,
    "22P05": errors.PgquePayloadError,
    "25006": errors.PgqueReadOnly,
    "25P02": errors.PgqueTransactionAborted,
    "25P03": errors.PgqueConnectionError,
    "40001": errors.PgqueRetryable,
    "40P01": errors.PgqueRetryable,
    "42501": errors.PgquePermissionDenied,
    "42846": errors.PgqueInvalidArgument,
    "53300": errors.PgqueConnectionError,
    "55P03": errors.PgqueBusy,
    "57014": PgqueError,
    "57P01": errors.PgqueConnectionError,
    "57P05": errors.PgqueConnectionError,
    "XX000": PgqueError,
}


def all_classes(kind: type[Exception]) -> list[type[Exception]]:
    return [kind] + [found for below in kind.__subclasses__() for found in all_classes(below)]


def server_error(
    sqlstate: str, text: str, detail: str | None = None, hint: str | None = None
) -> psycopg.Error:
    """An error as psycopg makes it of a server's answer."""
    error = Mock(spec=psycopg.Error, sqlstate=sqlstate)
    error.diag.message_primary = text
    error.diag.message_detail = detail
    error.diag.message_hint = hint
    return error


@pytest.mark.parametrize(("sqlstate", "kind"), SQLSTATES.items())
def test_sqlstate_decides(sqlstate: str, kind: type[PgqueError]) -> None:
    error = from_psycopg(server_error(sqlstate, "what happened"))
    assert type(error) is kind
    assert error.sqlstate == sqlstate
    assert str(error).startswith("what happened")


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (psycopg.OperationalError("the connection is closed"), errors.PgqueConnectionError),
        (psycopg.InterfaceError("the cursor is closed"), errors.PgqueConnectionError),
        (PoolTimeout("couldn't get a connection"), errors.PgqueConnectionError),
        (psycopg.DataError("no NUL bytes"), errors.PgqueInvalidArgument),
        (psycopg.ProgrammingError("cannot adapt type"), errors.PgqueInvalidArgument),
        (psycopg.NotSupportedError("not supported"), PgqueError),
        (psycopg.Error(), PgqueError),
    ],
)
def test_without_sqlstate_the_class_decides(cause: psycopg.Error, kind: type[PgqueError]) -> None:
    error = from_psycopg(cause)
    assert type(error) is kind
    assert error.sqlstate is None
    assert str(error)


@pytest.mark.parametrize("sqlstate", ["3F000", "42704", "42883", "42P01"])
def test_only_objects_of_pgque_make_the_schema_missing(sqlstate: str) -> None:
    ours = from_psycopg(server_error(sqlstate, 'schema "pgque" does not exist'))
    assert type(ours) is errors.PgqueSchemaMissing
    assert "pgque install" in str(ours)
    theirs = from_psycopg(server_error(sqlstate, "function audit.note() does not exist"))
    assert type(theirs) is PgqueError


def test_text_keeps_detail_and_hint() -> None:
    error = from_psycopg(server_error("PQ009", "cannot drop queue", "queue: q", "Unsubscribe."))
    assert str(error) == "cannot drop queue (queue: q)\nUnsubscribe."


def test_own_advice_comes_before_the_server_s() -> None:
    error = from_psycopg(server_error("42501", "permission denied for function send"))
    assert "pgque_writer" in str(error)
    error = from_psycopg(server_error("42883", "no function pgque.send", None, "Add casts."))
    assert "Add casts." not in str(error)


def test_invalid_arguments_are_value_errors() -> None:
    assert issubclass(errors.PgqueInvalidArgument, ValueError)
    assert issubclass(errors.PgquePayloadError, errors.PgqueInvalidArgument)


def test_mapped_chains_the_error_of_psycopg() -> None:
    cause = pg.LockNotAvailable("could not obtain lock")
    with pytest.raises(errors.PgqueBusy) as caught, mapped:
        raise cause
    assert caught.value.__cause__ is cause


def test_mapped_names_the_encoding_of_the_connection() -> None:
    with pytest.raises(errors.PgqueInvalidArgument, match="client_encoding"), mapped:
        "€".encode("latin1")


def test_mapped_leaves_other_errors_alone() -> None:
    with pytest.raises(KeyError), mapped:
        raise KeyError("theirs")


def test_the_tree_at_the_top_is_the_tree() -> None:
    """The drawing in the module's docstring and the classes are held against each other."""
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        found = re.search(r"\b(Pgque\w+|Exception)\b", line)
        if not line.startswith("    ") or found is None:
            continue
        depth = found.start()
        above = [(d, name) for d, name in above if d < depth]
        if above:
            drawn[found[1]] = above[-1][1]
        above.append((depth, found[1]))
    real = {
        kind.__name__: kind.__bases__[0].__name__
        for kind in all_classes(PgqueError)
        if kind.__module__ == errors.__name__
    }
    assert drawn == real


def test_the_tree_is_sorted() -> None:
    assert errors.__doc__ is not None
    names = re.findall(r"^ {8}[├└]── (Pgque\w+)", errors.__doc__, re.MULTILINE)
    assert len(names) > 20
    assert names == sorted(names)
