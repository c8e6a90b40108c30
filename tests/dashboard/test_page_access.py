"""The page's accessibility: keyboard, names, contrast in each theme, and narrow windows."""

from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.dashboard.conftest import TOKEN
from tests.dashboard.seen import cell, give_token, shows
from tests.fix_engine import configure, send


def test_the_page_can_be_used_with_the_keyboard_alone(look, autoconn, queue):
    send(autoconn, queue, "hello")
    page = look()
    page.get_by_role("link", name=queue).first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "(({ activeElement: e }) => [e.id || e.getAttribute('aria-labelledby') ||"
            " e.textContent, getComputedStyle(e).outlineStyle])(document)"
        )
        if name == "":
            break
        assert outline != "none", name
        reached.add(name)
        if name == queue:
            page.keyboard.press("Enter")
            break
    assert {"pause", "theme"} <= reached
    page.get_by_role("heading", name=queue, level=1).wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"
    page.get_by_role("button", name="Show message").focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show message 1", exact=True)).to_be_focused()


CONTRASTS = """() => {
    const parts = (color) => {
        const context = document.createElement("canvas").getContext("2d");
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b]
            .map((c) => c / 255)
            .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const color = parts(getComputedStyle(one).backgroundColor);
            if (color[3] === 255) return color;
        }
        return parts(getComputedStyle(document.body).backgroundColor);
    };
    const low = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility() || element.closest("noscript")) continue;
        const style = getComputedStyle(element);
        const color = parts(element instanceof SVGElement ? style.fill : style.color);
        const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) low.push([element.tagName, element.textContent, ratio].join(" "));
    }
    return low;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_themes(look, dead, autoconn, theme):
    configure(autoconn, dead, ticker_paused=True)
    page = look(token=TOKEN)
    page.emulate_media(color_scheme="dark" if theme == "light" else "light")
    page.get_by_label("Theme").select_option(theme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert dark == (theme == "dark")
    shows(cell(page, "Queues", dead, "State"), "paused")
    assert page.evaluate(CONTRASTS) == []
    page.goto(f"{page.url.split('#')[0]}#/queue/{quote(dead)}/dead")
    page.get_by_role("button", name="Replay or purge…").click()
    give_token(page)
    page.get_by_label("Older than (days)").fill("0")
    page.get_by_role("button", name="Purge…").click()
    page.get_by_role("dialog").wait_for()
    assert page.evaluate(CONTRASTS) == []
    page.reload()
    assert page.get_by_label("Theme").input_value() == theme


def test_the_theme_follows_the_system_unless_one_is_chosen(look):
    page = look()
    for scheme, color in (("dark", "rgb(20, 23, 28)"), ("light", "rgb(246, 247, 249)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == color


def test_the_page_fits_a_narrow_window(look, page, autoconn, dead):
    autoconn.execute("select pgque.create_queue(%s)", ["long_" * 11])
    page.set_viewport_size({"width": 360, "height": 740})
    look(token=TOKEN)
    page.get_by_role("link", name="long_").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    hint = page.get_by_text("There are more columns: scroll the table sideways.").first
    hint.wait_for()
    frame = page.locator(".frame[data-cut=right]").first
    frame.wait_for()
    scroll = frame.locator(".scroll")
    scroll.evaluate("element => element.scrollTo(element.scrollWidth, 0)")
    page.locator(".frame:not([data-cut])").first.wait_for()
    page.get_by_role("link", name=dead).first.click()
    page.get_by_role("link", name="Dead letters").click()
    page.get_by_role("row", name="no such address").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 2400, "height": 740})
    page.locator(".sideways:visible").first.wait_for(state="detached")


def test_every_part_has_a_name(look, dead):
    page = look(f"queue/{dead}/dead", token=TOKEN)
    page.get_by_role("row", name="no such address").first.wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, table, section, nav")]
            .filter((e) => e.checkVisibility())
            .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.caption))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("h1").count() == 1
    for role in ("main", "banner", "contentinfo", "search"):
        assert page.get_by_role(role).count() == 1
