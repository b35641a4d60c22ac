//! What becomes of a checkpoint that was begun: §3, §4 and §5.1.

use super::*;

#[test]
fn s3_1_complete_when_all_have_acknowledged() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    assert_eq!(rig.ack(1, SINK), []);
    assert!(!rig.coordinator.is_committing());
    assert_eq!(rig.ack(1, SOURCE), [persist(1, false)]);
    assert!(rig.coordinator.is_committing());
    assert_eq!(rig.coordinator.latest_completed(), None);
}

#[test]
fn s3_2_a_second_ack_is_ignored_and_its_state_left_alone() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    rig.ack(1, SINK);
    assert_eq!(rig.ack(1, SINK), []);
    assert_eq!(rig.ack(1, SOURCE), [persist(1, false)]);
    assert_eq!(rig.ack(1, SOURCE), [], "also while it is being committed");
}

#[test]
fn s3_2_acks_nobody_asked_for_are_discarded() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    assert_eq!(rig.ack(1, SINK), [discard(1, 11)], "not triggered yet");
    rig.prepared(1);
    assert_eq!(rig.ack_as(1, SINK, Attempt(9), false), [discard(1, 11)], "other attempt");
    assert_eq!(rig.ack(1, subtask(7)), [discard(1, 17)], "other subtask");
    assert_eq!(rig.ack(5, SINK), [discard(5, 51)], "never existed");
    rig.decline(1, FailureReason::TaskNotReady);
    assert_eq!(rig.ack(1, SINK), [discard(1, 11)], "aborted");
    rig.take(2);
    assert_eq!(rig.ack(2, SINK), [discard(2, 21)], "completed");
    rig.on(Event::Shutdown);
    assert_eq!(rig.ack(2, SINK), [], "untouched after a shutdown");
}

#[test]
fn s3_2_a_state_of_nothing_is_an_ack_like_any_other() {
    let mut coordinator = Coordinator::new(Some(&settings()), cp(1), Vec::new(), vec![SOURCE], vec![SOURCE]);
    let (attempt, now) = (Attempt(0), Monotonic(1_000));
    coordinator.on(Event::Start { attempt, random: 99, first: true }, now);
    coordinator.on(Event::Request { request: RequestId(1), kind: RequestKind::Manual }, now);
    coordinator.on(Event::Prepared { checkpoint: cp(1), result: Ok(()) }, now);
    let ack =
        Event::Ack { checkpoint: cp(1), subtask: SOURCE, attempt, state: None::<State>, finished: false };
    let persist = Action::Persist { checkpoint: cp(1), states: vec![(SOURCE, None)], finished: false };
    assert_eq!(coordinator.on(ack, now), [persist]);
}

#[test]
fn s3_2_an_ack_for_what_expired_is_discarded_however_long_ago_that_was() {
    let mut rig = Rig::manual(&settings());
    for id in 1..=20 {
        assert_eq!(rig.request(id), [prepare(id)]);
        rig.prepared(id);
        rig.timer_at(rig.now + 1_000);
        rig.on(Event::Cleaned { checkpoint: cp(id) });
    }
    for id in [1, 20] {
        assert_eq!(rig.ack(id, SINK), [discard(id, id * 10 + 1)], "Flink remembers the last 16");
    }
}

#[test]
fn s3_4_a_decline_aborts_with_its_reason() {
    let mut rig = Rig::manual(&settings());
    rig.take(1);
    rig.request(2);
    rig.prepared(2);
    rig.ack(2, SINK);
    let reason = FailureReason::Declined { message: text() };
    assert_eq!(
        rig.decline(2, reason.clone()),
        [
            refusal(2, Some(2), reason.clone()),
            failed(Some(2), reason.clone()),
            aborted(2, Some(1)),
            clean_up(2, &[21])
        ]
    );
    assert_eq!(rig.decline(2, reason.clone()), [], "a second one");
    assert_eq!(rig.decline(9, reason), [], "of nobody");
}

#[test]
fn s3_4_declines_of_strangers_and_after_the_last_ack_are_ignored() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    for (subtask, attempt) in [(SINK, Attempt(9)), (subtask(7), Attempt(0))] {
        let reason = FailureReason::TaskNotReady;
        assert_eq!(rig.on(Event::Decline { checkpoint: cp(1), subtask, attempt, reason }), []);
    }
    rig.up_to_persist(1, false);
    assert_eq!(rig.decline(1, FailureReason::TaskNotReady), []);
    assert_eq!(rig.coordinator.pending(), [cp(1)]);
}

#[test]
fn s3_5_expiry() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    rig.ack(1, SINK);
    assert_eq!(rig.timer_at(1_999), []);
    let reason = FailureReason::Expired;
    assert_eq!(
        rig.timer_at(2_000),
        [refusal(1, Some(1), reason.clone()), failed(Some(1), reason), aborted(1, None), clean_up(1, &[11])]
    );
    assert_eq!(rig.timer_at(2_000), []);
}

#[test]
fn s3_5_what_is_being_committed_does_not_expire() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.up_to_persist(1, false);
    assert_eq!(rig.deadline(), None);
    assert_eq!(rig.timer_at(9_999), []);
    assert_eq!(rig.persisted(1, Ok(())), [answer(1, 1), complete(1, false)]);
}

#[test]
fn s3_6_order_of_a_completion() {
    let mut rig = Rig::manual(&settings().max_concurrent(2));
    rig.take(1);
    rig.request(2);
    rig.prepared(2);
    rig.request(3);
    rig.up_to_persist(3, false);
    rig.request(4);
    assert_eq!(
        rig.persisted(3, Ok(())),
        [
            retire(1),
            answer(3, 3),
            complete(3, false),
            refusal(2, Some(2), FailureReason::Subsumed),
            failed(Some(2), FailureReason::Subsumed),
            aborted(2, Some(3)),
            clean_up(2, &[]),
            prepare(4),
        ]
    );
    assert_eq!(rig.persisted(3, Ok(())), [], "told twice");
    assert_eq!((rig.coordinator.latest_completed(), rig.coordinator.retained()), (Some(cp(3)), &[cp(3)][..]));
}

#[test]
fn s3_6_commits_are_one_at_a_time_and_in_order() {
    let mut rig = Rig::manual(&settings().max_concurrent(3));
    for id in 1..=3 {
        rig.request(id);
        rig.prepared(id);
    }
    rig.ack(1, SOURCE);
    rig.ack(1, SINK);
    for id in [3, 2] {
        assert_eq!((rig.ack(id, SOURCE), rig.ack(id, SINK)), (vec![], vec![]));
    }
    assert_eq!(rig.persisted(1, Ok(())), [answer(1, 1), complete(1, false), persist(2, false)]);
    assert_eq!(
        rig.persisted(2, Ok(())),
        [retire(1), answer(2, 2), complete(2, false), persist(3, false)],
        "and a newer one stays"
    );
}

#[test]
fn s3_7_savepoints_are_never_subsumed() {
    let mut rig = Rig::manual(&settings().max_concurrent(2));
    rig.savepoint(1, false);
    rig.prepared(1);
    rig.request(2);
    rig.up_to_persist(2, false);
    assert_eq!(rig.persisted(2, Ok(())), [answer(2, 2), complete(2, false)]);
    assert_eq!(rig.coordinator.pending(), [cp(1)]);
    assert!(rig.coordinator.is_savepoint(cp(1)));
}

#[test]
fn s3_7_and_3_8_a_savepoint_subsumes_nothing_is_not_retained_and_not_notified() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    assert_eq!(rig.savepoint(2, false), [], "an unforced one waits");
    assert_eq!(rig.savepoint(3, true), [prepare(2)], "a forced one does not");
    rig.up_to_persist(2, false);
    assert_eq!(rig.persisted(2, Ok(())), [answer(3, 2)]);
    assert_eq!(rig.coordinator.pending(), [cp(1)]);
    assert_eq!((rig.coordinator.latest_completed(), rig.coordinator.retained()), (None, &[][..]));
}

#[test]
fn s3_9_a_commit_that_fails_aborts_and_counts() {
    let mut rig = Rig::manual(&settings().tolerable_failures(0));
    rig.take(1);
    rig.request(2);
    rig.up_to_persist(2, false);
    let reason = FailureReason::FinalizeFailed { message: text() };
    assert_eq!(
        rig.persisted(2, Err(PersistFailure::Failed { message: text() })),
        [
            refusal(2, Some(2), reason.clone()),
            failed(Some(2), reason.clone()),
            aborted(2, Some(1)),
            clean_up(2, &[20, 21]),
            fail_job(2, None, reason)
        ]
    );
    assert_eq!(rig.coordinator.retained(), [cp(1)], "earlier ones are untouched");
}

#[test]
fn s3_10_a_commit_of_unknown_outcome_deletes_nothing_and_fails_the_job() {
    let mut rig = Rig::manual(&settings().max_concurrent(2));
    rig.take(1);
    rig.request(2);
    rig.up_to_persist(2, false);
    rig.request(3);
    rig.prepared(3);
    let reason = FailureReason::CommitUnknown { message: text() };
    assert_eq!(
        rig.persisted(2, Err(PersistFailure::Unknown { message: text() })),
        [
            refusal(2, Some(2), reason.clone()),
            failed(Some(2), reason.clone()),
            fail_job(2, None, reason),
            refusal(3, Some(3), FailureReason::Suspended),
            failed(Some(3), FailureReason::Suspended),
            aborted(3, Some(1)),
            clean_up(3, &[]),
        ],
        "although any number of failures is borne"
    );
    assert!(!rig.coordinator.is_committing());
    assert_eq!(rig.coordinator.retained(), [cp(1)]);
}

#[test]
fn s3_10_the_log_settles_what_was_unknown() {
    let unknown = || Err(PersistFailure::Unknown { message: text() });
    let after_unknown = || {
        let mut rig = Rig::manual(&settings());
        rig.take(1);
        rig.request(2);
        rig.up_to_persist(2, false);
        rig.persisted(2, unknown());
        rig
    };
    let mut rig = after_unknown();
    assert_eq!(rig.persisted(2, unknown()), [], "still unknown");
    assert_eq!(rig.persisted(2, Ok(())), [retire(1), complete(2, false)]);
    assert_eq!(rig.coordinator.latest_completed(), Some(cp(2)));
    let mut rig = after_unknown();
    assert_eq!(rig.persisted(2, Err(PersistFailure::Failed { message: text() })), [clean_up(2, &[20, 21])]);
    assert_eq!(rig.persisted(2, Ok(())), [], "settled");
    let mut rig = after_unknown();
    assert_eq!(rig.persisted(2, Err(PersistFailure::Fenced)), [Action::Fenced { checkpoint: cp(2) }]);
    let mut rig = after_unknown();
    rig.start(false);
    assert_eq!(rig.persisted(2, Ok(())), [], "too late: the attempt started from another one");
    assert_eq!(rig.coordinator.latest_completed(), Some(cp(1)));
}

#[test]
fn fenced_deletes_nothing_of_it_and_shuts_down() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.up_to_persist(1, false);
    rig.request(2);
    let reason = FailureReason::Fenced;
    assert_eq!(
        rig.persisted(1, Err(PersistFailure::Fenced)),
        [
            refusal(1, Some(1), reason.clone()),
            failed(Some(1), reason.clone()),
            Action::Fenced { checkpoint: cp(1) },
            refusal(2, None, reason.clone()),
            failed(None, reason),
        ]
    );
    assert_eq!(rig.start(false), []);
    assert_eq!(rig.deadline(), None);
    assert_eq!(rig.request(3).first(), Some(&refusal(3, None, FailureReason::Shutdown)));
}

#[test]
fn s3_11_an_abort_during_preparing_is_cleaned_up_once_the_place_exists() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    let actions = rig.timer_at(2_000);
    assert_eq!(
        actions,
        [
            refusal(1, Some(1), FailureReason::Expired),
            failed(Some(1), FailureReason::Expired),
            aborted(1, None)
        ]
    );
    assert_eq!(rig.on(Event::Cleaned { checkpoint: cp(1) }), []);
    assert_eq!(rig.prepared(1), [clean_up(1, &[])]);
    assert_eq!(rig.prepared(1), []);
}

#[test]
fn s3_11_an_abort_tells_all_deletes_all_and_lets_the_next_one_run() {
    let mut rig = Rig::manual(&settings());
    rig.take(1);
    rig.request(2);
    rig.prepared(2);
    rig.ack(2, SOURCE);
    rig.request(3);
    let reason = FailureReason::TaskNotReady;
    let failed = [refusal(2, Some(2), reason.clone()), failed(Some(2), reason.clone())];
    let rest = [aborted(2, Some(1)), clean_up(2, &[20]), prepare(3)];
    assert_eq!(rig.decline(2, reason), [&failed[..], &rest].concat());
}

#[test]
fn s3_12_aborting_what_is_over_is_a_no_op() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    assert_ne!(rig.decline(1, FailureReason::TaskNotReady), []);
    assert_eq!(rig.timer_at(9_999), []);
    rig.take(2);
    assert_eq!(rig.decline(2, FailureReason::TaskNotReady), []);
    assert_eq!(rig.persisted(1, Ok(())), [], "nor does an outcome nobody asked for bring it back");
    assert_eq!(rig.coordinator.latest_completed(), Some(cp(2)));
}

#[test]
fn s3_13_shutdown_fails_all_and_ignores_what_follows() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    rig.ack(1, SINK);
    rig.request(2);
    let reason = FailureReason::Shutdown;
    assert_eq!(
        rig.on(Event::Shutdown),
        [
            refusal(1, Some(1), reason.clone()),
            failed(Some(1), reason.clone()),
            aborted(1, None),
            clean_up(1, &[11]),
            refusal(2, None, reason.clone()),
            failed(None, reason.clone()),
        ]
    );
    for event in [Event::Shutdown, Event::Timer, Event::InputEnded, Event::Cleaned { checkpoint: cp(1) }] {
        assert_eq!(rig.on(event), []);
    }
    assert_eq!((rig.start(true), rig.stop(), rig.ack(1, SOURCE)), (vec![], vec![], vec![]));
    assert_eq!(
        rig.request(3),
        [refusal(3, None, reason.clone()), failed(None, reason)],
        "but it is answered"
    );
}

#[test]
fn a_commit_outlives_a_stop_and_a_shutdown() {
    for shutdown in [false, true] {
        let mut rig = Rig::manual(&settings());
        rig.request(1);
        rig.up_to_persist(1, true);
        let actions = if shutdown { rig.on(Event::Shutdown) } else { rig.stop() };
        assert_eq!(actions, []);
        assert!(rig.coordinator.is_committing());
        assert_eq!(rig.persisted(1, Ok(())), [answer(1, 1), complete(1, true)]);
        assert_eq!(rig.coordinator.retained(), [cp(1)]);
        let reason = if shutdown { FailureReason::Shutdown } else { FailureReason::TasksNotRunning };
        assert_eq!(rig.request(2).first(), Some(&refusal(2, None, reason)), "the stop stands");
    }
}

#[test]
fn a_start_without_a_stop_ends_what_the_old_attempt_had_under_way() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    rig.attempt = Attempt(1);
    assert!(rig.start(false).contains(&refusal(1, Some(1), FailureReason::Suspended)));
    assert_eq!(rig.coordinator.pending(), []);
}

#[test]
fn s4_2_the_job_fails_above_the_tolerated_number() {
    let mut rig = Rig::manual(&settings().tolerable_failures(1));
    let reason = FailureReason::Declined { message: text() };
    let mut fired = Vec::new();
    for id in 1..=4 {
        rig.request(id);
        rig.prepared(id);
        fired.push(rig.decline(id, reason.clone()).contains(&fail_job(id, Some(SINK), reason.clone())));
        rig.on(Event::Cleaned { checkpoint: cp(id) });
    }
    assert_eq!(fired, [false, true, false, true]);
}

#[test]
fn s4_4_a_completion_forgets_the_failures_also_that_of_a_savepoint() {
    for savepoint in [false, true] {
        let mut rig = Rig::manual(&settings().tolerable_failures(1));
        let fail = |rig: &mut Rig, id| {
            rig.request(id);
            rig.prepared(id);
            let actions = rig.decline(id, FailureReason::Declined { message: text() });
            rig.on(Event::Cleaned { checkpoint: cp(id) });
            actions.iter().any(|action| matches!(action, Action::FailJob { .. }))
        };
        assert!(!fail(&mut rig, 1));
        if savepoint {
            rig.savepoint(2, false)
        } else {
            rig.request(2)
        };
        rig.up_to_persist(2, false);
        rig.persisted(2, Ok(()));
        assert!(!fail(&mut rig, 3), "the first since");
        assert!(fail(&mut rig, 4));
    }
}

#[test]
fn s4_5_savepoint_failures_count_only_when_a_subtask_had_them() {
    let mut rig = Rig::manual(&settings().tolerable_failures(0));
    rig.savepoint(1, false);
    rig.up_to_persist(1, false);
    let actions = rig.persisted(1, Err(PersistFailure::Failed { message: text() }));
    assert!(!actions.iter().any(|action| matches!(action, Action::FailJob { .. })), "{actions:?}");
    rig.savepoint(2, false);
    rig.prepared(2);
    let reason = FailureReason::AsyncFailed { message: text() };
    assert!(rig.decline(2, reason.clone()).contains(&fail_job(2, Some(SINK), reason)));
}

#[test]
fn s4_7_an_attempt_that_is_over_is_not_failed_again() {
    let mut rig = Rig::manual(&settings().tolerable_failures(0));
    rig.request(1);
    rig.up_to_persist(1, false);
    rig.stop();
    let actions = rig.persisted(1, Err(PersistFailure::Failed { message: text() }));
    assert_eq!(actions.last(), Some(&clean_up(1, &[10, 11])));
}

#[test]
fn s5_1_the_oldest_completed_one_is_retired() {
    let mut rig = Rig::manual(&settings().retain(2));
    let retired: Vec<bool> =
        (1..=4).map(|id| rig.take(id).iter().any(|a| matches!(a, Action::Retire { .. }))).collect();
    assert_eq!(retired, [false, false, true, true]);
    assert_eq!(rig.coordinator.retained(), [cp(3), cp(4)]);
}

#[test]
fn s5_1_those_found_at_the_start_are_retired_too() {
    let kept = vec![cp(3), cp(7)];
    let coordinator = Coordinator::new(Some(&settings()), cp(8), kept, vec![SOURCE, SINK], vec![SOURCE]);
    let mut rig = Rig { coordinator, now: 1_000, attempt: Attempt(0) };
    assert_eq!(rig.coordinator.latest_completed(), Some(cp(7)));
    rig.start(true);
    rig.request(1);
    rig.up_to_persist(8, false);
    assert_eq!(rig.persisted(8, Ok(()))[..2], [retire(3), retire(7)]);
}

#[test]
fn s4_3_one_checkpoint_counts_once_however_many_decline_it() {
    let mut rig = Rig::manual(&settings().tolerable_failures(1));
    rig.request(1);
    rig.prepared(1);
    let reason = FailureReason::AsyncFailed { message: text() };
    for subtask in [SINK, SOURCE] {
        let (attempt, reason) = (rig.attempt, reason.clone());
        let actions = rig.on(Event::Decline { checkpoint: cp(1), subtask, attempt, reason });
        assert!(!actions.iter().any(|action| matches!(action, Action::FailJob { .. })), "{actions:?}");
    }
    rig.request(2);
    rig.prepared(2);
    assert!(rig.decline(2, reason.clone()).contains(&fail_job(2, Some(SINK), reason)));
}

#[test]
fn s5_3_the_old_one_goes_only_after_the_new_one_is_durable() {
    let mut rig = Rig::manual(&settings());
    rig.take(1);
    rig.request(2);
    rig.up_to_persist(2, false);
    assert_eq!(rig.coordinator.retained(), [cp(1)], "while 2 is being committed");
    assert_eq!(rig.persisted(2, Ok(())).first(), Some(&retire(1)));
    rig.request(3);
    rig.up_to_persist(3, false);
    let actions = rig.persisted(3, Err(PersistFailure::Failed { message: text() }));
    assert!(!actions.iter().any(|action| matches!(action, Action::Retire { .. })), "{actions:?}");
    assert_eq!(rig.coordinator.retained(), [cp(2)]);
}

#[test]
fn s5_7_nothing_is_added_after_a_shutdown_but_a_commit_under_way() {
    let mut rig = Rig::manual(&settings().max_concurrent(2));
    rig.request(1);
    rig.prepared(1);
    rig.request(2);
    rig.up_to_persist(2, false);
    rig.on(Event::Shutdown);
    assert_eq!((rig.ack(1, SOURCE), rig.ack(1, SINK)), (vec![], vec![]));
    assert_eq!(rig.persisted(1, Ok(())), []);
    assert_eq!(rig.coordinator.retained(), []);
    rig.persisted(2, Ok(()));
    assert_eq!(rig.coordinator.retained(), [cp(2)], "unlike in Flink: what is in the log is true");
}

#[test]
fn s5_8_the_latest_is_the_one_added_last() {
    let kept = vec![cp(3), cp(4)];
    let settings = settings().retain(9);
    let coordinator = Coordinator::new(Some(&settings), cp(1), kept, vec![SOURCE, SINK], vec![SOURCE]);
    let mut rig = Rig { coordinator, now: 1_000, attempt: Attempt(0) };
    rig.start(true);
    assert_eq!(rig.coordinator.latest_completed(), Some(cp(4)));
    rig.request(1);
    rig.up_to_persist(5, false);
    rig.persisted(5, Ok(()));
    assert_eq!(
        (rig.coordinator.latest_completed(), rig.coordinator.retained().last()),
        (Some(cp(5)), Some(&cp(5)))
    );
}

#[test]
fn s11_2_the_plan_of_every_checkpoint_holds_all_subtasks_the_finished_ones_too() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    rig.ack_as(1, SOURCE, Attempt(0), true);
    rig.ack(1, SINK);
    rig.persisted(1, Ok(()));
    assert_eq!(rig.request(2), [prepare(2)]);
    assert_eq!(rig.prepared(2), [trigger(2, 0)], "the finished source passes the barrier on");
    assert_eq!(rig.ack(2, SINK), [], "and is waited for");
}

#[test]
fn s13_3_an_abort_carries_the_latest_completed_one() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    assert!(rig.decline(1, FailureReason::TaskNotReady).contains(&aborted(1, None)));
    rig.take(2);
    rig.savepoint(3, false);
    rig.up_to_persist(3, false);
    rig.persisted(3, Ok(()));
    rig.request(4);
    rig.prepared(4);
    assert!(rig.decline(4, FailureReason::TaskNotReady).contains(&aborted(4, Some(2))), "savepoints aside");
}

fn incremental(max_concurrent: u32) -> Rig {
    Rig::manual(&settings().incremental(true).max_increments(9).max_concurrent(max_concurrent))
}

fn extents(actions: &[Action<State>]) -> Vec<Extent> {
    let extent = |action: &Action<State>| match action {
        Action::Trigger { extent, .. } => Some(*extent),
        _ => None,
    };
    actions.iter().filter_map(extent).collect()
}

fn since(base: Option<u64>) -> Vec<Extent> {
    vec![Extent::Incremental { base: base.map(CheckpointId), limit: 9 }]
}

#[test]
fn an_increment_builds_on_the_last_completed_checkpoint_and_never_on_a_failed_one() {
    let mut rig = incremental(1);
    rig.request(1);
    assert_eq!(extents(&rig.prepared(1)), since(None));
    rig.decline(1, FailureReason::TaskNotReady);
    rig.on(Event::Cleaned { checkpoint: cp(1) });
    rig.request(2);
    rig.up_to_persist(2, false);
    rig.persisted(2, Ok(()));
    for failed in [3, 4] {
        rig.request(failed);
        assert_eq!(extents(&rig.prepared(failed)), since(Some(2)));
        rig.decline(failed, FailureReason::TaskNotReady);
        rig.on(Event::Cleaned { checkpoint: cp(failed) });
    }
    rig.request(5);
    assert_eq!(extents(&rig.prepared(5)), since(Some(2)));
}

#[test]
fn savepoints_are_full_and_complete_in_themselves() {
    let mut rig = incremental(1);
    rig.request(1);
    rig.up_to_persist(1, false);
    rig.persisted(1, Ok(()));
    rig.savepoint(2, true);
    assert_eq!(extents(&rig.prepared(2)), [Extent::Full]);
}

#[test]
fn s15_7_a_base_is_retired_only_when_nothing_under_way_builds_on_it() {
    let mut rig = incremental(3);
    rig.request(1);
    rig.up_to_persist(1, false);
    rig.persisted(1, Ok(()));
    for id in [2, 3] {
        rig.request(id);
        assert_eq!(extents(&rig.prepared(id)), since(Some(1)));
    }
    for from in [SOURCE, SINK] {
        rig.ack(2, from);
    }
    let actions = rig.persisted(2, Ok(()));
    assert!(!actions.contains(&retire(1)), "3 builds on it");
    assert!(rig.coordinator.is_known(cp(1)), "an ack that comes late does not delete it");
    rig.ack(3, SOURCE);
    let actions = rig.ack(3, SINK);
    assert!(!actions.contains(&retire(1)), "and is being committed");
    let actions = rig.persisted(3, Ok(()));
    assert!(actions.contains(&retire(1)) && actions.contains(&retire(2)), "{actions:?}");
}

#[test]
fn nothing_newer_is_retired_while_a_base_is_held_as_all_older_ones_go_with_it() {
    let mut rig = incremental(4);
    rig.request(1);
    rig.up_to_persist(1, false);
    rig.persisted(1, Ok(()));
    for id in 2..=4 {
        rig.request(id);
        assert_eq!(extents(&rig.prepared(id)), since(Some(1)));
    }
    for id in 2..=3 {
        for from in [SOURCE, SINK] {
            rig.ack(id, from);
        }
        let actions = rig.persisted(id, Ok(()));
        assert!(
            !actions.iter().any(|action| matches!(action, Action::Retire { .. })),
            "4 builds on 1: {actions:?}"
        );
    }
    assert!(rig.coordinator.is_known(cp(1)) && rig.coordinator.is_known(cp(2)));
    for from in [SOURCE, SINK] {
        rig.ack(4, from);
    }
    let actions = rig.persisted(4, Ok(()));
    let retired: Vec<_> =
        actions.into_iter().filter(|action| matches!(action, Action::Retire { .. })).collect();
    assert_eq!(retired, [retire(1), retire(2), retire(3)]);
}

#[test]
fn a_base_is_free_when_what_built_on_it_fails_but_not_while_its_commit_is_in_doubt() {
    for in_doubt in [false, true] {
        let mut rig = incremental(3);
        rig.request(1);
        rig.up_to_persist(1, false);
        rig.persisted(1, Ok(()));
        for id in [2, 3] {
            rig.request(id);
            rig.prepared(id);
        }
        for id in [2, 3] {
            for from in [SOURCE, SINK] {
                rig.ack(id, from);
            }
            if id == 2 {
                assert!(!rig.persisted(2, Ok(())).contains(&retire(1)));
            }
        }
        if in_doubt {
            let message = "nobody knows".into();
            assert!(!rig.persisted(3, Err(PersistFailure::Unknown { message })).contains(&retire(1)));
            assert!(rig.persisted(3, Ok(())).contains(&retire(1)));
        } else {
            let message = "no".into();
            assert!(rig.persisted(3, Err(PersistFailure::Failed { message })).contains(&retire(1)));
        }
    }
}
