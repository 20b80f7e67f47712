from __future__ import annotations

import numpy as np
import pytest

from deploy.train.alarms import FalseAlarms, read_off, threshold
from deploy.train.packing import TrainingOptions
from schemas.errors import ConfigError

DAY_US = 86_400e6


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("1/day", 0.01),
        ("2 / d", 0.02),
        ("1/h", 0.24),
        ("3/week", 3 / 700),
        ("0.5%", 0.005),
        ("0.02", 0.02),
        (".1 %", 0.001),
    ],
)
def test_a_rate_is_a_share_of_windows_of_some_length(text: str, share: float) -> None:
    assert FalseAlarms.parse(text).of_windows(DAY_US / 100) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "often", "1/fortnight", "-1%", "1//day", "nan", "1e-3", "1/"])
def test_what_is_no_rate_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not a false-alarm rate: .*write 1/day, 0\.5% or 0\.005; times are s, min"):
        FalseAlarms.parse(text)


@pytest.mark.parametrize("text", ["0", "0%", "50%", "0.5", "1"])
def test_a_share_of_none_or_of_half_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="above 0 and below half of the windows"):
        FalseAlarms.parse(text)


def test_no_false_alarms_at_all_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match="no threshold gives no false alarm at all"):
        FalseAlarms.parse("0/day")


def test_more_alarms_than_windows_can_give_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"more than every second window .*windows_a_day=1\.0"):
        FalseAlarms.parse("1/day").of_windows(DAY_US)


def test_a_rate_that_was_seen_is_read_off() -> None:
    scores = np.random.default_rng(0).random(10_000)
    assert read_off(len(scores), 0.01)
    assert threshold(scores, 0.01) == pytest.approx(np.quantile(scores, 0.99))


@pytest.mark.parametrize("rate", [1e-3, 1e-4, 1e-5])
def test_a_rate_that_was_hardly_seen_is_extrapolated_to_about_the_true_score(rate: float) -> None:
    """Of exponential scores the true one is known: -log(rate)."""
    found = [threshold(np.random.default_rng(seed).exponential(size=800), rate) for seed in range(30)]
    assert not read_off(800, rate)
    assert np.mean(found) == pytest.approx(-np.log(rate), rel=0.05)


@pytest.mark.parametrize("rate", [1e-3, 1e-4])
def test_scores_with_a_lighter_tail_get_rather_too_few_alarms(rate: float) -> None:
    """Scores of normal windows are log(1 + a mean of squares)."""
    for seed in range(5):
        random = np.random.default_rng(seed)
        squares = np.square(random.standard_normal((200_000, 4))).mean(axis=1)
        level = threshold(np.log1p(squares[:500]), rate)
        assert np.mean(np.log1p(squares) >= level) <= 1.5 * rate


def test_fewer_scores_than_a_tail_needs_still_give_a_threshold_above_them() -> None:
    assert threshold(np.arange(12.0), 1e-4) > 11.0
    assert threshold(np.zeros(12), 1e-4) == 0.0


def test_stated_rates_keep_the_order_of_the_levels() -> None:
    for text in ("0.01%", "5%", "20%", "49%"):
        rates = TrainingOptions(false_alarms=FalseAlarms.parse(text)).rates(1.0)
        assert rates.raise_ == rates.heavy == FalseAlarms.parse(text).share
        assert rates.raise_ <= rates.escalate <= rates.clear < 1.0
