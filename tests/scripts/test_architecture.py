"""The picture of the architecture shows all imports, and all arrows point down."""

import grimp
import matplotlib.pyplot as plt
import pytest
from PIL import Image

from scripts.checks import architecture


@pytest.fixture(scope="module")
def edges() -> set[tuple[str, str]]:
    """Imports between rooms, according to grimp."""
    graph = grimp.build_graph(*architecture.PACKAGES, cache_dir=None)
    found = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            found.add((architecture.room(importer), architecture.room(imported)))
    return {(a, b) for a, b in found if a != b}


def test_the_arrows_are_the_imports_and_point_down(edges):
    figure = architecture.draw()
    drawn = {}
    for patch in figure.axes[0].patches:
        if patch.get_gid():
            (_, start), (_, end) = patch._posA_posB
            drawn[tuple(patch.get_gid().split(" -> "))] = start - end
    plt.close(figure)
    assert drawn.keys() == edges
    assert all(height > 0 for height in drawn.values())
    for source, target in edges:
        assert architecture.floor(source) < architecture.floor(target), (source, target)


def test_the_picture_in_docs_is_up_to_date(edges):
    with Image.open(architecture.PICTURE) as picture:
        held = picture.info["Description"].split("; ")
    assert {tuple(arrow.split(" -> ")) for arrow in held} == edges, "draw it again"


def test_every_room_has_a_place_and_boxes_do_not_overlap():
    rooms = {architecture.room(name) for name in architecture.modules()}
    assert rooms == set(architecture.BOXES) == {room for row in architecture.FLOORS for room in row}
    boxes = list(architecture.BOXES.values())
    for number, (left, right, bottom, _) in enumerate(boxes):
        for other_left, other_right, other_bottom, _ in boxes[:number]:
            apart = right < other_left or other_right < left
            assert apart or abs(bottom - other_bottom) > architecture.HEIGHT


def test_a_new_import_shows(tmp_path, monkeypatch):
    file = tmp_path / "core" / "batch.py"
    file.parent.mkdir()
    file.write_text("def f():\n    from vae.beta import BetaVAE\n    import core.run.train\n")
    known = architecture.modules() | {"core.batch": file}
    monkeypatch.setattr(architecture, "modules", lambda: known)
    assert {("core", "vae"), ("core", "core.run")} <= architecture.imports().keys()
