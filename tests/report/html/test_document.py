"""report.html in a real browser: what stands where, and what a click does."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from PIL import Image

from support.browser import Browser
from support.pages import (
    DAMAGED,
    FOLDER,
    done_case,
    make_report,
    mixed_report,
    open_page,
    read_column,
    read_names,
)
from tomoseg.report.html.document import write_page
from tomoseg.report.html.pictures import PICTURE_SIZES
from tomoseg.report.records import CaseReport, LabelVolume, Location, RegionVolume


def test_failures_stand_first_and_tell_why(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, mixed_report(), tmp_path)
    assert read_names(browser)[:4] == ["a.nii.gz", "c.nii.gz", "d.nii.gz", "b0.nii.gz"]
    assert read_column(browser, 1) == ["failed"] * 3 + ["done"] * 13
    assert read_column(browser, 2)[:3] == [DAMAGED, DAMAGED, "expected one 3D volume, got 4D"]
    panel = browser.evaluate("document.querySelector('.failures').innerText.split('\\n').filter(line => line)")
    assert panel == [
        "3 scans failed", DAMAGED, "sub/a.nii.gz", "c.nii.gz", "expected one 3D volume, got 4D", "d.nii.gz",
    ]  # fmt: skip
    verdict = browser.evaluate("document.querySelector('.verdict').innerText")
    assert verdict == "13 of 16 scans have labels · 3 failed · 1 done by an earlier run · 2 with unusual volumes"
    when = browser.evaluate("document.querySelector('.when').innerText")
    assert when.startswith("20 November 2026, 11:03 to 11:42 UTC, 39 min 45 s · ")
    assert when.endswith("openvino, fp32")
    assert browser.evaluate("document.querySelector('.where').innerText") == f"in {FOLDER}"


def test_a_click_on_a_head_sorts(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, mixed_report(), tmp_path)
    as_written = read_names(browser)

    def numbers(place: int) -> list[float]:
        return [float(text.split()[-1]) for text in read_column(browser, place) if text]

    for place in (4, 5):
        for direction in ("ascending", "descending"):
            browser.click(f"thead th:nth-child({place + 1}) button")
            assert browser.evaluate(f"document.querySelectorAll('thead th')[{place}].ariaSort") == direction
            assert browser.evaluate("document.querySelectorAll('[aria-sort]').length") == 1
            found = numbers(place)
            assert found == sorted(found, reverse=direction == "descending")
            assert len(set(found)) > 3
            assert read_column(browser, place)[-3:] == ["", "", ""]  # what failed is last, either way

    browser.evaluate("document.querySelector('thead th button').focus()")
    browser.press("Enter")
    wanted = [*(f"b{index}.nii.gz" for index in range(10, 13)), "c.nii.gz", "d.nii.gz", "a.nii.gz"]
    assert read_names(browser) == [
        *wanted,
        *(f"b{index}.nii.gz" for index in range(10)),
    ]  # by number, folders after files

    browser.click("thead th:nth-child(2) button")
    assert read_column(browser, 1)[:4] == ["failed"] * 3 + ["done"]
    browser.click("thead th:nth-child(3) button")
    assert read_column(browser, 2)[3].startswith("organ_")  # what failed, then what stands out
    browser.click("thead th:nth-child(4) button")
    assert read_column(browser, 3)[0] == "2.5 s"
    assert read_column(browser, 3)[-4] == "1 min 30 s"
    assert sorted(read_names(browser)) == sorted(as_written)


def test_the_least_sure_scans_are_found_by_a_click(browser: Browser, tmp_path: Path) -> None:
    def scan(name: str, *dice: float | None) -> CaseReport:
        rows = [LabelVolume(value, f"organ_{value}", 9, 1.0, expected_dice=one) for value, one in enumerate(dice, 1)]
        return replace(done_case(name), labels=tuple(rows))

    open_page(
        browser,
        replace(mixed_report(), cases=(scan("a", 0.9, 0.8), scan("b", None, 0.4), scan("c", 0.7, None))),
        tmp_path,
    )
    assert read_column(browser, 3) == ["0.80", "0.40", "0.70"]
    browser.click("thead th:nth-child(4) button")
    assert read_column(browser, 3) == ["0.40", "0.70", "0.80"]
    assert browser.evaluate("document.querySelector('tbody tr td:nth-child(4)').title") == "organ_2, not calibrated"


def test_volumes_that_stand_out_are_flagged_in_plain_words(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, mixed_report(), tmp_path)
    flagged = browser.evaluate(
        "[...document.querySelectorAll('.out')].map(cell => "
        "[cell.parentNode.querySelector('b').innerText, cell.innerText, cell.title])"
    )
    reported = {name: (shown, title) for name, shown, title in flagged}
    assert {name: shown for name, (shown, _) in reported.items()} == {"b10.nii.gz": "▲ 99.0", "b11.nii.gz": "▼ 0"}
    large, absent = reported["b10.nii.gz"][1], reported["b11.nii.gz"][1]
    # 3 × 10, 3 × 11, 11.4, 11.5, 2 × 12, 2 × 13 and 99: off their median 11.4 by 0.6 in the median
    low, high = 11.4 - 3.5 * 1.4826 * 0.6, 11.4 + 3.5 * 1.4826 * 0.6
    usual = f"where the median is 11.4 mL and {low:.1f} to {high:.1f} mL is usual."
    assert large == f"organ_1 is unusually large: 99.0 mL, {usual}"
    assert absent == "organ_2 is missing; 12 of 13 scans have it."
    notes = dict(zip(read_names(browser), read_column(browser, 2), strict=True))
    assert notes["b10.nii.gz"] == large
    assert notes["b11.nii.gz"].split("\n\n") == [absent, "the gantry is tilted by 12.5°"]
    assert "organ_1, organ_2 reach the edge of the scan and may be cut off there." in notes["b12.nii.gz"]
    assert browser.evaluate("document.querySelectorAll('.cut').length") == 2
    assert read_column(browser, 2, ".median") == ["11.4"]


def test_seven_scans_are_too_few_to_stand_out(browser: Browser, tmp_path: Path) -> None:
    open_page(
        browser,
        make_report(*(done_case(f"{index}.nii", 10 + index) for index in range(6)), done_case("x.nii", 99)),
        tmp_path,
    )
    assert browser.evaluate("document.querySelectorAll('.out, .median').length") == 0


def test_search_and_filters_choose_rows(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, mixed_report(), tmp_path)
    browser.evaluate("document.querySelector('input').focus()")
    browser.type("Sub DAMAGED")
    assert read_names(browser) == ["a.nii.gz"]
    assert browser.evaluate("document.querySelector('output').textContent") == "1 of 16 shown"
    browser.evaluate("document.querySelector('input').select()")
    browser.type("nii.gz")
    assert len(read_names(browser)) == 16
    wanted = {"failed": 3, "earlier": 1, "outlier": 2, "edge": 1, "note": 1, "": 16}
    for kind, count in wanted.items():
        browser.click(f".chips [data-kind='{kind}']")
        assert len(read_names(browser)) == count, kind
        pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(chip => chip.dataset.kind)"
        assert browser.evaluate(pressed) == [kind]


def test_a_click_enlarges_a_preview(browser: Browser, picture: Path, tmp_path: Path) -> None:
    open_page(browser, mixed_report(picture), tmp_path)
    assert browser.evaluate("document.querySelectorAll('tbody img').length") == 13
    browser.click("tbody tr:nth-child(16) img")
    shown = "document.querySelector('dialog').open && document.querySelector('figcaption').textContent"
    assert browser.evaluate(shown).startswith("b12.nii.gz\nDone by an earlier run.\norgan_1, organ_2 reach")
    browser.evaluate("document.querySelector('dialog img').decode()")
    size = browser.evaluate("(({naturalWidth, width}) => [naturalWidth, width])(document.querySelector('dialog img'))")
    assert size == [1080, 1100]
    browser.press("ArrowLeft")
    assert browser.evaluate(shown).startswith("b11.nii.gz")
    browser.press("ArrowRight")
    browser.press("ArrowRight")  # there is none after it
    assert browser.evaluate(shown).startswith("b12.nii.gz")
    assert browser.evaluate("document.querySelector('dialog a').href") == picture.as_uri()
    browser.click("dialog [data-step='-1']")
    browser.press("Escape")
    assert browser.evaluate(shown) is False
    focused = "new Promise(done => setTimeout(() => done(document.activeElement.closest('tr').cells[1].innerText), 50))"
    assert browser.evaluate(focused).startswith("b11.nii.gz")  # the one that was shown last


def test_a_scan_without_labels_is_no_success(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, make_report(done_case("full.nii", 1.0), done_case("air.nii", 0.0, status="skipped")), tmp_path)
    verdict = browser.evaluate("document.querySelector('.verdict').innerText")
    assert verdict == "1 of 2 scans have labels · 1 without any label · 1 done by an earlier run"
    assert read_column(browser, 1) == ["no labels", "done"]
    assert read_column(browser, 2)[0].split("\n\n") == ["No voxel has a label.", "Done by an earlier run."]


def test_a_study_is_known_by_its_own_words(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, make_report(done_case("a", 1.0, series="1.2.3", study="Neck, T1 axial, 2026-01-02")), tmp_path)
    assert read_column(browser, 0)[0].split("\n") == [
        "a", "Neck, T1 axial, 2026-01-02", "series 1.2.3", "Open the labels",
    ]  # fmt: skip


def test_a_whole_head_has_its_totals(browser: Browser, tmp_path: Path) -> None:
    sides = [RegionVolume(f"{side} hippocampus", 9, 2.5, None, (0.0, 0.0, 0.0)) for side in ("left", "right")]
    head = Location("MNI152", 0.8, 1.0, 1512.3, -0.01, tuple(sides))
    open_page(browser, make_report(done_case("head.nii", 1.0, location=head)), tmp_path)
    (look,) = read_column(browser, 2)
    assert look == ("left hippocampus 2.50 mL, right hippocampus 2.50 mL, asymmetry 0.0 %, intracranial volume 1512 mL")


def test_pictures_of_many_rows_of_slices_have_the_height_of_others(
    browser: Browser, picture: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (1680, 2900), "green").save(tmp_path / "tall.png")
    cases = [done_case(f"{one.stem}.nii", 1.0, preview=str(one)) for one in (picture, tmp_path / "tall.png")]
    open_page(browser, make_report(*cases), tmp_path)
    heights = browser.evaluate("[...document.querySelectorAll('tbody img')].map(one => one.height)")
    assert heights[0] == heights[1]
    browser.click("tbody tr:nth-child(2) img")
    browser.evaluate("document.querySelector('dialog img').decode()")
    # it is as wide as others, scrolls by itself, and the buttons stay in view
    assert browser.evaluate("document.querySelector('dialog img').width > 1000")
    assert browser.evaluate("document.querySelector('dialog p').getBoundingClientRect().bottom < innerHeight")
    assert browser.evaluate("(one => one.scrollHeight > one.clientHeight)(document.querySelector('dialog figure'))")


@pytest.mark.parametrize("width", [1280, 900])
def test_many_labels_and_scans_scroll_within_the_table(browser: Browser, tmp_path: Path, width: int) -> None:
    volumes = [float(value) for value in range(1, 118)]
    cases = [done_case(f"{index}.nii", *volumes) for index in range(60)]
    open_page(browser, make_report(*cases), tmp_path, width=width)
    choose_label(browser, -1)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    browser.evaluate("document.querySelector('.scroll').scrollTo(4000, 1500)")
    inside = "(one => [one.scrollLeft, one.scrollTop])(document.querySelector('.scroll'))"
    assert browser.evaluate(inside) == [4000, 1500]
    # names and heads stay where they can be seen
    for selector, side in (
        ("tbody tr:nth-child(30) th", "left"),
        (".fixed", "left"),
        (".median th", "left"),
        ("thead", "top"),
    ):
        place, edge = (
            browser.evaluate(f"document.querySelector('{one}').getBoundingClientRect().{side}")
            for one in (f".scroll {selector}", ".scroll")
        )
        assert abs(place - edge) < 2, selector


def test_paper_breaks_between_scans(browser: Browser, picture: Path, tmp_path: Path) -> None:
    open_page(browser, mixed_report(picture), tmp_path, media="print")
    style = "getComputedStyle(document.querySelector('{}')).{}"
    assert browser.evaluate(style.format("tbody tr", "breakInside")) == "avoid"
    assert browser.evaluate(style.format(".scroll", "overflow")) == "visible"
    assert browser.evaluate(style.format(".controls", "display")) == "none"


def test_a_run_that_was_interrupted_says_so(browser: Browser, tmp_path: Path) -> None:
    report = mixed_report()
    open_page(browser, report, tmp_path)
    assert browser.evaluate("document.querySelector('.alert')") is None
    report = replace(report, interrupted=True, finished=None, pending=(f"{FOLDER}/late.nii", f"{FOLDER}/later.nii"))
    open_page(browser, report, tmp_path)
    alert = browser.evaluate("document.querySelector('.alert').innerText")
    assert alert.startswith("This run did not finish: 2 scans did not run.")
    assert read_names(browser)[3:5] == ["late.nii", "later.nii"]
    assert read_column(browser, 1)[3:5] == ["not run"] * 2
    assert "2 not run" in browser.evaluate("document.querySelector('.verdict').innerText")


def choose_label(browser: Browser, value: int) -> None:
    browser.evaluate(
        f"(() => {{ const choice = document.querySelector('select'); choice.value = {value}; "
        "choice.dispatchEvent(new Event('change')); })()"
    )


def test_many_labels_are_shown_one_at_a_time(browser: Browser, tmp_path: Path) -> None:
    cases = [done_case(f"{index}.nii", *(float(value + index) for value in range(1, 31))) for index in range(9)]
    open_page(browser, make_report(*cases), tmp_path)

    def visible(selector: str) -> list[str]:
        cells = f"[...document.querySelectorAll('{selector}')].filter(cell => cell.checkVisibility())"
        found: list[str] = browser.evaluate(f"{cells}.map(cell => cell.innerText)")
        return [text.split()[0] for text in found]

    heads = "thead tr:first-child .v"
    assert visible(heads) == ["organ_1"]
    choose_label(browser, 16)
    assert visible(heads) == ["organ_17"]
    assert visible("tbody .v") == [f"{value}.0" for value in range(17, 26)]
    assert visible(".median .v") == ["21.0"]
    choose_label(browser, -1)
    assert len(visible(heads)) == len(visible(".median .v")) == 30
    assert len(visible("tbody .v")) == 270
    browser.open(tmp_path / "report.html", scripts=False)
    document = browser.command("DOM.getDocument")["root"]["nodeId"]
    found = browser.command("DOM.querySelectorAll", nodeId=document, selector=heads)["nodeIds"]
    assert len([browser.command("DOM.getBoxModel", nodeId=node) for node in found]) == 30


def test_pictures_shrink_where_there_are_many(browser: Browser, picture: Path, tmp_path: Path) -> None:
    count = PICTURE_SIZES[0][0] + 1
    cases = [done_case(f"{index}.nii", 10 + index % 7, preview=str(picture)) for index in range(count)]
    start = time.perf_counter()
    path = open_page(browser, make_report(*cases), tmp_path)
    print(f"{count} previews: {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
    assert browser.evaluate("document.querySelector('tbody img').naturalWidth") == 540
    assert len(read_names(browser)) == count
    size = path.stat().st_size / count
    write_page(make_report(*cases[:30]), path)
    assert size < path.stat().st_size / 30 / 2


def test_a_picture_that_is_gone_or_damaged_is_left_out(browser: Browser, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    previews = [tmp_path / "gone.png", tmp_path / "cut.png", tmp_path / "text.png", tmp_path, picture]
    cases = [done_case(f"{index}.nii", 1.0, preview=str(preview)) for index, preview in enumerate(previews)]
    open_page(browser, make_report(*cases), tmp_path)
    assert browser.evaluate("[...document.querySelectorAll('tbody img')].map(i => i.alt)") == [
        "4.nii in three planes, with its labels"
    ]


def test_links_lead_to_the_files(browser: Browser, picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "out #1" / "100%" / "ä?b_seg.nii.gz"
    output.parent.mkdir(parents=True)
    output.touch()
    open_page(browser, make_report(done_case("x.nii", 1.0, output=str(output), preview=str(picture))), tmp_path)
    assert browser.evaluate("[...document.querySelectorAll('tbody a')].map(link => link.href)") == [
        picture.as_uri(), output.as_uri(),
    ]  # fmt: skip


def test_a_run_of_nothing_is_a_page(browser: Browser, tmp_path: Path) -> None:
    report = replace(make_report(), bundle={}, hardware={}, finished=None)
    open_page(browser, report, tmp_path)
    assert browser.complaints() == []
    assert browser.evaluate("document.querySelector('.verdict').innerText") == "0 of 0 scans have labels"


def test_the_wheel_holds_what_the_page_is_made_of(checkout: Path) -> None:
    packed = {file.distribution_path for file in WheelBuilder(str(checkout)).recurse_included_files()}
    names = ("macros.html", "page.css", "page.html", "page.js", "report.html")
    assert {f"tomoseg/report/html/{name}" for name in names} <= packed
