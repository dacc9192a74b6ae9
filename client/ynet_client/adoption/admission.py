"""The decision whether a model is adopted: at once, after the admin accepts it, or never."""

import logging
import time

from ynet.errors import RefusedError
from ynet_client.adoption import code_check, model_check
from ynet_client.adoption.model_check import ActiveModel
from ynet_client.adoption.offered import OfferedModels, waits
from ynet_client.training.consent import Consent
from ynet_client.training.site_data import LocalSite

log = logging.getLogger("ynet.admission")
LOST = "the file of the model in use is lost, so the two cannot be compared (max_score_drop)"


class Admission:
    """The checks of a new model before it is used."""

    def __init__(self, site: LocalSite, consent: Consent, offers: OfferedModels, max_score_drop: float) -> None:
        """Prepare the checks.

        Args:
            site: the site's data.
            consent: the site's decisions on plans.
            offers: the models that wait for a decision.
            max_score_drop: how much lower a new model may score on the site's test cases than the one in use.
        """
        self._site, self._consent, self._offers = site, consent, offers
        self._max_score_drop = max_score_drop

    def check(self, old: ActiveModel | None, new: ActiveModel, is_one_in_use: bool) -> None:
        """Raise RefusedError when a model must not be adopted, and WaitsError when the admin must accept it first.

        Args:
            old: the model in use; None when there is none, or when its file is lost.
            new: the model that was announced.
            is_one_in_use: whether a model is in use, even if its file is lost.
        """
        decision = self._offers.decision_on(new.id)
        if decision == "declined":
            do = f"to adopt it after all: ynet-client plan accept {new.id[:16]}"
            raise RefusedError(f"model {new.id[:16]} is not adopted", "the site's admin declined it", do)
        # 1. The veto: a model that scores worse is refused even if the admin accepted it.
        uncompared = self._uncompared(old, new, is_one_in_use)
        if decision is not None:
            return
        # 2. Its origin, and what its codes reveal.
        doubts = (
            self._consent.objection(new.plan),
            self._site.took_part.doubt(new.plan, new.id),
            uncompared,
            self._reveals_too_much(old, new),
        )
        if why := tuple(doubt for doubt in doubts if doubt):
            self._offers.put(new.id, new.plan, why)
            raise waits(new.id, why)

    def _uncompared(self, old: ActiveModel | None, new: ActiveModel, is_one_in_use: bool) -> str:
        """Return why the veto could not compare the models; empty if it could. Raises RefusedError for a veto."""
        if self._max_score_drop >= 1:
            return ""
        if old is None:
            return LOST if is_one_in_use else ""
        return model_check.check(self._site, old, new, self._max_score_drop)

    def _reveals_too_much(self, old: ActiveModel | None, new: ActiveModel) -> str:
        begun = time.monotonic()
        found = code_check.measure(self._site, old, new)
        if found is None:
            log.warning("model %s: %s", new.id, code_check.TOO_FEW)
            return ""
        log.info("model %s: %s; the check took %.1f s", new.id, found.words(), time.monotonic() - begun)
        return found.words() if found.is_too_much else ""
