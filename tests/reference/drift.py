"""The drift check as its definitions read: counts in loops, one gambler a starting image."""

from fractions import Fraction


def p_values(calibration_images, scores, chances):
    """The fraction of the higher scores, and a random part of the equal ones, itself among them."""
    earlier = list(calibration_images)
    result = []
    for score, chance in zip(scores, chances, strict=True):
        everything = [*earlier, score]
        higher = sum(1 for other in everything if other > score)
        equal = sum(1 for other in everything if other == score)
        result.append((higher + chance * equal) / len(everything))
        earlier.append(score)
    return result


def simple_jumper(p_values, jump=Fraction(1, 100)):
    """The capital after each p-value, from 1: Vovk et al. (2021), with exact fractions."""
    accounts = {-1: Fraction(1, 3), 0: Fraction(1, 3), 1: Fraction(1, 3)}
    capital = []
    for p in p_values:
        total = sum(accounts.values())
        for e in accounts:
            accounts[e] = (1 - jump) * accounts[e] + jump * total / 3
        for e in accounts:
            accounts[e] *= 1 + e * (Fraction(p) - Fraction(1, 2))
        capital.append(sum(accounts.values()))
    return capital


def martingale(p_values):
    """The capital after each p-value: 1 / (n (n + 1)) of it is given to a gambler who begins at n.

    What is not yet given after m p-values is what is left of one unit.
    """
    result = []
    for m in range(1, len(p_values) + 1):
        total, left = Fraction(0), Fraction(1)
        for n in range(1, m + 1):
            part = Fraction(1, n * (n + 1))
            total += part * simple_jumper(p_values[n - 1 : m])[-1]
            left -= part
        result.append(total + left)
    return result
