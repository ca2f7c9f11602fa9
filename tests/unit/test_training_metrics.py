"""Promises of the published measures, on cases small enough to work out by hand."""

import numpy as np
import pytest

from training.metrics import cmapss_score, kept_test_rows
from worker.accuracy import auc, average_precision, card_precision, rmse


def test_auc_is_the_share_of_pairs_in_the_right_order_and_a_tie_is_half_a_pair() -> None:
    truth = np.array([0, 0, 1, 1])

    assert auc(truth, np.array([0.1, 0.4, 0.35, 0.8])) == pytest.approx(0.75)
    assert auc(truth, np.array([0.1, 0.5, 0.5, 0.8])) == pytest.approx(0.875)
    assert auc(truth, np.zeros(4)) == pytest.approx(0.5)


def test_average_precision_weighs_precision_by_the_recall_gained() -> None:
    truth = np.array([0, 0, 1, 1])

    assert average_precision(truth, np.array([0.1, 0.4, 0.35, 0.8])) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(truth, np.zeros(4)) == pytest.approx(0.5)


def test_a_card_found_on_one_day_makes_room_for_another_on_the_next() -> None:
    day = np.array([1, 1, 1, 2, 2, 2])
    customer = np.array([7, 7, 8, 7, 8, 9])
    truth = np.array([0, 1, 0, 1, 1, 0])
    score = np.array([0.9, 0.1, 0.5, 0.99, 0.8, 0.7])

    # Day 1: card 7 leads by its first row and its second is the fraud. Day 2: without 7, card 8 leads.
    assert card_precision(day, customer, truth, score, top=1) == 1.0


def test_a_card_with_a_fraud_that_is_known_by_the_test_day_is_not_scored() -> None:
    day = np.array([0, 6, 7, 14, 14, 15, 15, 21])
    customer = np.array([1, 2, 3, 1, 3, 3, 4, 4])
    truth = np.array([1, 0, 1, 0, 0, 0, 0, 0])

    kept = kept_test_rows(day, customer, truth, train_day=0)

    # Card 1 fell in training; card 3 on day 7, unknown on day 14, known on day 15; day 21 is after the week.
    assert kept.tolist() == [False, False, False, False, True, False, True, False]


def test_late_predictions_cost_more_than_early_ones() -> None:
    truth = np.array([50.0])

    assert cmapss_score(truth, np.array([60.0])) == pytest.approx(np.e - 1)
    assert cmapss_score(truth, np.array([37.0])) == pytest.approx(np.e - 1)
    assert rmse(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == pytest.approx(np.sqrt(2))
