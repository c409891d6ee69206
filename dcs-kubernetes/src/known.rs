//! What the last load told, so that a wait can end when something else is there.
//!
//! A watch reports objects, several of which hold more than one thing, and the leader's changes with every renewal. So what
//! is compared is what they say, not their versions. Own writes count as known as soon as they are confirmed.

use std::collections::BTreeMap;

use dcs_core::{Interest, MemberInterest, codec};

use crate::cache::Content;
use crate::object::{Names, Object, annotation};

/// What a load told, as far as anybody waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Who leads, and since when.
    pub(crate) leader: Option<(String, Option<String>)>,
    pub(crate) status: [Option<String>; 3],
    pub(crate) config: Option<String>,
    pub(crate) failover: [Option<String>; 3],
    pub(crate) sync: [Option<String>; 3],
    /// By name, what each member says.
    pub(crate) members: BTreeMap<String, Option<String>>,
}

impl Known {
    pub(crate) fn of(content: &Content) -> Self {
        let texts = |object: Option<&Object>, names: [&str; 3]| names.map(|name| text(object, name));
        let leader = content.leader.as_deref();
        let [failover, sync] = [content.failover.as_deref(), content.sync.as_deref()];
        Self {
            leader: content.holder.clone().map(|holder| (holder, text(leader, annotation::ACQUIRE_TIME))),
            status: texts(leader, [annotation::OPTIME, annotation::SLOTS, annotation::RETAIN_SLOTS]),
            config: text(content.config.as_deref(), annotation::CONFIG),
            failover: texts(failover, [annotation::LEADER, annotation::MEMBER, annotation::SCHEDULED_AT]),
            sync: texts(sync, [annotation::LEADER, annotation::SYNC_STANDBY, annotation::QUORUM]),
            members: content.pods.iter().map(|pod| (pod.metadata.name.clone(), text(Some(pod), annotation::STATUS))).collect(),
        }
    }

    /// The objects that say something else `now`, and which `me` wants to hear of.
    pub(crate) fn news<'a>(&self, now: &'a Self, interest: Interest, names: &'a Names, me: &str) -> Vec<&'a str> {
        let leader = self.leader != now.leader || (interest.status && self.status != now.status);
        let mut news = Vec::new();
        let objects = [
            (leader, &names.leader),
            (self.config != now.config, &names.config),
            (self.failover != now.failover, &names.failover),
            (interest.sync && self.sync != now.sync, &names.sync),
        ];
        news.extend(objects.into_iter().filter(|(changed, _)| *changed).map(|(_, name)| name.as_str()));
        let others = now.members.iter().filter(|(name, _)| *name != me);
        news.extend(others.filter(|(name, says)| self.tells(name, says.as_deref(), interest.members)).map(|(name, _)| name.as_str()));
        // Who is gone is named by whoever is left to be named: the lock's object stands for it.
        let gone = self.members.keys().any(|name| name != me && !now.members.contains_key(name));
        if gone && interest.members == MemberInterest::Any {
            news.push(&names.leader);
        }
        news
    }

    fn tells(&self, name: &str, says: Option<&str>, interest: MemberInterest) -> bool {
        match (interest, self.members.get(name)) {
            (MemberInterest::None, _) => false,
            (_, None) => true,
            (MemberInterest::Any, Some(before)) => before.as_deref() != says,
            (MemberInterest::States, Some(before)) => {
                before.as_deref() != says && before.as_deref().and_then(state) != says.and_then(state)
            }
        }
    }
}

fn text(object: Option<&Object>, name: &str) -> Option<String> {
    object.and_then(|object| object.annotation(name)).map(str::to_owned)
}

fn state(status: &str) -> Option<String> {
    codec::decode_member(status.as_bytes()).value.state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("s", None, false)
    }

    fn news(before: &Known, after: &Known, interest: Interest) -> Vec<String> {
        before.news(after, interest, &names(), "me").into_iter().map(str::to_owned).collect()
    }

    fn member(name: &str, says: &str) -> Known {
        Known { members: [(name.to_owned(), Some(says.to_owned()))].into(), ..Known::default() }
    }

    #[test]
    fn a_leader_that_comes_goes_or_comes_again_is_news_for_everybody() {
        let led = |since: &str| Known { leader: Some(("a".to_owned(), Some(since.to_owned()))), ..Known::default() };
        for interest in [Interest::LEADER, Interest::FOLLOWER] {
            assert_eq!(news(&Known::default(), &led("1"), interest), ["s-leader"]);
            assert_eq!(news(&led("1"), &Known::default(), interest), ["s-leader"]);
            assert_eq!(news(&led("1"), &led("2"), interest), ["s-leader"]);
            assert!(news(&led("1"), &led("1"), interest).is_empty());
        }
    }

    #[test]
    fn a_position_is_news_for_followers_only() {
        let at = |position: &str| Known { status: [Some(position.to_owned()), None, None], ..Known::default() };
        assert_eq!(news(&at("1"), &at("2"), Interest::FOLLOWER), ["s-leader"]);
        assert!(news(&at("1"), &at("2"), Interest::LEADER).is_empty());
    }

    #[test]
    fn members_are_news_when_they_appear_or_change_state_and_never_are_ourselves() {
        let (running, moved, stopped) = (r#"{"state":"running"}"#, r#"{"state":"running","xlog_location":5}"#, r#"{"state":"stopped"}"#);
        assert_eq!(news(&Known::default(), &member("b", running), Interest::LEADER), ["b"]);
        assert_eq!(news(&member("b", running), &member("b", stopped), Interest::LEADER), ["b"]);
        assert!(news(&member("b", running), &member("b", moved), Interest::LEADER).is_empty());
        assert!(news(&member("me", running), &member("me", stopped), Interest::LEADER).is_empty());
        let any = Interest { members: MemberInterest::Any, ..Interest::LEADER };
        assert_eq!(news(&member("b", running), &member("b", moved), any), ["b"]);
        assert_eq!(news(&member("b", running), &Known::default(), any), ["s-leader"]);
        assert!(news(&member("b", running), &Known::default(), Interest::LEADER).is_empty());
    }
}
