"""report.html is safe to open and fit to be read: by everybody, in light and dark, without a network or scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from support.browser import Browser
from support.pages import (
    CONTRASTS,
    FOLDER,
    HANDLERS,
    HOSTILE,
    done_case,
    failed_case,
    make_report,
    mixed_report,
    open_page,
    read_column,
    read_names,
)
from tomoseg.core.run_stats import RunStats
from tomoseg.report.html.document import write_page
from tomoseg.report.records import CaseReport, LabelVolume


def test_nothing_is_asked_of_any_network(browser: Browser, picture: Path, tmp_path: Path) -> None:
    path = open_page(browser, mixed_report(picture), tmp_path)
    load = "[...document.querySelectorAll('tbody img')].map(one => { one.loading = 'eager'; return one.decode(); })"
    browser.evaluate(f"Promise.all({load})")
    asked = browser.requests()
    assert asked[0] == path.as_uri()
    assert len(asked) > 1
    assert {address.partition(":")[0] for address in asked[1:]} == {"data"}
    assert browser.complaints() == []
    # and the page may not, with any content
    browser.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\">"
        '<img src=x onerror="window.hacked = 1"><link rel=stylesheet href="https://example.org/x.css">\')'
    )
    browser.evaluate(
        "(() => { const added = document.createElement('script'); added.textContent = 'window.hacked = 1'; "
        "document.body.append(added); })()"
    )
    browser.evaluate("fetch('https://example.org/').catch(error => 0)")
    assert len([reported for reported in browser.complaints() if "Content Security Policy" in reported]) >= 4
    assert browser.evaluate("window.hacked") is None
    foreign = {
        event["params"]["requestId"]: event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
        and not event["params"]["request"]["url"].startswith(("data:", "file:"))
    }
    stopped = {
        event["params"]["requestId"]
        for event in browser.events
        if event.get("method") == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp"
    }
    assert set(foreign) <= stopped, foreign


def test_names_are_shown_and_never_run(browser: Browser, picture: Path, tmp_path: Path) -> None:
    cases = [failed_case(name, f"<b onclick=hacked=1>{name}") for name in HOSTILE]
    cases += [
        done_case(
            name, 1.0, output=name, preview=str(picture), series=name, warnings=(name,),
            stats=RunStats(notes=(name,), seconds={name: 1.0}),
        )
        for name in HOSTILE
    ]  # fmt: skip
    labels = (LabelVolume(1, '</style><script>hacked = 1</script> "\\', 5, 0.5),)
    cases.append(
        CaseReport(f"{FOLDER}/x.nii", "javascript:hacked=1", "done", labels=labels, stats=RunStats(notes=("<i>&amp;",)))
    )
    report = make_report(*cases, pending=[f"{FOLDER}/{name}" for name in HOSTILE])
    report.bundle["name"] = "<script>hacked = 1</script>"
    report.options["note"] = list(HOSTILE)
    open_page(browser, report, tmp_path, width=1600)
    assert browser.evaluate("window.hacked") is None
    assert browser.complaints() == []
    assert browser.evaluate(HANDLERS) == 0
    shown = [Path(f"{FOLDER}/{name}").name.replace("\udcff", "\\udcff") for name in HOSTILE]
    assert read_names(browser) == [*shown * 3, "x.nii"]
    assert read_column(browser, 3)[-1] == "<i>&amp;"
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert browser.evaluate("[...document.links].every(link => link.protocol === 'file:' || !link.href)")
    assert browser.evaluate("document.querySelector('h1').innerText") == "<script>hacked = 1</script> 0.1.2"
    wide = "Math.max(...[...document.querySelectorAll('tbody th')].map(cell => cell.getBoundingClientRect().width))"
    assert browser.evaluate(wide) < 400  # a long name is broken into lines


def test_narrow_screens_name_the_label_that_a_style_could_not_hold(browser: Browser, tmp_path: Path) -> None:
    name = '</style>"; } * { display: none } \\'
    case = CaseReport(f"{FOLDER}/x.nii", "o.nii", "done", labels=(LabelVolume(1, name, 5, 0.5),))
    open_page(browser, make_report(case), tmp_path, width=400)
    before = browser.evaluate("getComputedStyle(document.querySelector('tbody .v'), '::before').content")
    assert before.replace("\\", "") == f'"{name} "'.replace("\\", "")


class Names(HTMLParser):
    """The names in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self._inside = tag == "bdi" and self.get_starttag_text() == "<bdi>"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found.append(data)


@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="/"), min_size=1))
def test_any_name_comes_out_as_it_is(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("names") / "report.html"
    write_page(make_report(failed_case(f"{name}/x{name}", name), failed_case("y")), path)
    parser = Names()
    parser.feed(path.read_text(encoding="utf-8"))
    assert [f"x{name}", str(Path(name))] == parser.found[-3:-1] or name == "."


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 800, 390])
def test_it_can_be_looked_at(browser: Browser, picture: Path, tmp_path: Path, width: int, dark: bool) -> None:
    open_page(browser, mixed_report(picture), tmp_path, width=width, dark=dark)
    browser.screenshot(tmp_path / "page.png")
    image = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)[::2]
    assert image.shape[1] == width
    assert image.shape[0] > 600
    background = np.median(image.reshape(-1, 3), axis=0)
    assert (background < 60).all() if dark else (background > 200).all()
    colours = len(np.unique(image.reshape(-1, 3), axis=0))
    assert colours > 500
    assert (np.abs(image - background).max(axis=2) > 40).mean() > 0.03
    assert browser.evaluate("document.documentElement.scrollWidth") == width  # nothing has to be pushed aside
    # https://www.w3.org/TR/WCAG22/#contrast-minimum
    assert browser.evaluate(CONTRASTS) == []


def test_those_who_do_not_see_it_are_warned_alike(browser: Browser, picture: Path, tmp_path: Path) -> None:
    open_page(browser, mixed_report(picture), tmp_path)
    assert browser.evaluate("[...document.querySelectorAll('th')].every(head => head.scope)")
    assert browser.evaluate("[...document.querySelectorAll('tbody img')].every(picture => picture.alt)")
    assert browser.evaluate("document.documentElement.lang") == "en"
    tree = browser.command("Accessibility.getFullAXTree")["nodes"]
    reported = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    assert ("table", "One row a scan, failures first; volumes in millilitres") in reported
    assert ("searchbox", "Search names, reasons and notes") in reported
    assert ("rowheader", "b10.nii.gz Open the labels") in reported
    nameless = [
        role for role, name in reported if role in ("button", "link", "searchbox", "combobox", "image") and not name
    ]
    assert nameless == []
    assert [name for role, name in reported if role == "heading"] == [
        "hippocampus_mr_segmentation 0.1.2", "3 scans failed", "Scans",
    ]  # fmt: skip


def test_without_scripts_everything_can_be_read(browser: Browser, picture: Path, tmp_path: Path) -> None:
    path = open_page(browser, mixed_report(picture), tmp_path, scripts=False)
    links = re.findall(r'<td class=picture><a href="([^"]+)"', path.read_text(encoding="utf-8"))
    assert len(links) == 13
    document = browser.command("DOM.getDocument")["root"]["nodeId"]

    def boxes(selector: str) -> list[int]:
        found = browser.command("DOM.querySelectorAll", nodeId=document, selector=selector)["nodeIds"]
        return [browser.command("DOM.getBoxModel", nodeId=node)["model"]["height"] for node in found]

    assert min(boxes("tbody tr")) > 20
    assert len(boxes("tbody tr")) == 16
    with pytest.raises(AssertionError, match="Could not compute box model"):
        boxes(".controls")
