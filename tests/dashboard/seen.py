"""Steps that the page's tests share."""

from typing import Any

from playwright.sync_api import expect

from tests.dashboard.conftest import TOKEN


def cell(page: Any, table: str, row: str, column: str) -> Any:
    """A cell of a table, found by the names of its row and column."""
    place = page.get_by_role("table", name=table, exact=True)
    place.wait_for()
    heads = place.get_by_role("columnheader").all_text_contents()
    return place.get_by_role("row", name=row).locator("td, th").nth(heads.index(column))


def shows(place: Any, text: str) -> None:
    """Wait until an element shows the text."""
    expect(place).to_have_text(text)


def is_live(page: Any) -> None:
    """Wait until figures arrive."""
    shows(page.locator("#link-text"), "Live")


def give_token(page: Any, token: str = TOKEN) -> None:
    """Answer the question for the token."""
    page.get_by_label("The token that the dashboard was started with").fill(token)
    page.get_by_role("button", name="Use token").click()
