"""The page of an evaluation, in a real browser: plots that show the numbers, pictures, and nothing from outside."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tomoseg.evaluation
from support.browser import Browser
from support.evaluations import AFFINE, make_evaluation, write_cases
from support.pages import CONTRASTS, HANDLERS, HOSTILE
from tomoseg import TomosegError
from tomoseg.evaluation.metrics import BY_KEY
from tomoseg.evaluation.options import EvaluationOptions
from tomoseg.evaluation.page import write_page
from tomoseg.evaluation.plots import Point, plan_agreement, plan_boxes
from tomoseg.evaluation.results import Evaluation
from tomoseg.evaluation.run import evaluate, save_evaluation
from tomoseg.evaluation.worst import WorstCase, choose_worst, draw_worst, find_images
from tomoseg.report.html.template import page_environment


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return make_evaluation(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    save_evaluation(evaluation, folder, scans=find_images(evaluation.predictions.with_name("scans")), worst=3)
    return folder / "evaluation.html"


def test_it_asks_nothing_of_any_network_and_breaks_no_rule(browser: Browser, page: Path) -> None:
    browser.open(page)
    load = "[...document.images].map(one => { one.loading = 'eager'; return one.decode(); })"
    browser.evaluate(f"Promise.all({load})")
    asked = browser.requests()
    assert asked[0] == page.as_uri()
    assert {address.partition(":")[0] for address in asked[1:]} == {"data"}
    assert browser.complaints() == []


def test_the_numbers_are_those_of_the_evaluation(browser: Browser, page: Path, evaluation: Evaluation) -> None:
    browser.open(page)
    cells = "[...document.querySelectorAll('section:first-of-type table.summary tbody tr')].map(r => r.innerText)"
    rows = browser.evaluate("[...document.querySelectorAll('table.summary')[0].tBodies[0].rows].map(r => r.innerText)")
    assert len(rows) == 3, cells
    for row, summary in zip(rows, evaluation.summaries, strict=True):
        dice = summary.metrics["dice"].mean
        assert row.startswith(summary.name)
        assert f"{dice.value:.3f}\n[{dice.low:.3f}, {dice.high:.3f}]" in row
    assert "+ 2 × ∞" in rows[0]
    failures = browser.evaluate("document.querySelector('.failures').innerText")
    assert "damaged_seg.nii.gz: expected a NIfTI volume" in failures


def test_the_boxes_are_the_quartiles(browser: Browser, page: Path, evaluation: Evaluation) -> None:
    """Read back from the picture, with the axis of the picture."""
    browser.open(page)
    drawn = browser.evaluate(
        """[...document.querySelectorAll('.plots:first-of-type svg')].slice(0, 4).map(svg => ({
          ticks: [...svg.querySelectorAll('.tick')].map(t => [t.textContent, +t.getAttribute('x')]),
          boxes: [...svg.querySelectorAll('.box')].map(b => [+b.getAttribute('x'), +b.getAttribute('width')]),
          medians: [...svg.querySelectorAll('.median')].map(m => +m.getAttribute('x1')),
          points: svg.querySelectorAll('circle').length }))"""
    )
    assert len(drawn) == 4
    for plot, key in zip(drawn, ("dice", "nsd", "hd95_mm", "assd_mm"), strict=True):
        ticks = [(float(text), x) for text, x in plot["ticks"] if re.fullmatch(r"-?[\d.]+", text)]
        slope, start = np.polyfit([x for _, x in ticks], [value for value, _ in ticks], 1)
        count = 0
        for index, (label, (left, width), middle) in enumerate(
            zip((1, 2), plot["boxes"], plot["medians"], strict=True)
        ):
            values = [BY_KEY[key].of(one) for case in evaluation.done for one in case.labels if one.label == label]
            finite = [value for value in values if np.isfinite(value)]
            wanted = np.percentile(finite, (25, 50, 75))
            found = [start + slope * x for x in (left, middle, left + width)]
            np.testing.assert_allclose(found, wanted, atol=0.01 * max(1.0, *finite), err_msg=f"{key} {index}")
            count += len(finite)
        assert plot["points"] == count


def test_volumes_lie_where_bland_and_altman_put_them(browser: Browser, page: Path, evaluation: Evaluation) -> None:
    browser.open(page)
    plots = browser.evaluate(
        """[...document.querySelectorAll('[aria-labelledby=volumes] svg')].map(svg => ({
          reported: [...svg.querySelectorAll('circle title')].map(t => t.textContent),
          lines: [...svg.querySelectorAll('.bias, .limit')].map(l => +l.getAttribute('y1')) }))"""
    )
    assert len(plots) == 2
    for plot, summary in zip(plots, evaluation.summaries, strict=False):
        wanted = [
            f"{case.name}: {one.volume_error_ml:+.3g} mL at {(one.predicted_ml + one.reference_ml) / 2:.3g} mL"
            for case in evaluation.done
            for one in case.labels
            if one.label == summary.label
        ]
        assert plot["reported"] == wanted
        bias, low, high = plot["lines"]
        assert high < bias < low  # upwards are small numbers
        assert bias - high == pytest.approx(low - bias, abs=0.2)


def test_the_worst_come_first_with_pictures(browser: Browser, page: Path, evaluation: Evaluation) -> None:
    browser.open(page)
    shown = browser.evaluate("[...document.querySelectorAll('.worst figcaption b')].map(b => b.textContent)")
    assert sorted(shown[:2]) == ["invented", "missed"]
    assert shown == [case.name for case, _ in choose_worst(evaluation, 3)]
    images = "[...document.querySelectorAll('.worst img')]"
    browser.evaluate(f"Promise.all({images}.map(i => {{ i.loading = 'eager'; return i.decode(); }}))")
    sizes = browser.evaluate(f"{images}.map(i => [i.naturalWidth, i.naturalHeight])")
    assert sizes == [[1080, 804]] * 3
    first = browser.evaluate("document.querySelector('table.all tbody tr').innerText")
    assert "0.000" in first


def test_cases_are_sorted_searched_and_chosen_by_label(browser: Browser, page: Path) -> None:
    browser.open(page)
    names = "[...document.querySelectorAll('table.all tbody tr:not([hidden])')].map(r => r.innerText.split('\\t')[0])"
    assert len(browser.evaluate(names)) == 14
    browser.click(".chips button:nth-child(2)")
    assert len(browser.evaluate(names)) == 7
    browser.click("input[type=search]")
    browser.type("missed")
    assert [name.split("\n")[0] for name in browser.evaluate(names)] == ["missed"]
    browser.open(page)
    browser.click("table.all th:nth-child(8) button")
    column = "[...document.querySelectorAll('table.all tbody tr')].map(r => r.cells[7].innerText)"
    found = browser.evaluate(column)
    assert found == [*sorted(found[:-2], key=float), "∞", "∞"]


def test_tables_scroll_by_themselves_with_their_first_column_in_sight(browser: Browser, page: Path) -> None:
    browser.open(page, width=800)
    assert browser.evaluate("document.documentElement.scrollWidth") == 800
    for selector in (".summary", "#cases-table"):
        place = f"document.querySelector('.scroll:has({selector})')"
        assert browser.evaluate(f"{place}.scrollTo(300, 0), {place}.scrollLeft") > 100
        for cell in ("thead .fixed", "tbody th"):
            left = f"document.querySelector('{selector} {cell}').getBoundingClientRect().left"
            assert abs(browser.evaluate(f"{left} - {place}.getBoundingClientRect().left")) < 2
    browser.open(page, media="print")
    shown = "[...document.querySelectorAll('.scroll')].map(one => getComputedStyle(one).overflow)"
    assert browser.evaluate(shown) == ["visible"] * 3


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 800, 390])
def test_it_can_be_looked_at(browser: Browser, page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    browser.screenshot(tmp_path / "page.png")
    image = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)[::2]
    background = np.median(image.reshape(-1, 3), axis=0)
    assert (background < 60).all() if dark else (background > 200).all()
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(CONTRASTS) == []
    labels = "[...document.querySelectorAll('svg.plot')].every(svg => svg.getAttribute('aria-label'))"
    assert browser.evaluate(labels)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_shown_and_never_run(browser: Browser, evaluation: Evaluation, tmp_path: Path, name: str) -> None:
    cases = tuple(replace(case, name=name, notes=(name,), reason=name) for case in evaluation.cases)
    summaries = tuple(replace(one, name=f"{name}{one.label}") for one in evaluation.summaries)
    config = replace(evaluation.config, names={1: name, 2: "</svg></title>" + name}, within_slices=frozenset({1}))
    hostile = replace(
        evaluation, cases=cases, summaries=summaries, config=config, notes=(name,), predictions=Path(name)
    )
    picture = draw_worst(evaluation, 1, {})[0].picture
    worst = [WorstCase(cases[0], hostile.scores(cases[0])[0], picture)]
    write_page(hostile, worst, tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    assert browser.evaluate("window.hacked") is None
    assert browser.complaints() == []
    assert browser.evaluate(HANDLERS) == 0
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    shown = name.replace("\udcff", "\\udcff")
    assert browser.evaluate("document.querySelector('h1 bdi').textContent") == Path(shown).name
    for place in ("#cases-table tbody bdi", ".worst bdi", ".alert", ".failures dt"):
        assert browser.evaluate(f"document.querySelector('{place}').textContent") == shown
    assert browser.evaluate("document.querySelector('.plots figure circle title').textContent").startswith(f"{shown}: ")


def test_an_evaluation_in_which_all_failed_is_a_page(browser: Browser, evaluation: Evaluation, tmp_path: Path) -> None:
    failed = replace(evaluation, cases=tuple(evaluation.failed), summaries=(), started="")
    write_page(failed, [], tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    assert browser.complaints() == []
    assert browser.evaluate("document.querySelector('.verdict').innerText") == "0 of 1 case scored · 1 failed"


def test_pictures_need_no_scan_and_survive_a_bad_one(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "damaged.nii.gz").touch()
    worst = draw_worst(evaluation, 2, {"missed": tmp_path / "damaged.nii.gz"})
    assert [len(one.picture) > 1000 for one in worst] == [True, True]
    with pytest.raises(TomosegError, match="expected scans, got no NIfTI"):
        find_images(tmp_path / "nothing")


def test_a_scan_that_lies_otherwise_than_its_labels_is_not_shown_under_them(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    scan = nib.Nifti1Image(np.random.default_rng(0).normal(size=(30, 24, 16)).astype(np.float32), AFFINE)
    nib.save(scan, tmp_path / "straight.nii.gz")
    nib.save(scan.as_reoriented([[0, -1], [1, 1], [2, 1]]), tmp_path / "mirrored.nii.gz")
    (tmp_path / "damaged.nii.gz").touch()
    straight, mirrored, none = (
        draw_worst(evaluation, 1, {"missed": tmp_path / f"{name}.nii.gz"})[0].picture
        for name in ("straight", "mirrored", "damaged")
    )
    assert mirrored == none != straight


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path)
    found = evaluate(predictions, references, EvaluationOptions({1: "cost $x^{ $", 2: "a"}))
    save_evaluation(found, tmp_path / "out", worst=2)
    assert "cost $x^{ $" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_picture_of_a_file_that_has_gone_is_left_out(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path)
    found = evaluate(predictions, references, EvaluationOptions({1: "liver"}))
    (predictions / "missed_seg.nii.gz").unlink()
    worst = draw_worst(found, 2, {})
    assert {one.case.name: bool(one.picture) for one in worst} == {"missed": False, "invented": True}


@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(np.inf), max_size=30),
    st.sampled_from(["", "mm"]),
    st.text(max_size=60),
)
@settings(deadline=None)
def test_any_values_can_be_drawn(values: list[float], unit: str, name: str) -> None:
    points = [Point(name, value) for value in values]
    draw: Any = page_environment(Path(tomoseg.evaluation.__file__).parent).get_template("plots.html").module
    svg = draw.boxes("x", unit, 2, plan_boxes(unit, [(name, points), ("other", [])]))
    assert "nan" not in svg.replace("&", "").lower().replace(name.lower(), "")
    finite = [point for point in points if np.isfinite(point.x)]
    pairs = [Point(name, abs(point.x), point.x) for point in finite]
    spread = float(np.std([point.y for point in pairs])) if pairs else float("nan")
    drawn = draw.agreement("label", plan_agreement(pairs, 0.0, (-spread, spread)))
    for x in re.findall(r'c[xy]="([^"]+)"', svg + drawn):
        assert -1 <= float(x) <= 601
    assert drawn.count("<circle") == len(pairs)


def test_the_wheel_holds_what_the_page_is_made_of(checkout: Path) -> None:
    packed = {file.distribution_path for file in WheelBuilder(str(checkout)).recurse_included_files()}
    names = ("evaluation.css", "evaluation.html", "plots.html")
    assert {f"tomoseg/evaluation/{name}" for name in names} <= packed
