from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks/progressive_decoding.ipynb"


def test_notebook_runs_from_top_to_bottom(tmp_path, images, monkeypatch) -> None:
    """With the model that it shows, on small images."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.delenv("PROGDTD_RUN", raising=False)
    for name in ("b.jpg", "c.webp", "deeper/e.JPEG"):
        (images / name).unlink()
    monkeypatch.setenv("PROGDTD_IMAGES", str(images))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    options = {"timeout": 300, "resources": {"metadata": {"path": str(tmp_path)}}}
    nbclient.NotebookClient(notebook, kernel_name="python3", **options).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3
