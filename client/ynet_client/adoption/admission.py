"""Whether a model is taken up: by itself, after the admin's yes, or not at all."""

import logging
import time

from ynet.errors import RefusedError
from ynet_client.adoption import code_check, model_check
from ynet_client.adoption.model_check import ActiveModel
from ynet_client.adoption.offered import Offers, waits
from ynet_client.training.consent import Consent
from ynet_client.training.site_data import LocalSite

log = logging.getLogger("ynet.admission")
LOST = "the model in use is lost here, so that nothing can be compared with it (max_score_drop)"


class Admission:
    """The look at a new model before it is in use."""

    def __init__(
        self, site: LocalSite, consent: Consent, offers: Offers, max_score_drop: float, *, has_detail: bool
    ) -> None:
        """`max_score_drop`: how much lower a new model may score on the site's test cases than the one in use.

        `has_detail`: whether detail codes leave this site.
        """
        self._site, self._consent, self._offers = site, consent, offers
        self._max_score_drop, self._has_detail = max_score_drop, has_detail

    def check(self, old: ActiveModel | None, new: ActiveModel, is_one_in_use: bool) -> None:
        """Raise RefusedError where a model is not taken up, WaitsError where the admin is asked first.

        `old`: the model in use; None where there is none, or where its file is lost.
        """
        word = self._offers.word_of(new.id)
        if word == "declined":
            do = f"to take it up after all: ynet-client plan accept {new.id[:16]}"
            raise RefusedError(f"model {new.id[:16]} is not taken up", "the site's admin declined it", do)
        # 1. The veto, which a yes does not go round: where it compared, and the model is worse, it stays.
        uncompared = self._uncompared(old, new, is_one_in_use)
        if word is not None:
            return
        # 2. Whose it is, and what its codes tell.
        doubts = (
            self._consent.objection(new.plan),
            self._site.took_part.doubt(new.plan, new.id),
            uncompared,
            self._told_too_much(old, new),
        )
        if why := tuple(doubt for doubt in doubts if doubt):
            self._offers.put(new.id, new.plan, why)
            raise waits(new.id, why)

    def _uncompared(self, old: ActiveModel | None, new: ActiveModel, is_one_in_use: bool) -> str:
        """Why the veto could not look, or empty. Raises RefusedError for a no."""
        if self._max_score_drop >= 1:
            return ""
        if old is None:
            return LOST if is_one_in_use else ""
        return model_check.check(self._site, old, new, self._max_score_drop)

    def _told_too_much(self, old: ActiveModel | None, new: ActiveModel) -> str:
        begun = time.monotonic()
        found = code_check.look(self._site, old, new, has_detail=self._has_detail)
        if found is None:
            log.warning("model %s: %s", new.id, code_check.TOO_FEW)
            return ""
        log.info("model %s: %s; it took %.1f s", new.id, found.words(), time.monotonic() - begun)
        return found.words() if found.is_too_much else ""
