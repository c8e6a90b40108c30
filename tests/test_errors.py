"""Errors: the class for each SQLSTATE, and the text that the user reads."""

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
    "08P01": errors.PgqueConnectionError,
    "0A000": PgqueError,
    "0LP01": errors.PgqueInvalidArgument,
    "0P000": errors.PgqueInvalidArgument,
    "22003": errors.PgqueInvalidArgument,
    "22023": errors.PgqueInvalidArgument,
    "22P05": errors.PgquePayloadError,
    "23503": errors.PgqueConstraintViolated,
    "23505": errors.PgqueConstraintViolated,
    "23514": errors.PgqueConstraintViolated,
    "25001": PgqueError,
    "25006": errors.PgqueReadOnly,
    "25P02": errors.PgqueTransactionAborted,
    "25P03": errors.PgqueConnectionError,
    "25P04": errors.PgqueConnectionError,
    "26000": errors.PgqueRetryable,
    "28P01": errors.PgqueConnectionError,
    "2BP01": PgqueError,
    "3D000": errors.PgqueConnectionError,
    "40001": errors.PgqueRetryable,
    "40P01": errors.PgqueRetryable,
    "42501": errors.PgquePermissionDenied,
    "42846": errors.PgqueInvalidArgument,
    "42P05": errors.PgqueRetryable,
    "53100": errors.PgqueOutOfResources,
    "53200": errors.PgqueOutOfResources,
    "53300": errors.PgqueConnectionError,
    "54000": errors.PgqueInvalidArgument,
    "54001": errors.PgqueInvalidArgument,
    "55000": PgqueError,
    "55P03": errors.PgqueBusy,
    "57014": errors.PgqueCanceled,
    "57P01": errors.PgqueConnectionError,
    "57P05": errors.PgqueConnectionError,
    "58030": PgqueError,
    "72000": errors.PgqueRetryable,
    "P0001": PgqueError,
    "XX000": PgqueError,
}


def all_classes(kind: type[Exception]) -> list[type[Exception]]:
    return [kind] + [found for below in kind.__subclasses__() for found in all_classes(below)]


def server_error(
    sqlstate: str, text: str, detail: str | None = None, hint: str | None = None
) -> psycopg.Error:
    """A psycopg error that looks like a server's answer."""
    error = Mock(spec=psycopg.Error, sqlstate=sqlstate)
    error.diag.message_primary = text
    error.diag.message_detail = detail
    error.diag.message_hint = hint
    error.diag.context = None
    error.diag.source_function = None
    return error


@pytest.mark.parametrize(("sqlstate", "kind"), SQLSTATES.items())
def test_the_sqlstate_selects_the_class(sqlstate: str, kind: type[PgqueError]) -> None:
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
def test_without_a_sqlstate_the_psycopg_class_decides(
    cause: psycopg.Error, kind: type[PgqueError]
) -> None:
    error = from_psycopg(cause)
    assert type(error) is kind
    assert error.sqlstate is None
    assert str(error)


@pytest.mark.parametrize("sqlstate", ["3F000", "42704", "42883", "42P01"])
def test_only_missing_objects_of_pgque_mean_a_missing_schema(sqlstate: str) -> None:
    ours = from_psycopg(server_error(sqlstate, 'schema "pgque" does not exist'))
    assert type(ours) is errors.PgqueSchemaMissing
    assert "pgque install" in str(ours)
    theirs = from_psycopg(server_error(sqlstate, "function audit.note() does not exist"))
    assert type(theirs) is PgqueError


@pytest.mark.parametrize("sqlstate", ["42703", "42725", "42809"])
def test_a_mismatched_schema_differs_from_a_fault_in_a_users_trigger(
    sqlstate: str,
) -> None:
    """Without a context, the client's own statement named a missing column or function."""
    ours = server_error(sqlstate, 'column "waits" does not exist')
    assert type(from_psycopg(ours)) is errors.PgqueSchemaMissing
    theirs = server_error(sqlstate, 'column "x" does not exist')
    theirs.diag.context = "PL/pgSQL function audit.note() line 3 at SQL statement"
    assert type(from_psycopg(theirs)) is PgqueError


def test_a_cached_plan_with_a_changed_result_can_be_retried() -> None:
    error = server_error("0A000", "cached plan must not change result type")
    error.diag.source_function = "RevalidateCachedQuery"
    assert type(from_psycopg(error)) is errors.PgqueRetryable


def test_the_text_keeps_detail_and_hint() -> None:
    error = from_psycopg(server_error("PQ009", "cannot drop queue", "queue: q", "Unsubscribe."))
    assert str(error) == "cannot drop queue (queue: q)\nUnsubscribe."


def test_pgques_advice_precedes_the_servers() -> None:
    error = from_psycopg(server_error("42501", "permission denied for function send"))
    assert "pgque_writer" in str(error)
    error = from_psycopg(server_error("42883", "no function pgque.send", None, "Add casts."))
    assert "Add casts." not in str(error)


def test_invalid_arguments_are_value_errors() -> None:
    assert issubclass(errors.PgqueInvalidArgument, ValueError)
    assert issubclass(errors.PgquePayloadError, errors.PgqueInvalidArgument)


def test_mapped_chains_the_psycopg_error() -> None:
    cause = pg.LockNotAvailable("could not obtain lock")
    with pytest.raises(errors.PgqueBusy) as caught, mapped:
        raise cause
    assert caught.value.__cause__ is cause


def test_mapped_names_the_connections_encoding() -> None:
    with pytest.raises(errors.PgqueInvalidArgument, match="client_encoding"), mapped:
        "€".encode("latin1")


def test_mapped_leaves_other_errors_alone() -> None:
    with pytest.raises(KeyError), mapped:
        raise KeyError("theirs")


def test_the_tree_in_the_docstring_matches_the_classes() -> None:
    """Compare the drawing in the module's docstring with the classes."""
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
