"""Gene expression of breast cancer patients, from the packages that ship it, and random splits of them."""

import importlib.util
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import arff

YEARS = 5.0


class Patients(NamedTuple):
    """Expressions (patients, genes), whether the event came within five years, and the source."""

    X: np.ndarray
    event: np.ndarray
    source: str


class Split(NamedTuple):
    """The parts of one split, or of several, stacked: expressions X (patients, genes) and events y of each part."""

    X: dict[str, np.ndarray]
    y: dict[str, np.ndarray]


def frame(name: str):
    """A data set of SurvSet: a table with `time`, `event` and a column `num_...` for each gene."""
    try:
        from SurvSet.data import SurvLoader
    except ImportError as error:
        raise SystemExit(
            f"The data set {name} comes with the package SurvSet: pip install '.[experiments]', or pip install SurvSet."
        ) from error
    with warnings.catch_warnings():
        # The files were pickled by an older NumPy, whose modules had other names.
        warnings.simplefilter("ignore", DeprecationWarning)
        return SurvLoader().load_dataset(name)["df"]


def patients(name: str) -> Patients | None:
    """DBCD or vdv from SurvSet, or GSE7390 from scikit-survival; None if scikit-survival is not installed.

    Patients who left the study within five years without an event are left out.
    """
    if name == "GSE7390":
        # Only the data file of scikit-survival is needed.
        found = importlib.util.find_spec("sksurv")
        if found is None or found.origin is None:
            return None
        file = Path(found.origin).parent / "datasets" / "data" / "breast_cancer_GSE7390-metastasis.arff"
        rows, _ = arff.loadarff(file)
        genes = [column for column in rows.dtype.names if column.startswith("X")]
        X = np.stack([rows[column] for column in genes], axis=1)
        years, event = rows["t.tdm"] / 365.25, rows["e.tdm"] == b"1"
        source = "scikit-survival"
    else:
        table = frame(name)
        X = table.filter(like="num_").to_numpy(float)
        years, event = table["time"].to_numpy(float), table["event"].to_numpy() == 1
        source = "SurvSet"
    known = event | (years >= YEARS)
    return Patients(X[known], (event & (years < YEARS))[known], f"{name} ({source})")


def split(data: Patients, number: int, n_genes: int, rank: str, seed: int) -> Split:
    """Stratified 60/20/20 splits, stacked. Genes are ranked and standardised on the training part alone.

    Args:
        data: the patients.
        number: number of splits.
        n_genes: number of genes to keep.
        rank: "variance", or "t", the absolute two-sample t statistic (Welch) of the two outcomes.
        seed: for the splits.
    """
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(number):
        parts: dict[str, list] = {"train": [], "validation": [], "test": []}
        for outcome in (False, True):
            order = random.permutation(np.flatnonzero(data.event == outcome))
            cuts = round(0.6 * len(order)), round(0.8 * len(order))
            for part, chosen in zip(parts.values(), np.split(order, cuts), strict=True):
                part.append(chosen)
        rows = {name: np.concatenate(part) for name, part in parts.items()}
        train, event = data.X[rows["train"]], data.event[rows["train"]]
        best = np.argsort(-_score(train, event, rank), kind="stable")[:n_genes]
        mean, scale = train[:, best].mean(0), train[:, best].std(0)
        drawn.append(
            Split(
                {name: (data.X[r][:, best] - mean) / scale for name, r in rows.items()},
                {name: data.event[r] for name, r in rows.items()},
            )
        )
    return Split(
        *({part: np.stack([getattr(one, field)[part] for one in drawn]) for part in drawn[0].X} for field in ("X", "y"))
    )


def _score(X: np.ndarray, event: np.ndarray, rank: str) -> np.ndarray:
    if rank == "variance":
        return X.var(0)
    groups = [X[event == outcome] for outcome in (False, True)]
    gap = groups[1].mean(0) - groups[0].mean(0)
    return np.abs(gap) / np.sqrt(sum(group.var(0, ddof=1) / len(group) for group in groups))
