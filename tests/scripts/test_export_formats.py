"""ONNX programs and tables of embeddings, read by the programs that they are for.

They need packages that few users have: `pip install .[export]`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.frozen import Frozen
from core.run import checkpoint
from scripts import export as command
from tests.exported import BACKBONES, DATA, saved
from tests.pictures import png

NEEDED = "pip install .[export] (onnx, onnxscript, onnxruntime, pyarrow)"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))


def onnx_features(path: Path, x: torch.Tensor) -> torch.Tensor:
    runtime = pytest.importorskip("onnxruntime", reason=NEEDED)
    session = runtime.InferenceSession(str(path))
    (named,) = session.get_inputs()
    return torch.from_numpy(session.run(None, {named.name: x.numpy()})[0])


@pytest.mark.parametrize("name", ["small", "cifar", "vit", "vae"])
def test_onnxruntime_gives_the_features_for_any_batch(name, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=NEEDED)
    vae = ["model.backbone=conv", "model.decoder=conv", "model.width=8", "model.latent=5"]
    kind, more = ("beta_vae", vae) if name == "vae" else ("simclr", BACKBONES[name])
    path = saved(tmp_path / "run", f"{kind}_sprites", *more)
    command.main([str(path), "-o", str(tmp_path / "out"), "--onnx"])
    own = checkpoint.load_method(path).method
    for n in (1, 5):
        x = torch.rand(n, 3, 32, 32)
        with torch.no_grad():
            wanted = own.embed(x)
        made = onnx_features(tmp_path / "out/model.onnx", x)
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "out/model.onnx").rename(tmp_path / "elsewhere/m.onnx")
    assert onnx_features(moved, x).shape == wanted.shape, "one file is enough"
    assert not list((tmp_path / "out").glob("*.data"))


def test_a_program_with_other_features_is_not_kept(tmp_path, monkeypatch, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=NEEDED)
    from core.foreign import export

    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    path = saved(tmp_path / "run", "simclr_sprites")
    with pytest.raises(SystemExit):
        command.main([str(path), "-o", str(tmp_path / "out"), "--onnx"])
    assert "gives other features" in capsys.readouterr().err
    assert not (tmp_path / "out/model.onnx").exists()


@pytest.mark.parametrize("labelled", [True, False])
def test_a_table_has_a_row_an_image(labelled, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason=NEEDED)
    where = "{}/{}/{}.png" if labelled else "{0}/{2}.png"
    files = [where.format(s, "ab"[i % 2], i) for s in ("train", "test") for i in range(20)]
    png(tmp_path / "data", *files, side=(32, 32))
    path = saved(tmp_path / "run", "simclr_sprites")
    named = ["data.name=folder", f"data.root={tmp_path / 'data'}", "data.validation=5"]
    command.main([str(path), "--embeddings", str(tmp_path / "f.parquet"), *named])
    table = parquet.read_table(tmp_path / "f.parquet")
    rows, frozen = table.to_pylist(), Frozen.load(path, named)
    assert [sum(row["split"] == s for row in rows) for s in ("train", "val", "test")] == [15, 5, 20]
    assert table.column_names == ["split", "index", "path", *["class"] * labelled, "feature"]
    for split in ("val", "test"):
        mine = [row for row in rows if row["split"] == split]
        assert [row["index"] for row in mine] == list(range(len(mine)))
        features = np.array([row["feature"] for row in mine], dtype=np.float32)
        wanted = frozen.features(split)
        np.testing.assert_allclose(features, wanted.x.numpy(), rtol=0, atol=1e-6)
        if labelled:
            assert [row["class"] for row in mine] == wanted.y[:, 0].tolist()
            assert all("ab"[row["class"]] in row["path"].split("/") for row in mine)
        assert all(Path(row["path"]).is_file() for row in mine)


def test_a_table_of_rendered_data_has_no_paths(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason=NEEDED)
    path = saved(tmp_path / "run", "simclr_sprites")
    command.main([str(path), "--embeddings", str(tmp_path / "f.parquet"), *DATA])
    table = parquet.read_table(tmp_path / "f.parquet")
    assert table.num_rows == 3 * 96 and table["path"].null_count == 3 * 96
    assert {"shape", "colour", "size"} & set(table.column_names)
