"""`style-factory base`: importing, listing, describing."""

from __future__ import annotations

import json
from pathlib import Path

from osasis.bundles.files import shipped_bases
from tests.factory.conftest import Ran, cli, import_tiny
from tests.tiny import SIZE


def test_base_import_describes_what_it_made(imported: tuple[Path, Ran]) -> None:
    home, ran = imported
    assert ran.code == 0
    info = ran.document
    assert info["name"] == "tiny"
    assert info["config"]["image_size"] == SIZE
    assert info["guide"] == {"kind": "statistics", "stages": [0, 1, 2], "grid": 1}
    assert info["provenance"]["sources"]["diffae"]["file"] == "diffae.safetensors"
    files = {"base.json", "diffae.safetensors", "perceptual.safetensors", "photos.safetensors"}
    assert {p.name for p in (home / "bases" / "tiny").iterdir()} == files


def test_base_list_and_info(home: Path) -> None:
    listed = cli("base", "list", "--home", home, "--json")
    assert listed.code == 0
    # The home's base, then the package's.
    row, *shipped = listed.document["bases"]
    assert [base["name"] for base in shipped] == ["portraits64", "portraits64-sd"]
    info = cli("base", "info", "--home", home, "--json")
    assert info.document == row
    assert row["name"] == "tiny"
    files = (home / "bases" / "tiny").iterdir()
    assert row["bytes"] == sum(p.stat().st_size for p in files)
    plain = cli("base", "list", "--home", home)
    assert plain.out.split()[:3] == ["tiny", "32", "px"]
    assert row["fingerprint"] in plain.out


def test_importing_again_gives_the_same_fingerprint(
    home: Path, sources: Path, tmp_path: Path
) -> None:
    again = import_tiny(tmp_path, sources, "other").document
    before = cli("base", "info", "tiny", "--home", home, "--json").document
    assert again["fingerprint"] == before["fingerprint"]


def test_another_base_does_not_take_a_name_silently(
    home: Path, sources: Path, tmp_path: Path
) -> None:
    first = import_tiny(tmp_path, sources, "mine").document
    # The same import changes nothing; another guide makes another base.
    assert import_tiny(tmp_path, sources, "mine").document["fingerprint"] == first["fingerprint"]
    refused = import_tiny(tmp_path, sources, "mine", "--guide-grid", "2")
    assert refused.code == 2
    assert "base 'mine' already exists with other content" in refused.document["error"]
    info = cli("base", "info", "mine", "--home", tmp_path, "--json").document
    assert info["fingerprint"] == first["fingerprint"]
    replaced = import_tiny(tmp_path, sources, "mine", "--guide-grid", "2", "--replace").document
    info = cli("base", "info", "mine", "--home", tmp_path, "--json").document
    assert info["fingerprint"] == replaced["fingerprint"] != first["fingerprint"]
    assert [p.name for p in tmp_path.iterdir()] == ["bases"]


def test_base_list_of_an_empty_home(tmp_path: Path) -> None:
    ran = cli("base", "list", "--home", tmp_path, "--json")
    assert ran.code == 0
    shipped, diffstyler = ran.document["bases"]
    assert (diffstyler["name"], diffstyler["method"]) == ("portraits64-sd", "diffstyler")
    assert (shipped["name"], shipped["folder"]) == (
        "portraits64",
        str(shipped_bases()["portraits64"]),
    )


def test_base_name_and_stages_are_checked(sources: Path, tmp_path: Path) -> None:
    ran = import_tiny(tmp_path, sources, "Big Base")
    assert ran.code == 2
    assert ran.error.startswith("base name 'Big Base': use 1 to 63 of")
    ran = import_tiny(tmp_path, sources, "tiny", "--guide-stages", "0,x")
    assert ran.code == 2
    assert ran.error == "--guide-stages is '0,x'; give numbers such as 0,1,2,3"


def test_checkpoint_of_another_configuration(sources: Path, tmp_path: Path) -> None:
    config = json.loads((sources / "tiny.json").read_text()) | {"z_channels": 32}
    (tmp_path / "wide.json").write_text(json.dumps(config))
    ran = import_tiny(tmp_path / "home", sources, "tiny", "--config", str(tmp_path / "wide.json"))
    assert ran.code == 2
    assert "diffae.safetensors: does not fit the configuration: " in ran.error
    assert not (tmp_path / "home" / "bases").exists()
