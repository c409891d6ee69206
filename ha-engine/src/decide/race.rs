//! "Am I the one?": the leader race (rows Q and K of section 2). Every node judges for itself; the store arbitrates.

use dcs_core::model::{FailoverRequest, MemberName};

use super::action::Ask;
use super::candidates::{self, Comparison, NOT_REACHABLE, action_word, known_lineage, limitation, target};
use super::cycle::{Cycle, Outcome};
use super::failsafe;
use super::journal::{Record, Rule};
use super::observation::{Monitor, PeerAnswer, PeerTarget};
use super::sync::electorate::Electorate;
use crate::settings::SyncMode;

/// Whether this node should try to take the free lock.
pub(super) fn should_i_lead(c: &mut Cycle<'_>) -> Outcome<bool> {
    // Q1
    if let Some(released) = c.memory.released_lock_at {
        if c.now.moment.saturating_since(released) < c.cfg.ttl {
            let line = "backoff: skip leader race after pre_promote script failure and releasing the lock voluntarily";
            c.info(line);
            return stay_out(c, Rule::RaceBackoff, line);
        }
        c.memory.released_lock_at = None;
    }
    let nofailover = c.obs.tags.nofailover();
    let request = c.failover().map(|key| key.request.clone());

    // Q2: in pause only a request for a definite candidate promotes anybody.
    if c.paused()
        && !nofailover
        && let Some(request) = request.as_ref().filter(|request| request.scheduled_at.is_none())
        && let Some(verdict) = race_with_request(c, request)?
    {
        return Ok(verdict);
    }
    // Q3
    if c.obs.server.state.is_starting() {
        return stay_out(c, Rule::RaceStarting, "PostgreSQL is still starting");
    }
    if c.is_primary() {
        return Ok(may_primary_lead(c));
    }
    // Q7, Q8
    if c.paused() {
        return stay_out(c, Rule::RacePaused, "nobody is promoted in maintenance mode unless somebody asks for it");
    }
    if nofailover {
        return stay_out(c, Rule::RaceNoFailover, "the tag nofailover, or a failover_priority of 0, forbids it");
    }
    // Hardening rule X8: nobody knows who has every acknowledged commit. An operator may know.
    let named = request.as_ref().is_some_and(|request| request.candidate.as_ref() == Some(c.me()));
    if c.cfg.synchronous_mode != SyncMode::Off && c.view.sync.damaged && !named {
        let reason = "the /sync key is damaged, so nobody knows which standbys were synchronous";
        c.warn(format!("not taking part in the leader race: {reason}"));
        return stay_out(c, Rule::RaceSyncDamaged, reason);
    }
    let electorate = Electorate::of(&c.view, c.cfg);
    let outsider = electorate.as_ref().is_some_and(|electorate| !electorate.includes(c.me()));
    // Q9
    if outsider && request.as_ref().is_some_and(|request| request.leader.is_some()) {
        c.info(format!("not taking part in the switchover: {} is not listed in the /sync key", c.me()));
        return not_listed(c);
    }
    // Q10
    if let Some(request) = request {
        return Ok(race_with_request(c, &request)?.unwrap_or(false));
    }
    // Q11
    if !c.obs.watchdog.usable {
        c.warn("Watchdog device is not usable");
        return Ok(false);
    }
    // Q12
    if c.cfg.failsafe_mode && failsafe::keeps_out(&c.view, c.me()) {
        c.info(format!("not taking part in the leader race: {} is not listed in the /failsafe key", c.me()));
        return stay_out(c, Rule::RaceNotInFailsafe, "the /failsafe key does not list it");
    }
    // Q13
    if outsider && electorate.as_ref().is_some_and(|electorate| !electorate.counts_votes()) {
        c.info(format!("not taking part in the leader race: {} is not listed in the /sync key", c.me()));
        return not_listed(c);
    }
    // Q14
    let mut members = candidates::known_members(c);
    let former_leader = match &electorate {
        Some(electorate) => {
            members.retain(|member| electorate.includes(&member.name));
            electorate.leader().cloned()
        }
        None => c.memory.last_locked_view.as_ref().and_then(|view| view.leader_name().cloned()),
    };
    let comparison = Comparison {
        members: &members,
        check_lag: true,
        former_leader,
        electorate: electorate.as_ref(),
        look_for_primaries: true,
        except: None,
    };
    candidates::is_healthiest(c, &comparison)
}

/// Not me: says why.
fn stay_out(c: &mut Cycle<'_>, rule: Rule, why: &str) -> Outcome<bool> {
    let candidate = c.failover().and_then(|key| key.request.candidate.clone());
    c.note(Record::new(rule, format!("this node does not take the free leader lock: {why}")).fact_if("requested_candidate", candidate));
    Ok(false)
}

/// Q9, Q13, K4: in synchronous mode.
fn not_listed(c: &mut Cycle<'_>) -> Outcome<bool> {
    let record = &c.view.sync.record;
    let (leader, standbys) = (record.leader.clone(), record.standbys.join(","));
    let what =
        "this node does not take the free leader lock: the /sync key does not list it, so it may lack commits that were acknowledged";
    c.note(Record::new(Rule::RaceNotSynchronous, what).fact_if("sync_leader", leader).fact("sync_standbys", standbys));
    Ok(false)
}

/// Q4 to Q6: whether a running primary may take the free lock.
fn may_primary_lead(c: &mut Cycle<'_>) -> bool {
    if c.paused() {
        let foreign = c.view.system_id().is_some_and(|id| c.obs.server.system_id.as_ref() != Some(&id));
        if foreign {
            c.note(Record::new(Rule::RaceForeign, "this primary does not take the free leader lock: its data belong to another cluster"));
        }
        return !foreign;
    }
    let newest = candidates::cluster_timeline(&c.view);
    if let (Monitor::Primary(primary), Some(newest)) = (&c.obs.server.monitor, newest)
        && primary.timeline < newest
    {
        let timeline = primary.timeline;
        c.warn(format!("My timeline {timeline} is behind last known cluster timeline {newest}"));
        candidates::note_old_timeline(c, timeline, newest);
        return false;
    }
    true
}

/// Rows K: a race after somebody asked for it and the old leader has stepped down. Nothing: no definite answer.
fn race_with_request(c: &mut Cycle<'_>, request: &FailoverRequest) -> Outcome<Option<bool>> {
    let action = action_word(Some(request));
    if let Some(candidate) = &request.candidate {
        // K1
        if candidate == c.me() {
            return Ok(Some(true));
        }
        if c.paused() {
            // K2
            if c.view.member(candidate).is_none() && c.is_primary() {
                let line = format!("{action}: removing failover key because failover candidate is not running");
                c.warn(line.clone());
                c.note(Record::new(Rule::RequestDropped, line).fact("candidate", candidate));
                c.clean_failover(true)?;
                return Ok(None);
            }
            // K3
            return stay_out(c, Rule::RaceForCandidate, "the request names another candidate").map(Some);
        }
        // K4
        let outsider = !c.view.sync.lists_or_leads(c.me());
        if c.cfg.synchronous_mode == SyncMode::On && outsider {
            c.info(format!("{action}: {} is not listed in the /sync key", c.me()));
            return not_listed(c).map(Some);
        }
        // K5, K6
        if candidate_is_able(c, candidate, action)? {
            return stay_out(c, Rule::RaceForCandidate, "the request names another candidate, which is able").map(Some);
        }
    } else if c.paused() {
        // K7
        return stay_out(c, Rule::RaceNoCandidate, "in maintenance mode a request must name its candidate").map(Some);
    }
    if request.leader.as_ref() == Some(c.me()) {
        // K8, K9: I stepped down. Leave it to the others if one of them is able; otherwise take it back.
        if candidates::failover_is_possible(c, Some(request), request.candidate.is_some())? {
            return stay_out(c, Rule::RaceSteppedDown, "it has stepped down, and others are able to take over").map(Some);
        }
        return Ok(Some(true));
    }
    // K10
    let electorate = Electorate::of(&c.view, c.cfg);
    let members: Vec<_> = c
        .view
        .members
        .iter()
        .filter(|member| member.name != *c.me() && request.leader.as_ref() != Some(&member.name))
        .filter(|member| electorate.as_ref().is_none_or(|electorate| electorate.lists(&member.name)))
        .cloned()
        .collect();
    let comparison = Comparison {
        members: &members,
        check_lag: false,
        former_leader: electorate.as_ref().and_then(|electorate| electorate.leader().cloned()),
        electorate: electorate.as_ref(),
        look_for_primaries: true,
        except: request.leader.clone(),
    };
    candidates::is_healthiest(c, &comparison).map(Some)
}

/// Whether the candidate that a request names answers and may promote.
fn candidate_is_able(c: &mut Cycle<'_>, candidate: &MemberName, action: &str) -> Outcome<bool> {
    let Some(member) = c.view.member(candidate).cloned() else {
        return Ok(false);
    };
    let Some(PeerTarget { name, api_url }) = target(&member) else {
        return Ok(false);
    };
    let answers = c.poll(&[PeerTarget { name, api_url }])?;
    let Some((_, answer)) = answers.first() else {
        return Ok(false);
    };
    let limitation = match answer {
        PeerAnswer::Status(status) => limitation(status, &member.record.tags, &known_lineage(c)),
        PeerAnswer::Unreachable => Some(NOT_REACHABLE),
    };
    match limitation {
        None => {
            c.info(format!("{action}: to {candidate}, i am {}", c.me()));
            Ok(true)
        }
        Some(limitation) => {
            c.warn(format!("{action}: member {candidate} is {limitation}"));
            Ok(false)
        }
    }
}

/// The question that takes a free lock.
pub(super) const ACQUIRE: Ask = Ask::AcquireLock;
