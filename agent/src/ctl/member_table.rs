//! The member table: printed by `list` and `topology`, and before and after most actions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use dcs_core::model::ClusterView;

use super::output::{EmptyValues, Format, Listing};
use super::summary::{Change, MemberSummary, Place, Summary};
use super::table::Align;
use super::topology;
use crate::config::yaml;

/// PostgreSQL's port, which is not worth showing.
const USUAL_PORT: u64 = 5432;
/// A changed parameter that takes more characters is not spelled out in a table.
const LONGEST_CHANGE: usize = 50;

/// What the table shows.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The cluster's name.
    pub name: &'a str,
    /// The Citus group, or that there is no Citus.
    pub group: Option<u32>,
    /// Whether restarts and tags are shown even if there are none.
    pub extended: bool,
    /// The format.
    pub format: Format,
}

/// A column of the member table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Cluster,
    Group,
    Member,
    Host,
    Role,
    State,
    Timeline,
    ReceiveLsn,
    ReceiveLag,
    ReplayLsn,
    ReplayLag,
    PendingRestart,
    PendingRestartReason,
    ScheduledRestart,
    Tags,
}

impl Field {
    fn heading(self, format: Format) -> (&'static str, Align) {
        match self {
            Self::Cluster => ("Cluster", Align::Left),
            Self::Group => ("Group", Align::Right),
            Self::Member => ("Member", Align::Left),
            Self::Host => ("Host", Align::Left),
            Self::Role => ("Role", Align::Left),
            Self::State => ("State", Align::Left),
            Self::Timeline => ("TL", Align::Right),
            Self::ReceiveLsn => ("Receive LSN", Align::Right),
            Self::ReplayLsn => ("Replay LSN", Align::Right),
            Self::ReceiveLag | Self::ReplayLag if format.is_drawn() => ("Lag", Align::Right),
            Self::ReceiveLag => ("Receive Lag", Align::Right),
            Self::ReplayLag => ("Replay Lag", Align::Right),
            Self::PendingRestart => ("Pending restart", Align::Left),
            Self::PendingRestartReason => ("Pending restart reason", Align::Left),
            Self::ScheduledRestart => ("Scheduled restart", Align::Left),
            Self::Tags => ("Tags", Align::Left),
        }
    }

    /// Whether the member has something to show in a column that is only there on demand.
    fn is_set_for(self, member: &MemberSummary) -> bool {
        match self {
            Self::PendingRestart => member.pending_restart,
            Self::PendingRestartReason => !member.changes.is_empty(),
            Self::ScheduledRestart => !member.scheduled_restart.is_empty(),
            Self::Tags => !member.tags.is_empty(),
            _ => true,
        }
    }
}

/// The table of one cluster as text, footer included.
pub fn render(view: &ClusterView, shown: Shown<'_>) -> String {
    let summary = Summary::of(view);
    let fields = fields(&summary, shown);
    let with_port = ports_matter(&summary);
    let members = match shown.format {
        Format::Topology => topology::arrange(summary.members),
        _ => summary.members,
    };
    let row = |member: &MemberSummary| fields.iter().map(|field| cell(*field, member, shown, with_port)).collect::<Vec<_>>();
    let listing = Listing {
        title: title(view, shown),
        columns: fields.iter().map(|field| field.heading(shown.format)).collect(),
        rows: members.iter().map(row).collect(),
    };
    let mut text = listing.render(shown.format, EmptyValues::LeftOut);
    if shown.format.is_drawn() {
        text.push_str(&footer(summary.paused, summary.switchover.as_ref()));
    }
    text
}

fn fields(summary: &Summary, shown: Shown<'_>) -> Vec<Field> {
    use Field::*;
    let mut fields = Vec::new();
    if !shown.format.is_drawn() {
        fields.push(Cluster);
        fields.extend(shown.group.map(|_| Group));
    }
    fields.extend([Member, Host, Role, State, Timeline, ReceiveLsn, ReceiveLag, ReplayLsn, ReplayLag]);
    for field in [PendingRestart, PendingRestartReason, ScheduledRestart, Tags] {
        let known_hosts = || summary.members.iter().filter(|member| member.address.is_some());
        if shown.extended || known_hosts().any(|member| field.is_set_for(member)) {
            fields.push(field);
        }
    }
    fields
}

/// Whether hosts are shown with their port: somebody has an unusual one, or two members share a host.
fn ports_matter(summary: &Summary) -> bool {
    let mut hosts = BTreeSet::new();
    let mut addresses = summary.members.iter().filter_map(|member| member.address.as_ref());
    addresses.any(|(host, port)| *port != USUAL_PORT || !hosts.insert(host))
}

fn cell(field: Field, member: &MemberSummary, shown: Shown<'_>, with_port: bool) -> Value {
    let positions = Positions::of(member);
    match field {
        Field::Cluster => json!(shown.name),
        Field::Group => json!(shown.group),
        Field::Member => json!(member.name),
        Field::Host => match &member.address {
            Some((host, port)) if with_port => json!(format!("{host}:{port}")),
            Some((host, _)) => json!(host),
            None => json!(""),
        },
        Field::Role => json!(role(&member.role)),
        Field::State => json!(member.state),
        Field::Timeline if member.timeline.is_null() => json!(""),
        Field::Timeline => member.timeline.clone(),
        Field::ReceiveLsn => positions.receive.0,
        Field::ReceiveLag => positions.receive.1,
        Field::ReplayLsn => positions.replay.0,
        Field::ReplayLag => positions.replay.1,
        Field::PendingRestart => json!(if member.pending_restart { "*" } else { "" }),
        Field::PendingRestartReason => json!(changes(member, shown.format)),
        Field::ScheduledRestart => json!(scheduled_restart(&member.scheduled_restart)),
        Field::Tags => tags(&member.tags, shown.format),
    }
}

/// The cells of position and lag.
struct Positions {
    receive: (Value, Value),
    replay: (Value, Value),
}

impl Positions {
    fn of(member: &MemberSummary) -> Self {
        let nothing = || (json!(""), json!(""));
        let Some(known) = &member.positions else { return Self { receive: nothing(), replay: nothing() } };
        let cells = |place: &Option<Place>| match place {
            Some(place) => (json!(place.lsn), json!(megabytes(place.lag))),
            None => (json!("unknown"), json!("")),
        };
        // Members of old versions publish one position; their state tells which one it is.
        match (&known.receive, &known.replay, &known.plain) {
            (None, None, plain @ Some(_)) if member.state == "streaming" => Self { receive: cells(plain), replay: cells(&None) },
            (None, None, plain @ Some(_)) => Self { receive: cells(&None), replay: cells(plain) },
            (receive, replay, _) => Self { receive: cells(receive), replay: cells(replay) },
        }
    }
}

/// Bytes as megabytes, half rounded to even.
fn megabytes(bytes: u64) -> u64 {
    const MEGABYTE: u64 = 1024 * 1024;
    let (whole, rest) = (bytes / MEGABYTE, bytes % MEGABYTE);
    match rest.cmp(&(MEGABYTE / 2)) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Equal => whole + whole % 2,
        std::cmp::Ordering::Greater => whole + 1,
    }
}

fn changes(member: &MemberSummary, format: Format) -> String {
    let line = |Change { name, old, new }: &Change| {
        let text = format!("{name}: {old}->{new}");
        let too_long = format.is_drawn() && text.chars().count() > LONGEST_CHANGE;
        if too_long { format!("{name}: [hidden - too long]") } else { text }
    };
    member.changes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `sync_standby` as `Sync Standby`.
fn role(word: &str) -> String {
    let capital = |part: &str| {
        let mut part = part.to_owned();
        if let Some(first) = part.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        part
    };
    word.split('_').map(capital).collect::<Vec<_>>().join(" ")
}

fn scheduled_restart(restart: &Map<String, Value>) -> String {
    let text = |name: &str| restart.get(name).map(super::python::text);
    let schedule = text("schedule").unwrap_or_default();
    match text("postgres_version") {
        Some(version) => format!("{schedule} if version < {version}"),
        None => schedule,
    }
}

fn tags(tags: &Map<String, Value>, format: Format) -> Value {
    if tags.is_empty() {
        return json!("");
    }
    let tags = Value::Object(tags.clone());
    match format {
        Format::Json | Format::Yaml => tags,
        Format::Pretty => json!(yaml::block(&tags).trim()),
        Format::Topology | Format::Tsv => json!(yaml::flow(&tags).trim()),
    }
}

fn title(view: &ClusterView, shown: Shown<'_>) -> String {
    let id = match view.initialize.as_deref() {
        None => "uninitialized",
        Some("") => "initializing",
        Some(id) => id,
    };
    match shown.group {
        Some(group) => format!(" Citus cluster: {} (group: {group}, {id}) ", shown.name),
        None => format!(" Cluster: {} ({id}) ", shown.name),
    }
}

fn footer(paused: bool, switchover: Option<&super::summary::PlannedSwitchover>) -> String {
    let mut text = String::new();
    if paused {
        text.push_str(" Maintenance mode: on\n");
    }
    if let Some(switchover) = switchover {
        text.push_str(&format!(" Switchover scheduled at: {}\n", switchover.at));
        for (word, name) in [("from", &switchover.from), ("to", &switchover.to)] {
            if let Some(name) = name {
                text.push_str(&format!("{word:>24}: {name}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests;
