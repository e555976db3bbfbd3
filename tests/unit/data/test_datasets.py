"""Every source: the publishers' real data where they are, small copies of their layouts where they are not."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from fedrec.data.dataset import Dataset
from fedrec.data.datasets.movielens import SHIPPED, MovieLens1M, MovieLens100K, MovieLensLatestSmall
from fedrec.data.datasets.social import HetRecLastFM
from fedrec.data.datasets.synthetic import Synthetic
from fedrec.errors import FedrecError
from tests.support.data_layouts import write_ml_1m, write_ml_100k
from tests.support.tiny import interactions_of

Shared = Callable[[str], Path]
ROOT = Path(__file__).parents[3]


def sizes(data: Dataset) -> tuple[int, int, int]:
    return len(data.interactions), data.interactions.users, len(data.catalogue)


def test_shipped_latest_small_loads_whole() -> None:
    MovieLensLatestSmall().load()
    data = MovieLensLatestSmall().load()
    assert sizes(data) == (100_004, 671, 9_066)
    assert data.catalogue.origin == "interactions"
    assert data.catalogue.titles[0] == "Toy Story (1995)"
    assert data.catalogue.feature_names[-2:] == ("year", "position")
    assert np.isfinite(data.catalogue.features).all()
    assert data.repairs == ()


def test_shipped_terms_stand_beside_the_data_and_it_stays_small() -> None:
    terms = (SHIPPED / "README.txt").read_text()
    for part in ("redistribute", "commercial", "10.1145/2827872", "endorsement"):
        assert part in terms
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 700_000


def test_shipped_equals_the_publishers_archive(shared: Shared) -> None:
    shipped, published = (MovieLensLatestSmall(path=path).load() for path in (None, str(shared("ml-latest-small.zip"))))
    assert sizes(published) == (100_004, 671, 9_125)
    assert published.catalogue.origin == "item file"
    assert shipped.population == published.population
    for column in ("user", "time", "value"):
        assert np.array_equal(getattr(shipped.interactions, column), getattr(published.interactions, column))
    ids = [data.catalogue.ids[data.interactions.item] for data in (shipped, published)]
    assert np.array_equal(ids[0], ids[1])


def test_ml_100k_layout_by_hand(tmp_path: Path) -> None:
    write_ml_100k(tmp_path / "ml-100k")
    data = MovieLens100K(path=str(tmp_path)).load()
    assert data.interactions.user_ids.tolist() == ["2", "10"]
    assert data.catalogue.titles.tolist() == ["Heat (1995)", "caf\xe9 (1990)", "unknown"]
    assert data.catalogue.feature_names == ("genre:unknown", "genre:Drama", "year", "position")
    assert data.catalogue.features[:, :3].tolist() == [[0, 1, 1995], [0, 0, 1995], [1, 0, 1995]]
    assert data.devices[1].test.tolist() == [2]  # equal times: the later line is the later row


def test_ml_1m_layout_by_hand(tmp_path: Path) -> None:
    data = MovieLens1M(path=str(write_ml_1m(tmp_path / "ml-1m"))).load()
    assert sizes(data) == (6, 2, 110)
    assert data.catalogue.feature_names == ("genre:Comedy", "genre:Drama", "year", "position")
    assert data.catalogue.ids[[d.test[0] for d in data.devices]].tolist() == ["198", "196"]


def test_rating_of_a_film_that_is_not_listed(tmp_path: Path) -> None:
    folder = write_ml_1m(tmp_path / "ml-1m")
    with (folder / "ratings.dat").open("a") as file:
        file.write("2::7::4::10\n")
    with pytest.raises(FedrecError, match=r"ratings\.dat:7: item '7' is not in the item file"):
        MovieLens1M(path=str(folder)).load()


def test_same_population_from_archive_and_folder(tmp_path: Path) -> None:
    folder = write_ml_100k(tmp_path / "ml-100k")
    with zipfile.ZipFile(tmp_path / "copy.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"ml-100k/{file.name}")
    loaded = [MovieLens100K(path=str(tmp_path / name)).load() for name in ("ml-100k", "copy.zip", "")]
    assert len({data.population for data in loaded}) == 1


def test_ml_100k_as_published(shared: Shared) -> None:
    data = MovieLens100K(path=str(shared("ml-100k.zip").parent)).load()
    assert sizes(data) == (100_000, 943, 1_682)
    assert data.catalogue.features.shape == (1_682, 21)
    assert interactions_of(data).value.mean() == pytest.approx(3.52986)


def test_ml_1m_as_published(shared: Shared) -> None:
    data = MovieLens1M(path=str(shared("ml-1m.zip"))).load()
    assert sizes(data) == (1_000_209, 6_040, 3_883)
    assert len(np.unique(data.interactions.item)) == 3_706
    assert data.catalogue.origin == "item file"


def test_lastfm_as_published(shared: Shared) -> None:
    data = HetRecLastFM(path=str(shared("hetrec2011-lastfm-2k.zip"))).load()
    assert sizes(data) == (92_834, 1_892, 17_632)
    assert data.catalogue.titles[0] == "MALICE MIZER"
    assert "seeded random order (seed 0)" in data.split
    assert not interactions_of(data).time.any()


def test_lastfm_with_a_column_missing(tmp_path: Path) -> None:
    (tmp_path / "user_artists.dat").write_text("userID\tartist\tweight\n1\t2\t3\n")
    with pytest.raises(FedrecError, match=r"user_artists\.dat:1: no column 'artistID'.*Did you mean 'artist'"):
        HetRecLastFM(path=str(tmp_path)).load()


def test_synthetic_is_seeded_and_long_tailed() -> None:
    data, same, other = (Synthetic(users=500, items=400, interactions=10_000, seed=seed).load() for seed in (1, 1, 2))
    assert data.synthetic
    assert data.population == same.population != other.population
    assert np.array_equal(data.interactions.item, same.interactions.item)
    per_user, per_item = (np.bincount(rows) for rows in (interactions_of(data).user, data.interactions.item))
    assert per_user.min() >= 1 and per_user.mean() == pytest.approx(20, rel=0.2)
    assert per_user.max() > 4 * np.median(per_user)
    assert np.sort(per_item)[-80:].sum() > 0.4 * per_item.sum()
    assert set(np.unique(interactions_of(data).value)) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    pairs = interactions_of(data).user.astype(np.int64) * 400 + data.interactions.item
    assert len(np.unique(pairs)) == len(pairs)


def test_synthetic_users_prefer_one_genre() -> None:
    data = Synthetic(users=100, items=400, interactions=2000, genres=4).load()
    genre = data.catalogue.features[:, :4].argmax(axis=1)
    shares = [np.bincount(genre[device.history], minlength=4).max() / len(device.history) for device in data.devices]
    assert np.mean(shares) > 0.6


def test_synthetic_refuses_what_it_can_not_draw() -> None:
    with pytest.raises(FedrecError, match="no more genres than items"):
        Synthetic(items=3, genres=8).load()
    with pytest.raises(FedrecError, match="drawn, not read"):
        Synthetic(path="x").load()


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_lists_every_setting_with_its_default(path: Path) -> None:
    import importlib
    from dataclasses import fields

    settings = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(settings, dict)
    settings.pop("defaults", None)  # of other groups: which model, where none is named
    module, _, name = settings.pop("_target_").rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    assert set(settings) == {field.name for field in fields(kind)}
    for field in fields(kind):
        if field.name not in ("columns", "items"):
            assert settings[field.name] == field.default, field.name
    kind(**{str(name): value for name, value in settings.items()})
