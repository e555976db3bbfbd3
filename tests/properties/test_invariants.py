"""The invariants of docs/development/invariants.md: each has tests, and faults that were planted to see them fail.

A fault is a patch of tests/mutants (`make mutants` runs them), or a test of its own that plants it (with "::").
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
C, ABSENCE = "contracts/test_mechanisms.py", "contracts/test_absence.py"

# number: (tests, planted faults)
INVARIANTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "M1": (
        (
            "unit/training/test_dp_sgd.py::test_clipped_sums_equal_both_oracles",
            "unit/training/test_vectorized_engine.py::test_with_the_noise_off_it_clips_as_opacus_does",
            "unit/training/test_dp_sgd.py::test_the_padding_row_counts_for_nothing",
        ),
        ("one-record-unclipped", "denominator-from-n"),
    ),
    "M2": (
        (
            f"{C}::test_user_level_bounds_any_device",
            "unit/privacy/test_clipping.py::test_every_update_ends_within_its_bounds",
        ),
        ("no-clip", "clip-per-array", "nan-passes-the-clip", "zero-update-divides", "split-clips-each-at-the-whole"),
    ),
    "M3": (
        (f"{C}::test_released_variance_is_the_calibrated_one", "contracts/test_audits.py::test_every_round_is_noised"),
        ("user-noise-90", "local-noise-90", "dpsgd-noise-90", "last-draw-without-noise", "one-round-of-a-hundred"),
    ),
    "M4": (
        ("properties/test_lazy_noise.py::test_every_row_gets_the_variance_of_every_step_and_device",),
        (
            "late-noise-of-one-device",
            "late-noise-under-adam",
            "properties/test_lazy_noise.py::test_the_tests_see_noise_that_is_lost",
        ),
    ),
    "M5": (
        (
            f"{C}::test_without_noise_the_sum_is_linear_in_the_devices",
            f"{C}::test_the_denominator_does_not_depend_on_who_arrived",
        ),
        ("divide-by-arrived", "denominator-from-n"),
    ),
    "M6": (
        (
            "properties/test_mechanism_invariants.py::test_weights_that_a_device_claims_are_not_heard",
            "unit/privacy/test_release.py::test_a_node_cannot_claim_more_than_its_devices",
        ),
        ("weights-by-examples", "nodes-believed", "node-sum-a-step-too-long"),
    ),
    "M7": (
        (
            "unit/privacy/test_mechanisms.py::test_interaction_level_accounts_local_steps_and_no_cohort_sampling",
            "unit/privacy/test_ledger.py::test_a_reserved_round_is_charged_at_once_and_for_ever",
        ),
        ("a-step-not-counted", "a-step-too-many", "empty-batch-without-noise", "charged-on-commit-only"),
    ),
    "M8": (
        (
            "unit/privacy/test_accounting.py::test_vectors",
            "unit/privacy/test_accounting.py::test_between_the_optimistic_pld_and_opacus_upper_bounds",
            "unit/privacy/test_accounting.py::test_composition_is_monotone",
        ),
        ("optimistic-accountant", "last-round-only"),
    ),
    "M9": (
        (f"{C}::test_calibrate_then_account", "unit/privacy/test_accounting.py::test_round_trip"),
        ("replace-one-as-add-remove", "banded-sensitivity-of-one-turn", "adaptive-accounted-by-its-own-noise"),
    ),
    "M10": (
        ("unit/privacy/test_accounting.py::test_delta_must_be_below_one_over_the_units",),
        ("delta-of-one-unit", "delta-over-users"),
    ),
    "M11": (
        (
            "properties/test_planted.py::test_no_message_checkpoint_or_ledger_holds_an_id",
            "end_to_end/test_release.py::test_only_simulated_devices_tell_their_loss",
        ),
        (
            "exact-loss-leaves-devices",
            "gateway-statistic-without-noise",
            "properties/test_planted.py::test_a_planted_leak_is_found",
        ),
    ),
    "M12": (
        (
            f"{C}::test_system_noise_never_repeats",
            "unit/privacy/test_noise.py::test_torch_and_numpy_seeds_do_not_reach_the_system_source",
        ),
        ("seeded-noise", "negatives-from-the-seed"),
    ),
    "M13": (
        (
            "unit/privacy/test_noise.py::test_gaussians_follow_the_normal_law",
            "unit/privacy/test_noise.py::test_tails_hold_what_they_should",
            "unit/privacy/test_noise.py::test_the_largest_and_smallest_words_give_finite_draws_beyond_eight_sigma",
        ),
        ("noise-of-short-tails", "last-draw-without-noise"),
    ),
    "M14": (
        ("contracts/test_audits.py::test_every_mechanism_is_tight",),
        ("user-noise-95", "dpsgd-noise-95"),
    ),
    "M15": (
        ("unit/privacy/test_user_adaptive.py::test_the_clip_converges_to_the_quantile_from_anywhere",),
        ("adaptive-sign", "adaptive-bit-uncentred"),
    ),
    "I1": (
        (
            "end_to_end/test_kills.py::test_a_kill_at_every_named_point_leaves_the_ledger_true",
            "end_to_end/test_kills.py::test_a_thousand_kills",
        ),
        ("noise-before-reserve", "end_to_end/test_kills.py::test_a_ledger_that_charges_late_is_caught"),
    ),
    "I2": (
        (
            "unit/privacy/test_ledger_tampering.py::test_a_checkpoint_that_was_rolled_back_draws_no_second_noise",
            "unit/privacy/test_ledger.py::test_a_round_is_released_once",
        ),
        ("lost-row-noised-again", "end_to_end/test_kills.py::test_the_judge_finds_a_second_time"),
    ),
    "I3": (
        (
            "properties/test_mechanism_invariants.py::test_noise_is_never_used_twice",
            "unit/privacy/test_noise.py::test_a_fork_draws_its_own",
        ),
        ("seeded-noise", "end_to_end/test_kills.py::test_noise_that_comes_back_after_a_kill_is_caught"),
    ),
    "I4": (
        (
            "end_to_end/test_resume.py::test_a_killed_run_ends_bit_identical",
            "properties/test_mechanism_invariants.py::test_stopped_and_resumed_it_ends_as_it_would_have",
        ),
        ("resume-forgets-the-memory",),
    ),
    "I5": (
        (
            "properties/test_mechanism_invariants.py::test_the_server_bounds_what_any_node_sends",
            "properties/test_mechanism_invariants.py::test_wrong_types_do_not_count",
        ),
        ("nodes-believed", "no-clip"),
    ),
    "I6": (
        (
            "properties/test_mechanism_invariants.py::test_absence_changes_neither_epsilon_nor_noise",
            f"{ABSENCE}::test_noise_does_not_follow_who_arrived",
        ),
        ("noise-follows-arrivals", "counted-on-arrival", f"{ABSENCE}::test_noise_does_not_follow_who_arrived"),
    ),
    # No mechanism divides one noise among devices: each adds all of its own, and too few answers release nothing.
    "I7": (
        (
            f"{ABSENCE}::test_noise_does_not_follow_who_arrived",
            "unit/federated/test_loop.py::test_dropouts_leave_fewer_answers_and_too_few_release_nothing",
        ),
        ("lost-rounds-refunded", f"{ABSENCE}::test_a_device_counts_once_it_was_invited"),
    ),
    "I8": (("unit/federated/test_loop.py::test_a_second_or_unasked_answer_changes_nothing",), ("answers-twice",)),
    # A device is one user; where a node holds several, the unit of the clip is the user.
    "I9": (
        ("unit/privacy/test_gateway.py::test_per_sample_norms_are_those_of_whole_users",),
        ("gateway-clips-interactions",),
    ),
    "I10": (
        (
            "unit/privacy/test_ledger.py::test_a_run_spends_its_budget_and_no_more",
            "unit/privacy/test_ledger_tampering.py::test_a_ledger_that_was_tampered_with_is_refused",
            "unit/privacy/test_ledger_tampering.py::test_no_budget_comes_back_with_the_clock",
        ),
        (
            "budget-checked-too-late",
            "rollback-accepted",
            "unit/privacy/test_ledger_tampering.py::test_without_the_check_the_fraud_would_pay",
        ),
    ),
    "I11": (
        (
            "unit/privacy/test_ledger_tampering.py::test_the_twenty_first_trial_is_refused",
            "unit/privacy/test_ledger.py::test_the_population_limit_counts_all_runs",
        ),
        ("other-trials-not-counted", "units-apart"),
    ),
    "I12": (
        (
            "properties/test_planted.py::test_the_whole_command_keeps_them_out_of_files_and_screen",
            "end_to_end/test_release.py::test_the_public_lines_tell_nothing_exact",
        ),
        ("public-line-is-exact", "properties/test_planted.py::test_a_planted_leak_is_found"),
    ),
    "I13": (
        (
            "unit/audit/test_auditor.py::test_sampling_holds_and_its_faults_show",
            "unit/experiment/test_cohort.py::test_draws_are_poisson",
        ),
        ("cohort-of-fixed-size", "batch-of-fixed-size", "amplified-by-a-known-cohort", "local-amplified-by-the-cohort"),
    ),
    "I14": (
        ("properties/test_planted.py::test_what_breaks_on_a_node_is_told_without_its_words",),
        ("errors-told-in-their-words", "lost-rounds-refunded"),
    ),
    "I15": (
        (
            "unit/privacy/test_accounting.py::test_impossible_multipliers_are_errors",
            "unit/training/test_dp_sgd.py::test_a_non_finite_example_counts_for_nothing",
        ),
        ("nan-passes-the-clip", "delta-of-one-unit"),
    ),
    "I16": (
        ("unit/privacy/test_ledger_tampering.py::test_a_disk_that_fails_ends_the_round_before_anything_is_drawn",),
        ("failed-sync-believed", "unsynced-ledger"),
    ),
    "I17": (
        (
            "unit/privacy/test_ledger_tampering.py::test_a_thousand_flipped_bits_change_nothing_unnoticed",
            "unit/storage/test_checkpoint.py::test_damage_is_named_and_never_trained_on",
        ),
        ("damage-believed", "rollback-accepted"),
    ),
    "I18": (
        ("unit/audit/test_auditor.py::test_what_is_reported_holds",),
        ("unit/audit/test_auditor.py::test_too_little_noise_contradicts", "last-round-only"),
    ),
}


def exists(name: str) -> bool:
    file, _, test = name.partition("::")
    # A contract's tests lie in fedrec.testing, where one's own parts find them too.
    suite = ROOT / "fedrec" / "testing" / Path(file).name.removeprefix("test_")
    found = [path for path in (ROOT / "tests" / file, suite) if path.exists()]
    return any(re.search(rf"^ *def {test}\(", path.read_text(), re.MULTILINE) for path in found)


def planted(name: str) -> bool:
    return exists(name) if "::" in name else (ROOT / "tests" / "mutants" / f"{name}.patch").exists()


def test_every_invariant_of_the_notes_is_here() -> None:
    assert list(INVARIANTS) == [f"M{n}" for n in range(1, 16)] + [f"I{n}" for n in range(1, 19)]


@pytest.mark.parametrize("number", INVARIANTS)
def test_an_invariant_has_tests_and_planted_faults(number: str) -> None:
    tests, faults = INVARIANTS[number]
    assert tests and not [name for name in tests if not exists(name)]
    assert faults and not [name for name in faults if not planted(name)]


def test_what_is_not_there_is_noticed() -> None:
    assert not exists("unit/privacy/test_noise.py::test_nothing") and not exists("test_nowhere.py::test_vectors")
    assert not planted("no-such-fault")
