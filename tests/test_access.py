"""The page for those who do not see it as others do: axe-core on every tab, light and dark."""

from importlib import resources

import pytest

# Rules that fail in Gradio's own markup, where no setting of ours reaches, each with why.
EXCUSED: dict[str, str] = {}
FOUND = """async ([where, excused]) => {
  const { violations } = await axe.run(where, { resultTypes: ['violations'] });
  return violations
    .filter(({ id, impact }) => ['serious', 'critical'].includes(impact) && !excused.includes(id))
    .map(({ id, nodes }) => [id, ...nodes.slice(0, 8).map((node) => `${node.target} ${node.any[0]?.message ?? ''}`)]);
}"""


def faults(page, where: str) -> list:
    return page.evaluate(FOUND, [where, list(EXCUSED)])


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_no_serious_fault_in_any_panel(visit, ground):
    axe = pytest.importorskip("axe_playwright_python")
    page = visit(path=f"?__theme={ground}", reduced_motion="reduce")
    page.add_script_tag(
        content=(resources.files(axe) / "axe.min.js").read_text("utf-8")
    )
    for fold in page.locator("button.label-wrap").all():
        fold.click()
    assert faults(page, "body") == []
    for tab in page.locator('#panels [role="tab"]').all():
        tab.click()
        page.wait_for_timeout(300)
        assert faults(page, "#panels") == []
    page.locator(".story-open-button").first.click()
    page.wait_for_selector("#story .words")
    assert faults(page, "#story") == []
