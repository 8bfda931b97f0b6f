"""A small twin of a gene screen and one of a drug screen, fitted once."""

from __future__ import annotations

import pytest
from defect_files import donors_and_types, drug_screen
from small_twins import fitted

from twinlib.data.simulated import simulate_waddington
from twinlib.landscapes.gene_network import Wiring
from twinlib.verdict.keys import Keys
from twinlib.verdict.twin import Twin


@pytest.fixture(scope="session")
def screen():
    singles = ("Gata1", "Pu1", "Cebpa", "Fli1")
    return simulate_waddington(700, seed=3, perturbations=(*singles, "Gata1+Pu1"), wiring=Wiring(n_genes=60))


@pytest.fixture(scope="session")
def twin(screen) -> Twin:
    return fitted(screen)


@pytest.fixture(scope="session")
def drugs() -> Twin:
    return fitted(drug_screen(), Keys(log_dose=True))


@pytest.fixture(scope="session")
def cytokine() -> Twin:
    return fitted(donors_and_types())
