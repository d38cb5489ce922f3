"""A bet that p-values are not uniform: the martingale of the drift check.

While nothing changes the bets are fair, so the capital stays low; how seldom it becomes large is
known beforehand (Ville's inequality).  Capital that grows is evidence of a change.

Source: Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman, "Retrain or not retrain:
conformal test martingales for change-point detection" (COPA 2021, arXiv 2102.10439), the Simple
Jumper, with e in {-1, 0, 1} and jump rate 0.01.  That its capital is paid in over time is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from destseg.errors import SettingsError

JUMP_RATE = 0.01
BETS = (-1, 0, 1)


@dataclass(frozen=True)
class Jumper:
    """The gambler: Simple Jumpers that begin at every image, with one unit of capital in all.

    A Simple Jumper has an account for each e in {-1, 0, 1}.  Before every p-value each account
    gives the fraction 0.01 of what it has to be spread evenly over the three; then it is multiplied
    by 1 + e (p - 0.5), which is 1 in the mean where p is uniform.  So e = -1 gains by small
    p-values (scores higher than before) and e = 1 by large ones.

    A single one that begins at the first image, as published, loses about the factor 100 every
    1,200 images without a change and must win all of that back before it can show one.
    Here the part 1 / (n (n + 1)) of the capital is kept back until image n, and then paid into
    the accounts evenly.  These parts add up to 1, and as the rule is linear in the capital this is
    the weighted mean of Simple Jumpers that begin at image 1, 2, 3, ...: a test martingale as
    well, which never falls below 1 / (n + 2) after n images.

    Logarithms are kept, as the capital after a change grows beyond what a float holds.

    Attributes:
        played: number of p-values that were bet on, at least 0.
        log_invested: natural logarithm of what is in the accounts.
        accounts: fraction of that in each account, for e = -1, 0, 1; they add up to 1.
    """

    played: int = 0
    log_invested: float = math.log(0.5)
    accounts: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)

    def bet(self, p_value: float) -> Jumper:
        """Return the gambler after one more p-value, in [0, 1]."""
        jumped = [(1 - JUMP_RATE) * fraction + JUMP_RATE / 3 for fraction in self.accounts]
        won = [
            fraction * (1 + e * (p_value - 0.5)) for e, fraction in zip(BETS, jumped, strict=True)
        ]
        growth = math.fsum(won)
        played = self.played + 1
        log_payment = -math.log((played + 1) * (played + 2))  # for the next image
        log_kept = self.log_invested + math.log(growth)
        log_invested = _log_of_sum(log_kept, log_payment)
        fresh = math.exp(log_payment - log_invested)
        small, none, large = ((1 - fresh) * part / growth + fresh / 3 for part in won)
        return Jumper(played, log_invested, (small, none, large))

    @property
    def log10_capital(self) -> float:
        """The martingale's decimal logarithm: accounts and what is not yet paid in; 0 at first."""
        return _log_of_sum(self.log_invested, -math.log(self.played + 2)) / math.log(10)


def alarm_level(rate: float) -> float:
    """Return the decimal logarithm of the martingale's value at which there is an alarm.

    Args:
        rate: highest chance of an alarm without a change, in (0, 1).

    Raises:
        SettingsError: if the rate is out of range.
    """
    if not 0 < rate < 1:
        raise SettingsError(f"--alarm-rate: expected a number between 0 and 1, got {rate!r}")
    return -math.log10(rate)


def _log_of_sum(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b)) without overflow."""
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
