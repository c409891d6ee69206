//! The list of trials, and what each needs of the harness.

use std::future::Future;
use std::pin::Pin;

use super::Need::{
    ExpiringMembers, Link, OneHandle, Outside, RequestCount, RestartAll, Revoke, StopAll, ThreeServers, UniqueRevisions, WatchOfEverything,
};
use super::{Need, Scene};
use super::{cancel, content, expiry, faults, leader, members, values, watched, watching};

/// One trial.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) needs: &'static [Need],
    pub(super) run: fn(Scene) -> Pin<Box<dyn Future<Output = ()>>>,
}

macro_rules! cases {
    ($($module:ident: { $($name:ident $([$($need:ident),+])?,)+ })+) => {
        vec![$($(Case {
            name: stringify!($name),
            needs: &[$($($need),+)?],
            run: |scene| Box::pin($module::$name(scene)),
        },)+)+]
    };
}

pub(super) fn all() -> Vec<Case> {
    cases! {
        content: {
            a01_an_empty_prefix_loads_as_the_empty_view,
            a02_what_one_member_writes_the_other_loads,
            a03_foreign_keys_are_ignored_and_survive [Outside],
            a04_scopes_that_begin_alike_do_not_mix,
            a05_damaged_values_load_as_the_specification_says [Outside],
            a06_unicode_quotes_and_newlines_come_back,
            a07_a_large_configuration_comes_back_and_a_huge_one_is_refused,
            a08_fifty_members_load_completely [Outside],
        }
        leader: {
            a10_acquire_on_a_free_lock_wins,
            a11_acquire_on_a_held_lock_loses_and_changes_nothing,
            a12_acquiring_again_does_not_extend_the_belief,
            a13_two_at_the_same_instant_have_one_winner,
            a14_ten_at_once_have_one_winner,
            a16_renewal_by_a_non_holder_is_lost_and_leaves_the_key,
            a17_renewal_after_the_key_was_deleted_brings_it_back [Outside],
            a18_renewal_after_somebody_else_took_the_lock_is_lost,
            a19_release_frees_the_lock_at_once,
            a20_release_by_a_non_holder_changes_nothing,
            a21_release_publishes_the_final_position_and_keeps_the_slots,
            a22_take_leader_on_a_free_lock_wins,
            a25_a_leader_cycle_writes_status_and_failsafe_after_the_lock,
            a26_unchanged_status_and_failsafe_are_not_written [Outside],
            a72_a_leader_cycle_needs_three_requests [RequestCount],
        }
        expiry: {
            a15_a_renewed_lock_outlives_its_ttl,
            a23_an_abandoned_lock_lives_its_ttl_and_no_longer,
            a24_an_expired_lock_is_acquired_without_delay,
            a27_a_changed_ttl_keeps_the_lock_and_takes_effect,
            a29_an_abandoned_member_vanishes_after_its_ttl [ExpiringMembers],
            a31_keys_of_an_earlier_process_are_taken_over,
            a65_a_member_that_slept_past_its_ttl_does_not_believe_in_its_lock,
        }
        members: {
            a28_a_member_is_written_only_when_it_changed [Outside],
            a30_a_destroyed_handle_is_replaced_within_two_calls [Revoke],
            a32_releasing_the_lock_leaves_the_member,
            a32_member_and_leader_hang_on_one_handle [OneHandle],
        }
        values: {
            a33_a_configuration_is_written_only_with_its_current_revision,
            a34_two_writers_with_one_revision_have_one_winner,
            a35_a_configuration_without_revision_overwrites_and_creates,
            a36_a_failover_request_is_cleared_only_if_it_is_the_one_acted_on,
            a37_a_written_synchronous_state_can_be_written_again_without_a_load,
            a38_two_synchronous_states_with_one_revision_have_one_winner,
            a39_the_synchronous_state_is_cleared_only_with_its_current_revision,
            a40_a_revision_from_before_a_deletion_is_refused,
            a41_one_of_many_bootstraps,
            a42_initialize_is_overwritten_cancelled_and_created_again,
            a43_a_revision_of_one_key_is_none_of_another [UniqueRevisions],
            a44_a_history_of_a_thousand_entries_comes_back,
            a45_a_deleted_cluster_is_empty,
        }
        watching: {
            a46_a_release_wakes_within_a_second,
            a47_an_expiry_wakes_within_two_seconds,
            a48_a_new_leader_wakes,
            a49_a_changed_configuration_wakes [WatchOfEverything],
            a49_a_failover_request_wakes [WatchOfEverything],
            a50_a_status_write_wakes_the_others_and_not_its_writer,
            a51_a_member_key_wakes_only_who_asks_for_it,
            a52_wake_ends_a_wait_and_a_wake_before_it_ends_the_next,
            a53_nothing_happening_ends_a_wait_in_time,
            a54_a_change_during_a_cut_is_noticed_after_it [Link],
            a55_a_thousand_status_writes_do_not_make_the_waiter_spin,
        }
        watched: {
            a76_what_woke_a_member_is_in_its_next_view [WatchOfEverything],
            a77_a_member_is_shown_its_own_writes_while_its_watch_runs,
            a78_a_member_that_is_cut_off_is_not_shown_the_past_for_long [Link],
        }
        faults: {
            a56_a_server_that_is_not_in_use_may_stop [ThreeServers],
            a57_the_server_in_use_may_die [ThreeServers],
            a58_the_server_in_use_may_freeze [ThreeServers],
            a59_nothing_answers_and_everything_ends_in_time [StopAll],
            a60_a_short_freeze_is_outwaited [StopAll],
            a61_all_servers_restart_with_their_data [RestartAll],
            a62_slow_answers_are_awaited_and_very_slow_ones_are_not [Link],
            a63_a_lost_answer_to_an_acquire_is_never_a_loss [Link],
            a64_a_lost_answer_to_a_conditional_write_leaves_old_or_new [Link],
            a66_a_member_that_was_cut_off_finds_its_lock_lost [Link],
            a67_servers_restart_one_after_the_other [ThreeServers],
        }
        cancel: {
            a71_dropping_any_future_leaves_the_client_usable,
        }
    }
}
